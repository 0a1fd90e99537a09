package serve

import (
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/source"
	"sync"
	"sync/atomic"
	"time"
)

// This file hashes the files of an index, each in one or more turns. A file is open only during its
// turns.

const (
	// smallFile is the size, in bytes, up to which files are hashed in a separate queue. They do
	// not wait for large files.
	smallFile = 16 << 20
	// hashedAtOnce bounds the small files, and the large ones, that are hashed at a time. A
	// single one uses all cores.
	hashedAtOnce = 4
	// hashingLogInterval is how often the server logs the progress of hashing one file.
	hashingLogInterval = 10 * time.Second
)

// A hashJob is the hashing of one entry. Except for stop, only the entry's turn uses it.
type hashJob struct {
	stop    atomic.Bool        // whether the turn must end
	builder *integrity.Builder // nil before the first turn
	start   time.Time          // of the first turn
	lastLog time.Time          // start before the first
}

// A partialTree is the tree of the part of a file that has been hashed, from its start.
type partialTree struct {
	mu     sync.Mutex
	end    int64    // bytes of the file
	pieces [][]byte // chaining values of the groups before end; a piece does not change
	length int64    // bytes of the pieces
}

func (t *partialTree) add(end int64, cvs []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = end
	if len(cvs) > 0 {
		t.pieces = append(t.pieces, cvs)
		t.length += int64(len(cvs))
	}
}

// hashed returns how many bytes of the file have been hashed.
func (t *partialTree) hashed() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// bytes returns the length of the chaining values, in bytes.
func (t *partialTree) bytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.length
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
	t.pieces, t.length = nil, 0
}

// turnsOf returns the turns that an entry's file is hashed in.
func (x *index) turnsOf(e *indexEntry) *turns {
	if e.version.Size <= smallFile {
		return x.small
	}
	return x.large
}

// enqueue makes an entry wait for its turn, on behalf of all its claims. The lock must be held.
func (x *index) enqueue(e *indexEntry) {
	e.state = entryQueued
	t := x.turnsOf(e)
	for _, c := range e.claims {
		t.want(&e.turn, c.client)
	}
	x.dispatch(t)
}

// dispatch begins the turns for which there are slots. The lock must be held.
func (x *index) dispatch(t *turns) {
	for next := t.next(); next != nil; next = t.next() {
		next.begin()
	}
}

// takeTurn hashes a part of an entry's file, or all of it.
func (x *index) takeTurn(e *indexEntry) {
	err := kwik.Contain(func() error { return x.hash(e) }) // a panic fails the requests for the file
	if panicked, ok := errors.AsType[*kwik.PanicError](err); ok {
		x.log.Error("hashing failed", "path", e.path, "err", panicked)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.turnsOf(e)
	t.ended(&e.turn)
	e.job.stop.Store(false)
	var tree *integrity.Tree
	if err == nil && e.job.builder != nil {
		tree = e.job.builder.Tree()
	}
	switch {
	case err != nil || tree != nil:
		t.remove(&e.turn)
		x.finish(e, tree, err)
		e.job.builder = nil
	case len(e.claims) == 0:
		x.pause(e)
	}
	x.dispatch(t)
}

// hash hashes an entry's file until it is hashed or must stop, and stores its tree. The file must
// be of the entry's version before and after.
func (x *index) hash(e *indexEntry) error {
	f, err := x.open(e)
	if f == nil {
		return err
	}
	defer f.Close()
	if _, isRemote := f.(source.Prefetcher); isRemote {
		defer context.AfterFunc(x.ctx, func() { f.Close() })() // ends the reads that run
	}
	j := &e.job
	if j.builder == nil {
		size := e.version.Size
		if j.builder, err = integrity.NewBuilder(size, integrity.GroupSizeFor(size)); err != nil {
			return err
		}
		j.start = time.Now()
		j.lastLog = j.start
		x.mu.Lock()
		e.began = j.start
		x.mu.Unlock()
	}
	err = j.builder.Run(x.ctx, fetchAhead(f, j.builder.Hashed(), e.version.Size), x.progress(e), j.stop.Load)
	if err != nil && x.ctx.Err() != nil {
		return x.ctx.Err()
	}
	if changed := checkVersion(f, e.version); changed != nil {
		return changed
	}
	if tree := j.builder.Tree(); err == nil && tree != nil && e.version.Size >= minStored {
		// The time of the start counts: a file that changed just before it may have changed again
		// with the same times.
		x.keep(e.path, e.version, tree, j.start)
	}
	return err
}

// open opens an entry's file by one of the names under which it was claimed. Both results are nil
// if there is no claim any more. The error is that of the oldest claim.
func (x *index) open(e *indexEntry) (f source.Object, err error) {
	tried := make(map[*claim]bool)
	for len(tried) < maxEntryNames {
		c := x.untried(e, tried)
		if c == nil {
			break
		}
		tried[c] = true
		f, failed := c.open(x.ctx)
		if failed == nil {
			if failed = checkVersion(f, e.version); failed == nil {
				return f, nil
			}
			f.Close()
		}
		if err == nil {
			err = failed
		}
	}
	return nil, err
}

// untried returns the oldest claim of an entry that has not been tried; nil if there is none.
func (x *index) untried(e *indexEntry, tried map[*claim]bool) *claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range e.claims {
		if !tried[c] {
			return c
		}
	}
	return nil
}

// progress returns a function that keeps the partial tree of an entry and logs the progress of a
// slow file. It ends the entry's turn when the slot is another client's.
func (x *index) progress(e *indexEntry) integrity.Progress {
	start := e.job.builder.Hashed()
	return func(end int64, cvs []byte) {
		e.partial.add(end, cvs)
		if x.mustLeave(e, end-start, int64(len(cvs))) {
			e.job.stop.Store(true)
		}
		j := &e.job
		isSlow := j.lastLog != j.start
		switch now := time.Now(); {
		case end == e.version.Size && isSlow:
			x.log.Info("hashed", "path", e.path, "size", end, "seconds", now.Sub(j.start).Seconds())
		case now.Sub(j.lastLog) >= hashingLogInterval:
			j.lastLog = now
			x.log.Info("hashing", "path", e.path, "bytes", end, "of", e.version.Size)
		}
	}
}

// mustLeave reports whether the turn of an entry must end, after n bytes. Its tree has grown.
func (x *index) mustLeave(e *indexEntry, n, grown int64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.turnsOf(e)
	t.grow(&e.turn, grown)
	return t.mustLeave(&e.turn, n)
}
