package serve

import (
	"container/list"
	"context"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// cvSize is the size of a chaining value, in bytes.
	cvSize = 32
	// entryBytes is about the memory of an entry besides its chaining values and names, in bytes,
	// and pausedBytes that of one whose hashing is paused.
	entryBytes, pausedBytes = 1 << 10, 40 << 10
	// maxIndexed bounds the trees that an index keeps, in bytes of chaining values: those of 32
	// GiB of files and more.
	maxIndexed = 16 << 20
	// maxPaused bounds the trees of files whose hashing is paused, in the same way.
	maxPaused = 16 << 20
	// maxEntryNames bounds the names of a file that an index knows. It is found under others by
	// its version.
	maxEntryNames = 16
	// maxLingering bounds the claims that remain after their requests.
	maxLingering = 4
)

// An index keeps the trees of the files that a server has hashed. It is a cache: what it drops is
// hashed again when it is needed. A version of a file is hashed once, however many clients
// request it, and by however many names. It is hashed as long as a client waits for it. If none
// does, hashing is paused, and continues there when a client requests the file again.
type index struct {
	ctx    context.Context // of the server
	jobs   sync.WaitGroup  // turns, and look-ups in the store; each ends soon after ctx
	store  *TreeStore      // trees across restarts; nil if there is none
	shared *sharedTrees    // trees of other servers; nil if there are none
	log    *slog.Logger
	// storeLog has its own lock.
	storeLog storeLog

	mu           sync.Mutex // guards the fields below, and those of the entries that name it
	small, large *turns     // of the files up to smallFile, and of the others
	files        map[fileKey]*indexEntry
	names        map[string]*indexEntry // by path: the version that was requested last
	order        list.List              // of finished *indexEntry, the least recently used first
	bytes        int64                  // cost of the finished entries
	paused       list.List              // of paused *indexEntry, the longest paused first
	pausedBytes  int64                  // cost of the paused entries
	lingering    []*claim               // the oldest first
}

// A fileKey identifies a version of a file. path is empty where the version itself identifies the
// file.
type fileKey struct {
	version disk.Version
	path    string
}

func keyOf(path string, version disk.Version) fileKey {
	if version.IsIdentified() {
		return fileKey{version: version}
	}
	return fileKey{version, path}
}

// An entryState is how far an entry is.
type entryState int

const (
	entryLoading  entryState = iota // its tree is looked up in the store
	entryQueued                     // it is hashed, or waits for its turn
	entryPaused                     // it is partly hashed, and no client waits for it
	entryFinished                   // done is closed
)

// An indexEntry is the tree of one version of a file, or the job that computes it.
type indexEntry struct {
	key     fileKey
	path    string // the name under which it was requested first
	version disk.Version
	partial partialTree
	done    chan struct{} // closed when tree and err are set
	tree    *integrity.Tree
	err     error
	job     hashJob

	// Guarded by the index's lock.
	state  entryState
	began  time.Time // of its hashing, by the wall clock; zero if it has not begun, or the store had the tree
	claims []*claim  // empty when it is finished
	names  []string  // the newest last
	turn   turn
	place  *list.Element // in index.order or index.paused; nil in neither
	cost   int64         // that is counted for its place, in bytes
}

// A claim is the interest of a request in an entry, which is hashed as long as there is one. Its
// owner releases it.
type claim struct {
	*indexEntry
	index    *index
	client   client
	open     func(context.Context) (source.Object, error)
	released bool // guarded by the index's lock
}

func newIndex(ctx context.Context, log *slog.Logger) *index {
	return &index{
		ctx: ctx, log: log, small: newTurns(hashedAtOnce), large: newTurns(hashedAtOnce),
		files: make(map[fileKey]*indexEntry), names: make(map[string]*indexEntry),
	}
}

