package kwik

import (
	"context"
	"fmt"
	"io"
)

// A Content is the bytes of one aggregate stream, as one server holds them. One goroutine per
// client calls ReadAt, which must return exactly the requested bytes or an error. The error ends
// this server's part in the stream. Its text is sent to the client, with the code
// ErrContentChanged or ErrServerBusy if it is of that code. Close is called when the client needs
// nothing more.
type Content interface {
	io.ReaderAt
	io.Closer
}

// A PartialContent is a Content of which this server may lack bytes. Missing is called once,
// before ReadAt. Clients request nothing of the ranges that it returns, nor of any unit that
// overlaps one.
type PartialContent interface {
	Content
	Missing() []MissingRange
}

// A Prefetcher is a Content that can fetch bytes before they are read, because they are on another
// machine.
type Prefetcher interface {
	Content
	// Prefetch tells that the bytes [start, end) will be read soon. A server calls it for each
	// range that its client requests, and for a head start, before the first ReadAt of the range.
	// It calls it for a range again if it opens the content again. The ranges of several requests
	// may be announced before the first is read. The client may release a range, which is then
	// read in part or not at all. The goroutine that calls ReadAt calls Prefetch, without a lock.
	// Prefetch must not block.
	Prefetch(start, end int64)
}

// A MissingRange is the bytes [Start, End) of a content, which this server does not have. ReadAt
// returns one as its error when the server has lost them; the server then continues with the
// other bytes.
type MissingRange struct {
	Start, End int64
	// Err is the cause. Its text is sent to the client.
	Err error
}

func (l *MissingRange) Error() string {
	return fmt.Sprintf("bytes [%d, %d) are not here: %v", l.Start, l.End, l.Err)
}

// Unwrap returns the cause.
func (l *MissingRange) Unwrap() error { return l.Err }

// A ContentRequest names the content of an aggregate stream.
type ContentRequest struct {
	// Descriptor is the one that the primary passed to OpenAggregateStream. A secondary receives
	// it from the client, with a ticket of the primary that authenticates it.
	Descriptor []byte
	// Size is the size of the stream, in bytes.
	Size int64
	// Session is the client's session at this server. It is nil if the primary asks this
	// secondary to prove its bytes (ServerConfig.Verify).
	Session *ServerSession
}

// An OpenContentFunc opens the content of an aggregate stream. If it fails, this server does not
// serve the stream. The server sends the error's text to the client, and the code
// ErrContentChanged or ErrServerBusy if the error has it. So the text should contain nothing that
// is secret from clients. ctx ends when the client releases the server.
type OpenContentFunc func(ctx context.Context, r ContentRequest) (Content, error)
