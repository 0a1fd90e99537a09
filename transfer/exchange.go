package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// An exchange is one request on a QUIC stream and the replies to it. It is used by one goroutine.
type exchange struct {
	op     string
	path   string
	stream *kwik.Stream
	stall  *stallWatch
	// isAnswering reports whether the primary can be reached.
	isAnswering  func() bool
	serveTimeout time.Duration
	isUnserved   atomic.Bool // endUnserved ended the wait
	in           *bufio.Reader
	// progress bounds the replies of a batch or listing. A request for one file has its own.
	progress progressLimit
}

// startExchange sends a request and returns when the primary has accepted the session. On a new
// session the request travels with Hello. Errors name op. The caller closes the exchange.
func (r *request) startExchange(
	ctx context.Context, op string, deadline time.Time, message *transferpb.Request,
) (*exchange, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer r.stall.wait()()
	x, failed := r.send(ctx, op, message)
	if err := r.session.Welcomed(ctx); err != nil { // also explains why a request could not be sent
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

// send opens a stream and writes the only message on it.
func (r *request) send(ctx context.Context, op string, message *transferpb.Request) (*exchange, error) {
	stream, err := r.session.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	x := &exchange{op: op, path: r.url.Path, stream: stream, stall: r.stall,
		isAnswering: r.session.IsAnswering, serveTimeout: max(serveTimeout, r.timeout),
		in: bufio.NewReaderSize(stream, 16<<10)}
	defer context.AfterFunc(ctx, func() { stream.SetWriteDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(stream, message); err != nil {
		x.close()
		return nil, err
	}
	stream.Close() // fails if the server read the request and stopped reading; its reply still arrives
	return x, nil
}

// next blocks until the next reply. A Failure is an error.
func (x *exchange) next(ctx context.Context, deadline time.Time) (*transferpb.Reply, error) {
	defer x.stall.wait()()
	x.stream.SetReadDeadline(deadline)
	defer x.endUnserved()()
	defer context.AfterFunc(ctx, func() { x.stream.SetReadDeadline(time.Unix(1, 0)) })()
	reply := &transferpb.Reply{}
	if err := wire.ReadMessage(x.in, reply); err != nil {
		return nil, x.failed(err)
	}
	x.stall.progress(0)
	if f := reply.GetFailure(); f != nil {
		return nil, &Error{Kind: kindOfFailure(f.GetCode()), Op: x.op, Err: refusedBy(f, x.path)}
	}
	return reply, nil
}

// endUnserved ends the wait for a reply after serveTimeout in a row in which the primary could be
// reached. It was not reached in an outage, which has the deadline of the reply. stop ends the
// watch.
func (x *exchange) endUnserved() (stop func()) {
	const interval = time.Second
	var mu sync.Mutex // guards the rest
	var stopped bool
	var unserved time.Duration
	var timer *time.Timer
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		if x.isAnswering() {
			unserved += interval
		} else {
			unserved = 0 // a link that fails again and again serves nothing either
		}
		if unserved >= x.serveTimeout {
			x.isUnserved.Store(true)
			x.stream.SetReadDeadline(time.Unix(1, 0))
			return
		}
		timer.Reset(interval)
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(interval, check)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// failed wraps an error of reading a reply: of the network, or of a message that does not parse.
func (x *exchange) failed(err error) error {
	_, tooLarge := errors.AsType[*protodelim.SizeTooLargeError](err)
	switch {
	case tooLarge, errors.Is(err, proto.Error):
		return x.malformed(err)
	case x.isUnserved.Load(), errors.Is(err, os.ErrDeadlineExceeded) && x.isAnswering():
		return &Error{Kind: KindNetwork, Op: x.op, Err: errUnserved}
	case err == io.EOF:
		err = io.ErrUnexpectedEOF // the last reply had not arrived
	}
	return NetworkError(x.op, err)
}

// unexpected returns the error of a reply of the wrong kind.
func (x *exchange) unexpected(reply *transferpb.Reply) error {
	return x.malformed(fmt.Errorf("unexpected answer %T", reply.GetReply()))
}

// malformed returns the error of a reply that breaks the protocol.
func (x *exchange) malformed(err error) error {
	return &Error{Kind: KindOther, Op: x.op, Err: fmt.Errorf("the answer makes no sense: %w", err)}
}

// malformedOr returns err if it is an *Error, and otherwise the error of a reply that breaks the
// protocol.
func (x *exchange) malformedOr(err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return x.malformed(err)
}

// close ends the exchange. Replies that were not read are discarded.
func (x *exchange) close() {
	x.stream.CancelRead(kwik.StreamErrorCode(kwik.NoError))
	x.stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
}

// remoteError returns the error of a refusal.
func remoteError(path string, f *transferpb.Failure) *RemoteError {
	return &RemoteError{Path: path, Message: f.GetMessage(), Busy: f.GetCode() == transferpb.Failure_BUSY}
}

// kindOfFailure returns the kind of a refusal.
func kindOfFailure(code transferpb.Failure_Code) Kind {
	switch code {
	case transferpb.Failure_NOT_FOUND, transferpb.Failure_NOT_A_FILE:
		return KindNotFound
	case transferpb.Failure_CHANGED:
		return KindChanged
	case transferpb.Failure_BUSY:
		return KindNetwork
	case transferpb.Failure_FORBIDDEN:
		return KindRefused
	}
	return KindOther
}