// isBelieved reports whether the tree of an entry is that of the present content of its file. now
// is the wall clock. It is not believed if the file had just changed when it was hashed, or if the
// clock was set back since. The index's lock must be held.
func (e *indexEntry) isBelieved(now time.Time) bool {
	wasRacy := !e.began.IsZero() && e.version.IsRacy(e.began)
	isWaiting := e.state != entryFinished && e.began.IsZero()
	return isWaiting || !e.version.IsRacy(now) && !wasRacy
}

// isDoubted reports whether a new claim must not use an entry, but have the file hashed again. One
// that was hashed too early is shared by the claims that arrive while it would be too early again.
func (e *indexEntry) isDoubted(now time.Time) bool {
	isTooEarly := e.version.IsRacy(now)
	return !e.isBelieved(now) && (e.state == entryFinished || !isTooEarly)
}

// claim returns a client's claim to the entry of a version of a file. If the tree is not known, it
// is hashed when it is the client's turn. open opens the file.
func (x *index) claim(
	c client, path string, version disk.Version, open func(context.Context) (source.Object, error),
) *claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := keyOf(path, version)
	e := x.files[key]
	if e != nil && e.isDoubted(time.Now()) {
		x.remove(e) // its claims still get its tree
		e = nil
	}
	isNew := e == nil
	if isNew {
		e = &indexEntry{key: key, path: path, version: version, done: make(chan struct{})}
		x.files[key] = e
	}
	x.addName(e, path)
	result := &claim{indexEntry: e, index: x, client: c, open: open}
	if e.state == entryFinished {
		x.order.MoveToBack(e.place)
		return result
	}
	e.claims = append(e.claims, result)
	switch {
	case isNew:
		x.start(e)
	case e.state == entryPaused:
		x.takePlace(e)
		x.enqueue(e)
	case e.state == entryQueued:
		x.turnsOf(e).want(&e.turn, c)
		x.dispatch(x.turnsOf(e))
	}
	return result
}

// start begins the work on a new entry. The lock must be held.
func (x *index) start(e *indexEntry) {
	e.turn.memory = pausedBytes
	e.turn.begin = func() { x.jobs.Go(func() { x.takeTurn(e) }) }
	if x.store == nil && x.shared == nil || e.version.Size < minStored {
		x.enqueue(e)
		return
	}
	x.jobs.Go(func() {
		tree := x.known(e)
		x.mu.Lock()
		defer x.mu.Unlock()
		switch {
		case tree != nil:
			x.finish(e, tree, nil)
		case len(e.claims) == 0:
			x.remove(e)
		default:
			x.enqueue(e)
		}
	})
}

// release ends a claim. An entry without claims is paused.
func (c *claim) release() {
	x := c.index
	x.mu.Lock()
	defer x.mu.Unlock()
	x.release(c)
}

// release is claim.release with the lock held.
func (x *index) release(c *claim) {
	e := c.indexEntry
	if c.released || e.state == entryFinished {
		return
	}
	c.released = true
	e.claims = remove(e.claims, c)
	if e.state != entryQueued {
		return
	}
	t := x.turnsOf(e)
	t.unwant(&e.turn, c.client)
	switch {
	case len(e.claims) > 0:
	case e.turn.isRunning:
		e.job.stop.Store(true)
	default:
		x.pause(e)
	}
	x.dispatch(t)
}

// linger releases a claim later: when the entry is finished, or maxLingering others linger. So a
// file is hashed for requests that are too short for it.
func (c *claim) linger() {
	x := c.index
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lingering = slices.DeleteFunc(x.lingering, func(c *claim) bool { return c.state == entryFinished })
	x.lingering = append(x.lingering, c)
	if len(x.lingering) > maxLingering {
		x.release(x.lingering[0])
		x.lingering = slices.Delete(x.lingering, 0, 1)
	}
}

