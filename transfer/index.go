package transfer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"kwikcp/integrity"
	"kwikcp/kwik"
)

// maxIndexed bounds the trees that an index keeps, in bytes of chaining values: those of 32 GiB of files and more.
const maxIndexed = 16 << 20

// An index keeps the trees of the files that a server has hashed. It is a cache: an entry that is gone is computed
// again. Each version of a file is hashed once however many clients ask, and one file at a time, on all cores.
type index struct {
	ctx   context.Context // of the server
	wg    sync.WaitGroup  // hashing jobs; each ends with its file or with ctx
	gate  chan struct{}   // held while hashing
	store *TreeStore      // from earlier runs and for later ones; nil if there is none

	mu      sync.Mutex
	entries map[string]*indexEntry // by path
	order   []*indexEntry          // the least recently used first
	bytes   int64                  // of chaining values in finished entries
}

// An indexEntry is the tree of one version of a file, or the job that computes it.
type indexEntry struct {
	path    string
	version fileVersion
	hashed  atomic.Int64  // bytes so far
	done    chan struct{} // closed when tree and err are set
	tree    *integrity.Tree
	err     error
	counted bool // in index.bytes; guarded by the index
}

func newIndex(ctx context.Context) *index {
	return &index{ctx: ctx, gate: make(chan struct{}, 1), entries: make(map[string]*indexEntry)}
}

// lookup returns the entry of a version of a file, which may still be computed, and starts to compute it if there is
// none. open opens the file anew for the job.
func (x *index) lookup(path string, version fileVersion, open func() (File, error)) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.entries[path]; e != nil && e.version == version {
		x.touch(e)
		return e
	}
	e := &indexEntry{path: path, version: version, done: make(chan struct{})}
	x.forget(x.entries[path])
	x.entries[path] = e
	x.order = append(x.order, e)
	x.wg.Go(func() { x.compute(e, open) })
	return e
}

// compute hashes a file. The file must be of the entry's version before and after.
func (x *index) compute(e *indexEntry, open func() (File, error)) {
	e.tree, e.err = x.hash(e, open)
	close(e.done)
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
		oldest := x.order[0]
		if oldest == e || !oldest.finished() {
			break // never the newest; one that is computed counts nothing yet
		}
		x.forget(oldest)
	}
}

func (x *index) hash(e *indexEntry, open func() (File, error)) (*integrity.Tree, error) {
	if x.store != nil {
		if tree := x.store.get(e.path, e.version); tree != nil {
			return tree, nil
		}
	}
	select {
	case x.gate <- struct{}{}:
		defer func() { <-x.gate }()
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := sameVersion(f, e.version); err != nil {
		return nil, err
	}
	tree, err := integrity.Build(x.ctx, f, e.version.size, integrity.GroupSizeFor(e.version.size), func(end int64, _ []byte) { e.hashed.Store(end) })
	if changed := sameVersion(f, e.version); changed != nil {
		return nil, changed
	}
	if err == nil && x.store != nil {
		x.store.put(e.path, e.version, tree, time.Now()) // it is a cache: what is not there is computed again
	}
	return tree, err
}

// sameVersion returns an error of code kwik.ErrContentChanged if a file is not of the given version.
func sameVersion(f File, version fileVersion) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if versionOf(info) != version {
		return errChanged
	}
	return nil
}

var errChanged = &kwik.Error{Code: kwik.ErrContentChanged, Stream: -1, Offset: -1, Reason: "the file changed on the server"}

// known returns the tree of the version of a file that was hashed last.
func (x *index) known(path string) (tree *integrity.Tree, version fileVersion, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.entries[path]
	if e == nil || !e.finished() || e.err != nil {
		return nil, version, false
	}
	return e.tree, e.version, true
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

// touch makes an entry the most recently used. Called with the lock held.
func (x *index) touch(e *indexEntry) {
	for i, o := range x.order {
		if o == e {
			x.order = append(append(x.order[:i:i], x.order[i+1:]...), e)
			return
		}
	}
}

// forget drops an entry; nil is none. Called with the lock held.
func (x *index) forget(e *indexEntry) {
	if e == nil {
		return
	}
	if x.entries[e.path] == e {
		delete(x.entries, e.path)
	}
	for i, o := range x.order {
		if o == e {
			x.order = append(x.order[:i:i], x.order[i+1:]...)
			break
		}
	}
	if e.counted {
		x.bytes -= e.cost()
		e.counted = false
	}
}
