package serve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"log/slog"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// requestTimeout bounds the wait for a request on a stream that a client opened, and each write of an answer.
const requestTimeout = 10 * time.Second

// A Server serves the regular files below a directory, in either role: its OpenContent goes into the listener's kwik.ServerConfig,
// and Serve answers the clients' requests.
type Server struct {
	dir    disk.Dir
	log    *slog.Logger
	index  *index
	packs  packs
	names  *namesLimit
	cancel context.CancelFunc
}

// NewServer returns a server of the files below dir, which stays the caller's.
func NewServer(dir disk.Dir, log *slog.Logger) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{dir: dir, log: log, index: newIndex(ctx, log), names: newNamesLimit(), cancel: cancel}
}

// KeepTrees has the server keep what it computes in a store, which stays the caller's, and use what is there. It must precede Serve.
func (s *Server) KeepTrees(store *TreeStore) {
	s.index.store = store
	s.index.wg.Go(func() {
		if err := store.sweep(s.dir); err != nil {
			s.log.Warn("index of trees not cleaned up", "err", err)
		}
	})
}

// Close ends what the server computes and waits for it. Serve must have returned.
func (s *Server) Close() {
	s.cancel()
	s.index.wg.Wait()
}

// Serve answers the clients of a listener until ctx ends or the listener is closed; then it closes the listener, waits
// for every client's goroutines, and returns nil.
func (s *Server) Serve(ctx context.Context, l *kwik.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	for {
		session, err := l.Accept(ctx)
		if err != nil {
			return nil
		}
		wg.Go(func() { s.serveSession(ctx, session) })
	}
}

func (s *Server) serveSession(ctx context.Context, session *kwik.ServerSession) {
	var wg sync.WaitGroup
	defer wg.Wait()
	log := s.log.With("client", session.RemoteAddr().String(), "session", session.ID().String()[:8])
	log.Debug("client connected")
	listings := make(chan struct{}, maxListings)
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			log.Debug("client gone", "reason", err)
			return
		}
		wg.Go(func() { s.serveRequest(ctx, log, session, stream, listings) })
	}
}

// serveRequest answers one request and stays until the client has released what it asked for. listings has an element for each listing of the
// session that is under way.
func (s *Server) serveRequest(ctx context.Context, log *slog.Logger, session *kwik.ServerSession, stream *kwik.Stream, listings chan struct{}) {
	start := time.Now()
	stream.SetReadDeadline(start.Add(requestTimeout))
	request := &transferpb.Request{}
	err := wire.ReadMessage(bufio.NewReaderSize(stream, 512), request)
	stream.CancelRead(kwik.StreamErrorCode(kwik.NoError)) // nothing may follow
	if err != nil {
		log.Warn("request not understood", "err", err)
		stream.CancelWrite(kwik.StreamErrorCode(kwik.ErrMetadataProtocolViolation))
		return
	}
	log = log.With("path", string(request.GetPath()))
	if request.GetList() != nil {
		select {
		case listings <- struct{}{}:
			defer func() { <-listings }()
		case <-session.Context().Done():
			return
		case <-ctx.Done():
			return
		}
	}
	offer, err := s.answer(ctx, session, stream, request)
	if err != nil {
		log.Info("refused", "seconds", time.Since(start).Seconds(), "outcome", err)
		return
	}
	log = log.With("size", offer.size)
	log.Debug("serving")
	sent, outcome := int64(0), "done"
	if offer.stream != nil {
		<-offer.stream.Context().Done()
		sent, outcome = offer.stream.Sent(), outcomeOf(context.Cause(offer.stream.Context()))
	}
	log.Info("served", "bytes", sent, "seconds", time.Since(start).Seconds(), "sources", 1+session.Secondaries(), "outcome", outcome)
}

// outcomeOf says in a log how it ended that a client was served: it was done with the stream or with the session, the connection was
// lost, or this server stopped. What the client has of the file only the client knows.
func outcomeOf(cause error) string {
	e, closed := errors.AsType[*quic.ApplicationError](cause)
	switch {
	case errors.Is(cause, context.Canceled), closed && e.Remote && e.ErrorCode == quic.ApplicationErrorCode(kwik.NoError):
		return "done"
	case closed && !e.Remote && e.ErrorCode == quic.ApplicationErrorCode(kwik.NoError):
		return "stopped"
	}
	return "lost: " + lossOf(cause)
}

// lossOf says in few words how a connection was lost.
func lossOf(cause error) string {
	if e, ok := errors.AsType[*kwik.Error](cause); ok && e.Message != "" {
		return e.Message
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](cause); ok {
		return "the client fell silent"
	}
	return cause.Error()
}

// answer writes the whole answer to a request. Its error has been sent to the client.
func (s *Server) answer(ctx context.Context, session *kwik.ServerSession, stream *kwik.Stream, request *transferpb.Request) (offered, error) {
	w := answerWriter{stream}
	offer, err := s.offer(ctx, session, w, request)
	if err == nil {
		return offer, stream.Close()
	}
	failure := &transferpb.Failure{Code: failureCode(err), Message: failureMessage(err)}
	if w.send(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: failure}}) == nil {
		stream.Close()
	} else {
		stream.CancelWrite(kwik.StreamErrorCode(kwik.NoError))
	}
	return offer, err
}

// An answerWriter sends replies, none of which may take longer than requestTimeout.
type answerWriter struct{ stream *kwik.Stream }

func (w answerWriter) send(r *transferpb.Reply) error {
	w.stream.SetWriteDeadline(time.Now().Add(requestTimeout))
	return wire.WriteMessage(w.stream, r)
}

var errVersion = errors.New("this server speaks version 1 of the file protocol")

func failureCode(err error) transferpb.Failure_Code {
	switch {
	case errors.Is(err, disk.ErrNotAFile):
		return transferpb.Failure_NOT_A_FILE
	case errors.Is(err, kwik.ErrContentChanged):
		return transferpb.Failure_CHANGED
	case errors.Is(err, errVersion), errors.Is(err, errRequest):
		return transferpb.Failure_BAD_REQUEST
	case errors.Is(err, kwik.ErrSecondaryStreamOverflow), errors.Is(err, errTooMuch), errors.Is(err, errBusy):
		return transferpb.Failure_BUSY
	case isFileError(err):
		return transferpb.Failure_NOT_FOUND
	}
	return transferpb.Failure_OTHER
}

// isFileError reports whether a file could not be opened or read. A client hears the same of each: whether a file is missing,
// forbidden or leads outside the root is nobody's business.
func isFileError(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF)
}

// failureMessage is what the client is told.
func failureMessage(err error) string {
	switch failureCode(err) {
	case transferpb.Failure_NOT_FOUND:
		return "no such file on the server"
	case transferpb.Failure_NOT_A_FILE:
		return "it is not a regular file on the server"
	case transferpb.Failure_CHANGED:
		return "the file changed on the server while it was read"
	case transferpb.Failure_BAD_REQUEST:
		if errors.Is(err, errRequest) {
			return errRequest.Error()
		}
		return errVersion.Error()
	case transferpb.Failure_BUSY:
		return "the server has too much to do for this client"
	}
	return "the server failed"
}
