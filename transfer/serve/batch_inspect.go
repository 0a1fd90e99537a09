package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"sync"
)

// This file finds the files of a batch and their trees.

// tinyFile is the size, in bytes, below which a file is hashed again for each batch that contains
// it. That takes less time than an index entry does.
const tinyFile = 1 << 20

// A tinyTree is the tree of a tiny file of a batch, which may have several names in it.
type tinyTree struct {
	done chan struct{} // closed when the fields below are set
	tree *integrity.Tree
	err  error
}

// inspectFiles starts to inspect the files of a batch, several at a time, until ctx ends. It
// returns them in order, a few files ahead of the receiver. The returned function waits until the
// goroutines that do so have ended.
func (s *Server) inspectFiles(ctx context.Context, b *batch) (files <-chan *batchFile, wait func()) {
	var wg sync.WaitGroup
	workers := min(s.tiny.workers, b.count)
	ordered, next := make(chan *batchFile, 2*workers), make(chan *batchFile)
	wg.Go(func() {
		defer close(ordered)
		defer close(next)
		r := b.reader()
		for i := range b.count {
			path, err := r.Path()
			if err != nil {
				return // cannot happen: they were checked
			}
			f := &batchFile{path: path, isFirst: i == 0, done: make(chan struct{})}
			for _, out := range []chan<- *batchFile{ordered, next} {
				select {
				case out <- f:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for range workers {
		wg.Go(func() {
			for f := range next {
				f.err = kwik.Contain(func() error { return s.inspect(ctx, b, f) })
				close(f.done)
			}
		})
	}
	return ordered, wg.Wait
}

// inspect fills in a file of a batch. The chaining values of the files are bounded by
// wire.MaxBatchTrees; beyond it the error is errTooMuch. The first file has no bound, so that a
// batch of one large file succeeds.
func (s *Server) inspect(ctx context.Context, b *batch, f *batchFile) error {
	path := disk.JoinPath(b.base, f.path)
	if !b.allowed.allows(path) {
		return errForbidden
	}
	tiny, err := s.visit(ctx, b, f, path)
	if err != nil {
		return err
	}
	if tiny == nil {
		f.tree, err = s.hash(ctx, b.client, path, f.version)
		return err
	}
	select {
	case <-tiny.done:
		f.tree = tiny.tree
		return tiny.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// visit describes a file of a batch. It returns the tree of a tiny one, which another call may be
// hashing, and nil for a larger one. The file is open only while the client has one of the slots
// for tiny files, which bound the open files of all batches.
func (s *Server) visit(ctx context.Context, b *batch, f *batchFile, path string) (*tinyTree, error) {
	release, err := s.tiny.acquire(ctx, b.client)
	if err != nil {
		return nil, err
	}
	defer release()
	file, err := s.dir.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	defer s.endReads(ctx, file)()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f.version, f.mtime, f.mode = disk.VersionOf(info), info.ModTime(), uint32(info.Mode().Perm())
	if b.holes {
		f.holes = findHoles(file, f.version.Size)
	}
	// A file of one group has no chaining values, but the bound counts one.
	need := cvSize * integrity.GroupSizeFor(f.version.Size).Groups(f.version.Size)
	if !f.isFirst && b.treeBytes.Add(need) > wire.MaxBatchTrees {
		b.treeBytes.Add(-need)
		return nil, errTooMuch
	}
	if f.version.Size >= tinyFile {
		return nil, nil
	}
	tiny, isNew := b.tinyTree(keyOf(path, f.version))
	if isNew {
		tiny.err = kwik.Contain(func() (err error) { // others wait for it
			tiny.tree, err = hashTiny(ctx, file, f.version)
			return err
		})
		close(tiny.done)
	}
	return tiny, nil
}

// tinyTree returns the tree of a tiny file of the batch. If isNew is set the caller computes it.
func (b *batch) tinyTree(key fileKey) (t *tinyTree, isNew bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.tiny[key]; t != nil {
		return t, false
	}
	t = &tinyTree{done: make(chan struct{})}
	b.tiny[key] = t
	return t, true
}

// hashTiny returns the tree of an open file. The error is errFileChanged if the file is not of
// the given version.
func hashTiny(ctx context.Context, file source.Object, version disk.Version) (*integrity.Tree, error) {
	tree, err := integrity.Build(ctx, file, version.Size, integrity.GroupSizeFor(version.Size), nil)
	if changed := checkVersion(file, version); changed != nil {
		return nil, changed
	}
	return tree, err
}

// A tinySlots shares the slots for tiny files of batches between clients.
type tinySlots struct {
	workers int // that one batch should have

	mu    sync.Mutex // guards turns
	turns *turns
}

// maxParallel bounds the files of batches that are looked at at a time, for all clients: each may
// have a block in memory.
const maxParallel = 64

// newTinySlots returns the slots of a root with the given Caps.Parallel.
func newTinySlots(parallel int) *tinySlots {
	if parallel > 0 {
		n := min(parallel, maxParallel)
		return &tinySlots{workers: n, turns: newTurns(n)}
	}
	return &tinySlots{workers: procs.Max + 1, turns: newTurns(procs.Max)}
}

// acquire waits for a slot for a client, which the caller releases, or for the end of ctx.
func (t *tinySlots) acquire(ctx context.Context, c client) (release func(), err error) {
	ready := make(chan struct{})
	j := &turn{begin: func() { close(ready) }}
	t.mu.Lock()
	t.turns.want(j, c)
	t.dispatch()
	t.mu.Unlock()
	select {
	case <-ready:
		return func() { t.drop(j) }, nil
	case <-ctx.Done():
		t.drop(j)
		return nil, ctx.Err()
	}
}

// drop removes a job, whether or not it has a slot.
func (t *tinySlots) drop(j *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j.isRunning {
		t.turns.ended(j)
	}
	t.turns.remove(j)
	t.dispatch()
}

// dispatch begins the jobs for which there are slots. The lock must be held.
func (t *tinySlots) dispatch() {
	for j := t.turns.next(); j != nil; j = t.turns.next() {
		j.begin()
	}
}
