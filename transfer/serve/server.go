package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/internal/logs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"log/slog"
	"sync"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A Server serves the regular files below a directory, in either role. Its OpenContent belongs
// into the kwik.ServerConfig of the listener that is given to Serve. So do its Verify, Recheck and
// ChallengeDescriptor if the server is a primary.
//
// The methods of a Server are safe for concurrent use, except for KeepTrees and Close.
type Server struct {
	dir      source.Dir // shows visible names only
	caps     source.Caps
	visible  *visibility
	log      *slog.Logger
	index    *index
	batches  *servedBatches
	tiny     *tinySlots
	opened   *openFiles
	names    *namesLimit
	access   *Access // nil: clients are not restricted
	mirrors  []*transferpb.WebMirror
	limit    *requestLimit
	rechecks rechecks
	suspects suspects
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	tasks    sync.WaitGroup // goroutines of the server that end with ctx
}

// NewServer returns a server of the files of a root. It does not serve part files, and the root
// should be without secrets: see [disk.Secrets.Hide]. Close must be called to release what the
// server uses. The caller closes root, after Close. The server bounds the length of the lines that
// it writes to log, and the lines that clients cause.
func NewServer(root source.Root, log *slog.Logger) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	log = slog.New(logs.NewHandler(log.Handler()))
	visible, caps := &visibility{}, root.Caps()
	return &Server{
		dir: newVisible(root, visible), caps: caps, visible: visible, log: log, index: newIndex(ctx, log),
		batches: newServedBatches(), names: newNamesLimit(), tiny: newTinySlots(caps.Parallel),
		opened: newOpenFiles(caps.IsRemote), limit: newRequestLimit(), ctx: ctx, cancel: cancel,
	}
}

// Close stops the hashing of files and waits until it has stopped. Serve must have returned.
func (s *Server) Close() {
	s.cancel()
	s.tasks.Wait()
	s.index.jobs.Wait()
	s.names.close()
}

// Serve responds to the clients of a listener until ctx ends or the listener is closed. Then it
// closes the listener, waits for the goroutines of all clients, and returns nil.
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
	log := s.logOf(session)
	leave, err := s.access.enter(session)
	defer leave()
	if err != nil {
		session.Revoke(err.Error())
	}
	log.Debug("client connected")
	listings := make(chan struct{}, maxListings)
	rate := sessionRequestRate{limit: s.limit, prefix: session.ClientPrefix()}
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			log.Debug("client gone", "reason", err)
			return
		}
		if err := rate.pause(session.Context()); err != nil {
			continue
		}
		q := &serverRequest{server: s, session: session, stream: stream, log: log, listings: listings}
		wg.Go(func() { session.Contain(func() { q.serve(ctx) }) })
	}
}

// logOf returns the log of a client's session. Without a session it is the server's: the primary
// requests the content.
func (s *Server) logOf(session *kwik.ServerSession) *slog.Logger {
	if session == nil {
		return s.log
	}
	log := s.log.With("client", session.RemoteAddr().String(), "session", session.ID().String()[:8])
	return logGrant(log, session)
}

// claim returns a client's claim to the index entry of a version of a file. The caller releases it.
func (s *Server) claim(c client, path string, version disk.Version) *claim {
	return s.index.claim(c, path, version, func(ctx context.Context) (source.Object, error) {
		return s.dir.Open(ctx, path)
	})
}

// hash returns the tree of a version of a file, from the index. It waits until the file is hashed
// or ctx ends.
func (s *Server) hash(ctx context.Context, c client, path string, version disk.Version) (*integrity.Tree, error) {
	claim := s.claim(c, path, version)
	defer claim.release()
	select {
	case <-claim.done:
		return claim.tree, claim.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// endReads lets the reads of an object that run end with ctx, if they may wait for a network: it
// closes the object. The caller calls stop before it closes the object.
func (s *Server) endReads(ctx context.Context, f source.Object) (stop func() bool) {
	if !s.caps.IsRemote {
		return func() bool { return false }
	}
	return context.AfterFunc(ctx, func() { f.Close() })
}

// hashesCopies reports whether the server hashes its files to compare them with those of a
// primary. A secondary of a remote root would fetch each byte for that alone. The clients verify
// what it serves.
func (s *Server) hashesCopies() bool { return !s.caps.IsRemote }