// pause keeps what has been hashed of an entry that no client waits for, and drops the longest
// paused ones that are beyond maxPaused. The lock must be held.
func (x *index) pause(e *indexEntry) {
	e.state = entryPaused
	isKnown := x.files[e.key] == e
	if !isKnown || e.partial.hashed() == 0 {
		x.remove(e)
		return
	}
	e.place, e.cost = x.paused.PushBack(e), e.memory()
	x.pausedBytes += e.cost
	for x.pausedBytes > maxPaused && x.paused.Len() > 1 {
		x.remove(x.paused.Front().Value.(*indexEntry))
	}
}

// finish finishes an entry, and then drops the least recently used ones that are beyond
// maxIndexed. An entry with an error is dropped: the next request tries again. The lock must be
// held.
func (x *index) finish(e *indexEntry, tree *integrity.Tree, err error) {
	e.tree, e.err, e.state, e.claims = tree, err, entryFinished, nil
	close(e.done)
	e.partial.clear()
	wasReplaced := x.files[e.key] != e
	if err != nil || wasReplaced {
		x.remove(e)
		return
	}
	e.place = x.order.PushBack(e)
	x.count(e)
	for x.bytes > maxIndexed && x.order.Len() > 1 {
		x.remove(x.order.Front().Value.(*indexEntry)) // the newest stays
	}
}

// count counts the present cost of a finished entry. The lock must be held.
func (x *index) count(e *indexEntry) {
	x.bytes -= e.cost
	e.cost = e.memory()
	x.bytes += e.cost
}

// memory returns the memory of an entry, in bytes. The index's lock must be held.
func (e *indexEntry) memory() int64 {
	n := int64(entryBytes)
	for _, name := range e.names {
		n += int64(len(name))
	}
	if e.tree != nil {
		return n + cvSize*e.tree.Groups()
	}
	return n + pausedBytes + e.partial.bytes()
}

// addName records that a path leads to an entry's version, and not to another one any more. An
// entry without names goes. The lock must be held.
func (x *index) addName(e *indexEntry, path string) {
	old := x.names[path]
	if old == e {
		return
	}
	if old != nil {
		old.names = remove(old.names, path)
		switch {
		case len(old.names) == 0:
			x.remove(old)
		case old.state == entryFinished:
			x.count(old)
		}
	}
	x.names[path] = e
	if e.names = append(e.names, path); len(e.names) > maxEntryNames {
		delete(x.names, e.names[0])
		e.names = slices.Delete(e.names, 0, 1)
	}
	if e.state == entryFinished {
		x.count(e)
	}
}

// remove removes an entry. Clients that have claims to it still get its tree. The lock must be
// held.
func (x *index) remove(e *indexEntry) {
	if x.files[e.key] == e {
		delete(x.files, e.key)
	}
	for _, name := range e.names {
		delete(x.names, name)
	}
	e.names = nil
	x.takePlace(e)
}

// takePlace takes an entry from the finished or paused ones, if it is one of them. The lock must
// be held.
func (x *index) takePlace(e *indexEntry) {
	if e.place == nil {
		return
	}
	if e.state == entryPaused {
		x.paused.Remove(e.place)
		x.pausedBytes -= e.cost
	} else {
		x.order.Remove(e.place)
		x.bytes -= e.cost
	}
	e.place, e.cost = nil, 0
}

// entry returns the entry of a path, of the version that was requested last; nil if there is
// none.
func (x *index) entry(path string) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.names[path]
}

// entryOf returns the entry of a version of a file; nil if there is none.
func (x *index) entryOf(path string, version disk.Version) *indexEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.files[keyOf(path, version)]
}

// finishedTree returns the tree; nil if it is not finished, could not be computed, or e is nil.
func (e *indexEntry) finishedTree() *integrity.Tree {
	if e == nil || !e.finished() || e.err != nil {
		return nil
	}
	return e.tree
}

// failure returns the error with which hashing ended; nil if it did not, or e is nil.
func (e *indexEntry) failure() error {
	if e == nil || !e.finished() {
		return nil
	}
	return e.err
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
