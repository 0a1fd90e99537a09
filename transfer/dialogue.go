package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A dialogue is one request on a plain stream and the answers to it. It is used by one goroutine.
type dialogue struct {
	op     string
	path   string
	stream *kwik.Stream
	r      *bufio.Reader
}

// dialogue sends a request, which on a new session travels with Hello, and returns when the primary has accepted the session. op says what
// the request is for. The caller closes it.
func (q *inquiry) dialogue(ctx context.Context, op string, deadline time.Time, request *transferpb.Request) (*dialogue, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	d, failed := q.request(ctx, op, request)
	if err := q.session.Welcomed(ctx); err != nil { // says why a request failed, too
		if failed == nil {
			d.close()
		}
		return nil, q.connectError(err)
	}
	if failed != nil {
		return nil, NetworkError(op, failed)
	}
	return d, nil
}

func (q *inquiry) request(ctx context.Context, op string, request *transferpb.Request) (*dialogue, error) {
	stream, err := q.session.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	d := &dialogue{op: op, path: q.url.Path, stream: stream, r: bufio.NewReaderSize(stream, 16<<10)}
	defer context.AfterFunc(ctx, func() { stream.SetWriteDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(stream, request); err != nil {
		d.close()
		return nil, err
	}
	stream.Close() // fails if the server has read the request and stopped reading; the answer says the rest
	return d, nil
}

// next waits for the next answer. A Failure is an error.
func (d *dialogue) next(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	d.stream.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() { d.stream.SetReadDeadline(time.Unix(1, 0)) })()
	reply := &transferpb.Reply{}
	if err := wire.ReadMessage(d.r, reply); err != nil {
		return nil, d.failed(err)
	}
	if f := reply.GetFailure(); f != nil {
		return nil, &Error{Kind: kindOfFailure(f), Op: d.op, Err: &RemoteError{Path: d.path, Message: f.GetMessage()}}
	}
	return reply, nil
}

// failed wraps an error of reading an answer: the network's, or what came is none.
func (d *dialogue) failed(err error) error {
	_, tooLarge := errors.AsType[*protodelim.SizeTooLargeError](err)
	switch {
	case tooLarge, errors.Is(err, proto.Error):
		return d.nonsense(err)
	case err == io.EOF:
		err = io.ErrUnexpectedEOF // more was due
	}
	return NetworkError(d.op, err)
}

// unexpected is the error of an answer of another kind than is due.
func (d *dialogue) unexpected(reply *transferpb.Reply) error {
	return d.nonsense(fmt.Errorf("unexpected answer %T", reply.GetReply()))
}

// nonsense is the error of an answer that no server of ours would give.
func (d *dialogue) nonsense(err error) error {
	return &Error{Kind: KindOther, Op: d.op, Err: fmt.Errorf("the answer makes no sense: %w", err)}
}

// close ends the dialogue, at whatever point it is.
func (d *dialogue) close() {
	d.stream.CancelRead(kwik.StreamErrorCode(kwik.NoError))
	d.stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
}

// kindOfFailure says what a refusal means to a script.
func kindOfFailure(f *transferpb.Failure) Kind {
	switch f.GetCode() {
	case transferpb.Failure_NOT_FOUND, transferpb.Failure_NOT_A_FILE:
		return KindNotFound
	case transferpb.Failure_CHANGED:
		return KindChanged
	case transferpb.Failure_BUSY:
		return KindNetwork
	}
	return KindOther
}
