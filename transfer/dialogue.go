package transfer

import (
	"bufio"
	"context"
	"fmt"
	"time"

	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
)

// A dialogue is one request on a plain stream and the answers to it.
type dialogue struct {
	op     string
	path   string
	stream *kwik.Stream
	r      *bufio.Reader
	stop   func() bool // of the watch over ctx
}

// dialogue sends a request on a session that is open. op says what it is for. The caller closes it.
func (q *inquiry) dialogue(ctx context.Context, op string, request *transferpb.Request) (*dialogue, error) {
	opening, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	stream, err := q.session.OpenStreamSync(opening)
	if err != nil {
		return nil, NetworkError(op, err)
	}
	d := &dialogue{op: op, path: q.url.Path, stream: stream, r: bufio.NewReaderSize(stream, 16<<10)}
	d.stop = context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })
	stream.SetWriteDeadline(time.Now().Add(q.timeout))
	if err := writeMessage(stream, request); err != nil {
		d.close()
		return nil, NetworkError(op, err)
	}
	stream.Close() // fails if the server has read the request and stopped reading; the answer says the rest
	return d, nil
}

// next waits for the next answer. A Failure is an error.
func (d *dialogue) next(timeout time.Duration) (*transferpb.Reply, error) {
	d.stream.SetReadDeadline(time.Now().Add(timeout))
	reply := &transferpb.Reply{}
	if err := readMessage(d.r, reply); err != nil {
		return nil, answerError(d.op, err)
	}
	if f := reply.GetFailure(); f != nil {
		return nil, &Error{Kind: kindOfFailure(f), Op: d.op, Err: &RemoteError{Path: d.path, Message: f.GetMessage()}}
	}
	return reply, nil
}

// nonsense is the error of an answer that no server of ours would give.
func (d *dialogue) nonsense(err error) error {
	return &Error{Kind: KindOther, Op: d.op, Err: fmt.Errorf("the answer makes no sense: %w", err)}
}

// close ends the dialogue, at whatever point it is.
func (d *dialogue) close() {
	d.stop()
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
