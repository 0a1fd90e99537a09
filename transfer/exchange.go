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

// A exchange is one request on a plain stream and the answers to it. It is used by one goroutine.
type exchange struct {
	op     string
	path   string
	stream *kwik.Stream
	r      *bufio.Reader
}

// exchange sends a request, which on a new session travels with Hello, and returns when the primary has accepted the session. op says what
// the request is for. The caller closes it.
func (r *request) startExchange(ctx context.Context, op string, deadline time.Time, request *transferpb.Request) (*exchange, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	x, failed := r.send(ctx, op, request)
	if err := r.session.Welcomed(ctx); err != nil { // says why a request failed, too
		if failed == nil {
			x.close()
		}
		return nil, r.connectError(err)
	}
	if failed != nil {
		return nil, NetworkError(op, failed)
	}
	return x, nil
}

func (r *request) send(ctx context.Context, op string, request *transferpb.Request) (*exchange, error) {
	stream, err := r.session.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	x := &exchange{op: op, path: r.url.Path, stream: stream, r: bufio.NewReaderSize(stream, 16<<10)}
	defer context.AfterFunc(ctx, func() { stream.SetWriteDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(stream, request); err != nil {
		x.close()
		return nil, err
	}
	stream.Close() // fails if the server has read the request and stopped reading; the answer says the rest
	return x, nil
}

// next waits for the next answer. A Failure is an error.
func (x *exchange) next(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	x.stream.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() { x.stream.SetReadDeadline(time.Unix(1, 0)) })()
	reply := &transferpb.Reply{}
	if err := wire.ReadMessage(x.r, reply); err != nil {
		return nil, x.failed(err)
	}
	if f := reply.GetFailure(); f != nil {
		return nil, &Error{Kind: kindOfFailure(f), Op: x.op, Err: &RemoteError{Path: x.path, Message: f.GetMessage()}}
	}
	return reply, nil
}

// failed wraps an error of reading an answer: the network's, or what came is none.
func (x *exchange) failed(err error) error {
	_, tooLarge := errors.AsType[*protodelim.SizeTooLargeError](err)
	switch {
	case tooLarge, errors.Is(err, proto.Error):
		return x.malformed(err)
	case err == io.EOF:
		err = io.ErrUnexpectedEOF // more was due
	}
	return NetworkError(x.op, err)
}

// unexpected is the error of an answer of another kind than is due.
func (x *exchange) unexpected(reply *transferpb.Reply) error {
	return x.malformed(fmt.Errorf("unexpected answer %T", reply.GetReply()))
}

// malformed is the error of an answer that no server of ours would give.
func (x *exchange) malformed(err error) error {
	return &Error{Kind: KindOther, Op: x.op, Err: fmt.Errorf("the answer makes no sense: %w", err)}
}

// close ends the exchange, at whatever point it is.
func (x *exchange) close() {
	x.stream.CancelRead(kwik.StreamErrorCode(kwik.NoError))
	x.stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
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
