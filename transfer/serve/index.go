package serve

import (
	"container/list"
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"log/slog"
	"sync"
	"time"
)

const (
	// cvSize is the size of a chaining value, in bytes.
	cvSize = 32
	// maxIndexed bounds the trees that an index keeps, in bytes of chaining values: those of 32
	// GiB of files and more.
	maxIndexed = 16 << 20
	// smallFile is the size, in bytes, up to which files are hashed in a separate queue. They do
	// not wait for large files.
	smallFile = 16 << 20
	// hashedAtOnce bounds the small files, and the large ones, that are hashed at a time. A
	// single one uses all cores.
	hashedAtOnce = 4
	// hashingLogInterval is how often the server logs the progress of hashing one file.
	hashingLogInterval = 10 * time.Second
)

// An index keeps the trees of the files that a server has hashed. It is a cache: what it drops is
// hashed again when it is needed. A version of a file is hashed once, however many clients
// request it.
type index struct {
	ctx   context.Context // of the server
	jobs  sync.WaitGroup  // hashing jobs; each ends with its file or with ctx
	small chan struct{}   // holds an element for each small file that is hashed
	large chan struct{}   // holds an element for each large file that is hashed
	store *TreeStore      // trees across restarts; nil if there is none
	log   *slog.Logger

	mu      sync.Mutex             // guards the fields below, and place and counted of the entries
	entries map[string]*indexEntry // by path
	order   list.List              // of *indexEntry, the least recently used first
	bytes   int64                  // cost of the finished entries
}

// An indexEntry is the tree of one version of a file, or the job that computes it.
type indexEntry struct {
	path    string
	version disk.Version
	partial partialTree
	done    chan struct{} // closed when tree and err are set
	tree    *integrity.Tree
	err     error
	place   *list.Element // in index.order
	counted bool          // whether index.bytes includes the entry's cost
}

// A partialTree is the tree of the part of a file that has been hashed, from its start.
type partialTree struct {
	mu     sync.Mutex
	end    int64    // bytes of the file
	pieces [][]byte // chaining values of the groups before end; a piece does not change
}

func (t *partialTree) add(end int64, cvs []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = end
	if len(cvs) > 0 {
		t.pieces = append(t.pieces, cvs)
	}
}

// hashed returns how many bytes of the file have been hashed.
func (t *partialTree) hashed() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// after returns the pieces of chaining values after the first n.
func (t *partialTree) after(n int) [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pieces[min(n, len(t.pieces)):]
}

// clear drops the chaining values: the finished tree has them all.
func (t *partialTree) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pieces = nil
}

func newIndex(ctx context.Context, log *slog.Logger) *index {
	return &index{
		ctx: ctx, small: make(chan struct{}, hashedAtOnce), large: make(chan struct{}, hashedAtOnce),
		entries: make(map[string]*indexEntry), log: log,
	}
}

// lookup returns the entry of a version of a file. If there is none it adds one and starts to
// hash the file, which open opens. An entry of another version goes.
func (x *index) lookup(path string, version disk.Version, open func() (disk.File, error)) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[path]; e != nil && e.version == version {
		x.order.MoveToBack(e.place)
		return e
	}
	e := &indexEntry{path: path, version: version, done: make(chan struct{})}
	x.remove(x.entries[path])
	x.entries[path] = e
	e.place = x.order.PushBack(e)
	x.jobs.Go(func() { x.compute(e, open) })
	return e
}

// compute finishes an entry, and then drops the least recently used ones that are beyond
// maxIndexed.
func (x *index) compute(e *indexEntry, open func() (disk.File, error)) {
	e.err = kwik.Contain(func() (err error) { // a panic fails the requests for the file
		e.tree, err = x.load(e, open)
		return err
	})
	if panicked, ok := errors.AsType[*kwik.PanicError](e.err); ok {
		x.log.Error("hashing failed", "path", e.path, "err", panicked)
	}
	close(e.done)
	e.partial.clear()
	x.mu.Lock()
	defer x.mu.Unlock()
	if wasReplaced := x.entries[e.path] != e; wasReplaced {
		return
	}
	if e.err != nil {
		x.remove(e) // the next request tries again
		return
	}
	x.bytes += e.cost()
	e.counted = true
	for x.bytes > maxIndexed {
		oldest := x.order.Front().Value.(*indexEntry)
		if oldest == e || !oldest.finished() {
			break // the newest stays, and an unfinished entry costs nothing yet
		}
		x.remove(oldest)
	}
}

// load returns the tree of an entry's file from the store, or hashes the file.
func (x *index) load(e *indexEntry, open func() (disk.File, error)) (*integrity.Tree, error) {
	if x.store != nil {
		if tree := x.store.get(e.path, e.version); tree != nil {
			return tree, nil
		}
	}
	queue := x.large
	if e.version.Size <= smallFile {
		queue = x.small
	}
	select {
	case queue <- struct{}{}:
		defer func() { <-queue }()
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return x.hash(e, f)
}

// hash hashes an entry's file and stores its tree. The file must be of the entry's version before
// and after.
func (x *index) hash(e *indexEntry, f disk.File) (*integrity.Tree, error) {
	start := time.Now()
	if err := checkVersion(f, e.version); err != nil {
		return nil, err
	}
	tree, err := integrity.Build(x.ctx, f, e.version.Size, integrity.GroupSizeFor(e.version.Size), x.progress(e))
	if changed := checkVersion(f, e.version); changed != nil {
		return nil, changed
	}
	if err == nil && x.store != nil {
		// The time of the start counts: a file that changed just before it may have changed again
		// with the same times.
		x.store.put(e.path, e.version, tree, start) // on an error the file is hashed again after a restart
	}
	return tree, err
}

// progress returns a function that keeps the partial tree of an entry, and logs the progress of a
// slow one.
func (x *index) progress(e *indexEntry) integrity.Progress {
	start := time.Now()
	lastLog := start
	return func(end int64, cvs []byte) {
		e.partial.add(end, cvs)
		isSlow := lastLog != start
		switch now := time.Now(); {
		case end == e.version.Size && isSlow:
			x.log.Info("hashed", "path", e.path, "size", end, "seconds", now.Sub(start).Seconds())
		case now.Sub(lastLog) >= hashingLogInterval:
			lastLog = now
			x.log.Info("hashing", "path", e.path, "bytes", end, "of", e.version.Size)
		}
	}
}

// entry returns the entry of a path, of the version that was requested last; nil if there is
// none.
func (x *index) entry(path string) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.entries[path]
}

// finishedTree returns the tree; nil if it is not finished, could not be computed, or e is nil.
func (e *indexEntry) finishedTree() *integrity.Tree {
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

// await waits until the entry is finished, the timeout is over or ctx ends.
func (e *indexEntry) await(ctx context.Context, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-e.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// cost returns the memory of a finished entry, in bytes.
func (e *indexEntry) cost() int64 { return cvSize*e.tree.Groups() + 1024 }

// remove removes an entry; nil is none. The lock must be held.
func (x *index) remove(e *indexEntry) {
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
