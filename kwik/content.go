package kwik

import (
	"context"
	"fmt"
	"io"
)

// A Content is the bytes of one aggregate stream, as one server holds them. ReadAt is called by one goroutine at a time
// per client; it must return exactly the bytes asked for or an error, which is sent to the client as the reason why
// this server stops serving the stream, with the code ErrContentChanged if the error is one. Close is called when the client needs nothing more.
type Content interface {
	io.ReaderAt
	io.Closer
}

// A PartialContent is a Content of which this server may lack bytes. Lacks is called once, before ReadAt; of what it returns, and of
// every unit of proof that is partly in it, nothing is asked for.
type PartialContent interface {
	Content
	Lacks() []Lack
}

// A Lack is bytes of a content that this server does not have, [Start, End). As an error of ReadAt it says that the server does not have
// them any more; it goes on serving the others.
type Lack struct {
	Start, End int64
	// Err is why; the client is told.
	Err error
}

func (l *Lack) Error() string {
	return fmt.Sprintf("bytes [%d, %d) are not here: %v", l.Start, l.End, l.Err)
}

// Unwrap returns the cause.
func (l *Lack) Unwrap() error { return l.Err }

// A ContentRequest is what a client, or rather the primary through it, wants to have opened.
type ContentRequest struct {
	// Descriptor is what the primary gave to OpenAggregateStream. A secondary gets it from the client, with a ticket that
	// shows that it is the primary's.
	Descriptor []byte
	// Size is the size of the stream, in bytes.
	Size int64
	// Session is the client's session at this server; nil if it is the primary that asks a secondary for a proof (ServerConfig.Verify).
	Session *ServerSession
}

// An OpenContentFunc opens the content of an aggregate stream. Its error is sent to the client as the reason why this
// server does not serve the stream, with the code ErrContentChanged if the error is one; it should tell nothing that a
// client may not know. ctx ends with the attachment.
type OpenContentFunc func(ctx context.Context, r ContentRequest) (Content, error)
