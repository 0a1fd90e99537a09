package serve

import (
	"container/list"
	"context"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxIndexed bounds the trees that an index keeps, in bytes of chaining values: those of 32 GiB of files and more.
	maxIndexed = 16 << 20
	// smallFile is the size, in bytes, up to which a file is hashed in the time of a request and does not wait for large ones.
	smallFile = 16 << 20
	// hashedAtOnce is how many small files, and as many others, are hashed at a time. Each takes all cores if it is alone.
	hashedAtOnce = 4
	// hashingTold is how often a server's log says how far a file is that takes longer.
	hashingTold = 10 * time.Second
)

// An index keeps the trees of the files that a server has hashed. It is a cache: an entry that is gone is computed
// again. Each version of a file is hashed once however many clients ask.
type index struct {
	ctx   context.Context // of the server
	wg    sync.WaitGroup  // hashing jobs; each ends with its file or with ctx
	small chan struct{}   // full while hashedAtOnce small files are hashed
	large chan struct{}   // likewise others
	store *TreeStore      // from earlier runs and for later ones; nil if there is none
	log   *slog.Logger

	mu      sync.Mutex
	entries map[string]*indexEntry // by path
	order   list.List              // of *indexEntry, the least recently used first
	bytes   int64                  // of chaining values in finished entries
}

// An indexEntry is the tree of one version of a file, or the job that computes it.
type indexEntry struct {
	path    string
	version disk.Version
	growth  growth
	done    chan struct{} // closed when tree and err are set
	tree    *integrity.Tree
	err     error
	place   *list.Element // in index.order; guarded by the index
	counted bool          // in index.bytes; guarded likewise
}

// growth is how far a file is hashed, from its start.
type growth struct {
	mu  sync.Mutex
	end int64    // bytes
	cvs [][]byte // the chaining values of the groups before end; what they are in does not change
}

func (g *growth) add(end int64, cvs []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end = end
	if len(cvs) > 0 {
		g.cvs = append(g.cvs, cvs)
	}
}

// since returns how far it is, and the pieces of chaining values that came after the first n.
func (g *growth) since(n int) (end int64, cvs [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.end, g.cvs[min(n, len(g.cvs)):]
}

// drop forgets the values; the tree has them all.
func (g *growth) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cvs = nil
}

func newIndex(ctx context.Context, log *slog.Logger) *index {
	return &index{
		ctx: ctx, small: make(chan struct{}, hashedAtOnce), large: make(chan struct{}, hashedAtOnce),
		entries: make(map[string]*indexEntry), log: log,
	}
}

// lookup returns the entry of a version of a file, which may still be computed, and starts to compute it if there is
// none. open opens the file anew for the job.
func (x *index) lookup(path string, version disk.Version, open func() (disk.File, error)) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[path]; e != nil && e.version == version {
		x.order.MoveToBack(e.place)
		return e
	}
	e := &indexEntry{path: path, version: version, done: make(chan struct{})}
	x.forget(x.entries[path])
	x.entries[path] = e
	e.place = x.order.PushBack(e)
	x.wg.Go(func() { x.compute(e, open) })
	return e
}

// compute hashes a file. The file must be of the entry's version before and after.
func (x *index) compute(e *indexEntry, open func() (disk.File, error)) {
	e.tree, e.err = x.hash(e, open)
	close(e.done)
	e.growth.drop()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries[e.path] != e {
		return
	}
	if e.err != nil {
		x.forget(e) // the next request tries again
		return
	}
	x.bytes += e.cost()
	e.counted = true
	for x.bytes > maxIndexed {
		oldest := x.order.Front().Value.(*indexEntry)
		if oldest == e || !oldest.finished() {
			break // never the newest; one that is computed counts nothing yet
		}
		x.forget(oldest)
	}
}

func (x *index) hash(e *indexEntry, open func() (disk.File, error)) (*integrity.Tree, error) {
	if x.store != nil {
		if tree := x.store.get(e.path, e.version); tree != nil {
			return tree, nil
		}
	}
	gate := x.large
	if e.version.Size <= smallFile {
		gate = x.small
	}
	select {
	case gate <- struct{}{}:
		defer func() { <-gate }()
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	begun := time.Now() // a file that was changed just before may change again while it is hashed, and look the same
	if err := checkVersion(f, e.version); err != nil {
		return nil, err
	}
	tree, err := integrity.Build(x.ctx, f, e.version.Size, integrity.GroupSizeFor(e.version.Size), x.progress(e))
	if changed := checkVersion(f, e.version); changed != nil {
		return nil, changed
	}
	if err == nil && x.store != nil {
		x.store.put(e.path, e.version, tree, begun) // it is a cache: what is not there is computed again
	}
	return tree, err
}

// progress keeps what is known of a file's tree while it is hashed, and tells the log of one that takes long.
func (x *index) progress(e *indexEntry) integrity.Progress {
	start := time.Now()
	told := start
	return func(end int64, cvs []byte) {
		e.growth.add(end, cvs)
		switch now := time.Now(); {
		case end == e.version.Size && told != start:
			x.log.Info("hashed", "path", e.path, "size", end, "seconds", now.Sub(start).Seconds())
		case now.Sub(told) >= hashingTold:
			told = now
			x.log.Info("hashing", "path", e.path, "bytes", end, "of", e.version.Size)
		}
	}
}

// entry returns what there is of a path, nil if nothing is: of the version that was asked for last.
func (x *index) entry(path string) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.entries[path]
}

// known returns the tree if it is there.
func (e *indexEntry) known() *integrity.Tree {
	if e == nil || !e.finished() || e.err != nil {
		return nil
	}
	return e.tree
}

func (e *indexEntry) finished() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// cost is what a finished entry counts, in bytes.
func (e *indexEntry) cost() int64 { return 32*e.tree.Groups() + 1024 }

// forget drops an entry; nil is none. Called with the lock held.
func (x *index) forget(e *indexEntry) {
	if e == nil {
		return
	}
	if x.entries[e.path] == e {
		delete(x.entries, e.path)
	}
	x.order.Remove(e.place)
	if e.counted {
		x.bytes -= e.cost()
		e.counted = false
	}
}
