package serve

import (
	"bufio"
	"context"
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"log/slog"
	"time"

	"github.com/quic-go/quic-go"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// requestTimeout bounds the wait for a request on a stream that a client opened, and each write
// of a reply.
const requestTimeout = 10 * time.Second

// A serverRequest is one stream that a client opened for a request. One goroutine uses it.
type serverRequest struct {
	server  *Server
	session *kwik.ServerSession
	stream  *kwik.Stream
	log     *slog.Logger
	// listings holds an element for each listing that runs in the session. It is shared by the
	// session's requests.
	listings chan struct{}
}

// serve reads the request and responds. It returns when the client has released the content that
// it requested.
func (q *serverRequest) serve(ctx context.Context) {
	start := time.Now()
	memory := &charge{session: q.session}
	defer memory.release()
	request, err := q.read(start.Add(requestTimeout), memory)
	ofRequest := memory.bytes
	if memory.refused != nil {
		q.log.Info("refused", "outcome", memory.refused)
		q.fail(replyWriter{stream: q.stream}, memory.refused)
		return
	}
	if err != nil {
		q.log.Debug("request not understood", "err", err)
		q.stream.CancelWrite(kwik.StreamErrorCode(kwik.ErrMetadataProtocolViolation))
		return
	}
	log := q.log.With("path", string(request.GetPath()))
	if request.GetList() != nil {
		select {
		case q.listings <- struct{}{}:
			defer func() { <-q.listings }()
		case <-q.session.Context().Done():
			return
		case <-ctx.Done():
			return
		}
	}
	content, err := q.respond(ctx, log, request, memory)
	if err != nil {
		log = log.With("seconds", time.Since(start).Seconds(), "outcome", err)
		_, clientLeft := errors.AsType[sendError](err)
		switch {
		case clientLeft:
			log.Debug("response not taken")
		case isServersFault(err):
			log.Warn("refused")
		default:
			log.Info("refused")
		}
		return
	}
	log = log.With("size", content.size)
	log.Debug("serving")
	sent, outcome := int64(0), "done"
	if content.stream != nil {
		memory.sub(ofRequest)
		<-content.stream.Context().Done()
		sent, outcome = content.stream.Sent(), outcomeOf(context.Cause(content.stream.Context()))
	}
	log.Info("served", "bytes", sent, "seconds", time.Since(start).Seconds(),
		"sources", 1+q.session.Secondaries(), "outcome", outcome)
}

// read reads the request, which is all that the server reads from the stream. It charges the memory
// before it takes it. The error is kwik.ErrServerBusy if the client may have no more.
func (q *serverRequest) read(deadline time.Time, memory *charge) (*transferpb.Request, error) {
	q.stream.SetReadDeadline(deadline)
	request := &transferpb.Request{}
	err := memory.add(requestMemory)
	if err == nil {
		err = wire.ReadCharged(bufio.NewReaderSize(q.stream, 512), request, memory.add)
	}
	q.stream.CancelRead(kwik.StreamErrorCode(kwik.NoError)) // nothing may follow
	return request, err
}

// respond writes the whole response, or a Failure. The Failure has the returned error's code.
func (q *serverRequest) respond(
	ctx context.Context, log *slog.Logger, request *transferpb.Request, memory *charge,
) (servedContent, error) {
	w := replyWriter{stream: q.stream, log: log, size: q.session.MessageSize(), memory: memory}
	end, err := q.server.limit.begin(q.stream.Context(), q.session.ClientPrefix())
	if err != nil {
		q.stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
		return servedContent{}, sendError{err}
	}
	defer end()
	content, err := q.server.respond(ctx, q.session, w, request)
	if err == nil {
		return content, q.stream.Close()
	}
	q.fail(w, err)
	return content, err
}

// fail writes the Failure of an error and ends the stream.
func (q *serverRequest) fail(w replyWriter, err error) {
	if w.send(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: failureOf(err)}}) == nil {
		q.stream.Close()
	} else {
		q.stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
	}
}

// outcomeOf returns the log's word for the end of a client's stream. "done" means that the client
// released the stream or closed the session. Only the client knows how much of the file it has.
func outcomeOf(cause error) string {
	e, isClose := errors.AsType[*quic.ApplicationError](cause)
	isOrderly := isClose && e.ErrorCode == quic.ApplicationErrorCode(kwik.NoError)
	switch {
	case errors.Is(cause, context.Canceled), isOrderly && e.Remote:
		return "done"
	case isOrderly:
		return "stopped" // by this server
	}
	return "lost: " + lossOf(cause)
}

// lossOf returns a short text for the reason why a connection was lost.
func lossOf(cause error) string {
	if e, ok := errors.AsType[*kwik.Error](cause); ok && e.Message != "" {
		return e.Message
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](cause); ok {
		return "the client fell silent"
	}
	return cause.Error()
}
