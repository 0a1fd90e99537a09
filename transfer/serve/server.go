package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"log/slog"
	"sync"
)

// A Server serves the regular files below a directory, in either role. Its OpenContent belongs
// into the kwik.ServerConfig of the listener that is given to Serve, and so does its Verify if
// the server is a primary.
//
// The methods of a Server are safe for concurrent use, except for KeepTrees and Close.
type Server struct {
	dir     disk.Dir
	log     *slog.Logger
	index   *index
	batches *servedBatches
	names   *namesLimit
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // goroutines of the server that end with ctx
}

// NewServer returns a server of the files below dir. Close must be called to release what the
// server uses. The caller closes dir, after Close.
func NewServer(dir disk.Dir, log *slog.Logger) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		dir: dir, log: log, index: newIndex(ctx, log), batches: newServedBatches(), names: newNamesLimit(),
		ctx: ctx, cancel: cancel,
	}
}

// KeepTrees makes the server store the trees that it computes, and use those that are stored. It
// must be called before Serve, at most once. In the background it removes the records of files
// that have changed; Close ends that. The caller closes store, after Close.
func (s *Server) KeepTrees(store *TreeStore) {
	s.index.store = store
	s.tasks.Go(func() {
		if err := store.sweep(s.ctx, s.dir); err != nil {
			s.log.Warn("stale records of the tree store not removed", "err", err)
		}
	})
}

// Close stops the hashing of files and waits until it has stopped. Serve must have returned.
func (s *Server) Close() {
	s.cancel()
	s.tasks.Wait()
	s.index.jobs.Wait()
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
	log := s.log.With("client", session.RemoteAddr().String(), "session", session.ID().String()[:8])
	log.Debug("client connected")
	listings := make(chan struct{}, maxListings)
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			log.Debug("client gone", "reason", err)
			return
		}
		q := &serverRequest{server: s, session: session, stream: stream, log: log, listings: listings}
		wg.Go(func() { session.Contain(func() { q.serve(ctx) }) })
	}
}

// lookup returns the index entry of a version of a file. It starts hashing the file if there is
// no entry.
func (s *Server) lookup(path string, version disk.Version) *indexEntry {
	return s.index.lookup(path, version, func() (disk.File, error) { return s.dir.Open(path) })
}

// hash returns the tree of a version of a file, from the index. It waits until the file is hashed
// or ctx ends.
func (s *Server) hash(ctx context.Context, path string, version disk.Version) (*integrity.Tree, error) {
	entry := s.lookup(path, version)
	select {
	case <-entry.done:
		return entry.tree, entry.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
