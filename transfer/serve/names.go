package serve

import (
	"container/list"
	"context"
	"kwikcp/internal/budget"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// This file reads and sorts the names in directories, once for all listings of a large directory
// that does not change.

const (
	// maxDirNames bounds the names of a directory that is listed. They are sorted in memory.
	maxDirNames = 2 << 20
	// maxDirReads bounds the directories that are read at a time, for all clients.
	maxDirReads = 4
	// minKept is the number of names from which on the names of a directory are kept for later
	// listings. Fewer are read and sorted fast.
	minKept = 256
	// maxKept bounds the names that are kept while no listing uses them.
	maxKept = 1 << 20
	// keptFor is how long names are used after they were read. It bounds their age where a file
	// system does not tell that a directory changed.
	keptFor = 10 * time.Second
)

// A namesLimit bounds the names that the listings of all clients hold in memory. Those are the
// names of two of the largest directories, and the ones that are being read. Addresses share them,
// so that slow listings of one do not keep others from listing. A listing holds names
// until its client has read it. Names of large directories are kept for a while. So a client that
// requests page after page does not make the server read and sort them for each.
type namesLimit struct {
	reading chan struct{} // holds an element for each directory that is read
	held    *budget.Total // names
	clock   func() time.Time

	mu      sync.Mutex // guards the fields below, and those of the lists
	shares  map[netip.Prefix]*namesShare
	kept    map[namesKey]*nameList
	unused  list.List   // of the kept *nameList that no listing uses, the least recently used first
	count   int         // names of unused
	waiting int         // listings that wait for the limit
	expiry  *time.Timer // drops unused lists; nil if there are none
}

// A namesKey identifies a state of a directory. path is empty where the version itself identifies
// the directory.
type namesKey = fileKey

// A namesShare is the part of held that the listings of one address have.
type namesShare struct {
	*budget.Share
	prefix  netip.Prefix
	reading chan struct{} // as namesLimit.reading, for half as many
	users   int           // lists, and listings that wait; guarded by the lock of the namesLimit
}

// A nameList holds the sorted names in a directory. Its users release it.
type nameList struct {
	names []string

	share *namesShare // of the address that read them first

	// Guarded by the lock of the namesLimit.
	key    namesKey
	isKept bool
	users  int           // listings
	read   time.Time     // when the names were read
	place  *list.Element // in namesLimit.unused; nil if it is not there
}

func newNamesLimit() *namesLimit {
	return &namesLimit{
		reading: make(chan struct{}, maxDirReads), held: budget.New(2*maxDirNames, 0, 0, 2*maxDirNames),
		clock: time.Now, shares: make(map[netip.Prefix]*namesShare), kept: make(map[namesKey]*nameList),
	}
}

// list returns the names in a directory, which has a path, for a client of an address. They count
// until they are released. It waits until the limit allows that, but returns errBusy before the
// client gives up.
func (n *namesLimit) list(
	ctx context.Context, from netip.Prefix, path string, d source.Dir,
) (*nameList, error) {
	key, isKnown := stateOf(ctx, path, d)
	if l := n.take(key); isKnown && l != nil {
		return l, nil
	}
	share, hasNames := n.use(from), false
	defer func() {
		if !hasNames {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.giveBack(share, 0)
		}
	}()
	timeout := time.NewTimer(requestTimeout / 2)
	defer timeout.Stop()
	for _, reading := range []chan struct{}{share.reading, n.reading} {
		select {
		case reading <- struct{}{}:
			defer func() { <-reading }()
		case <-timeout.C:
			return nil, errBusy
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if l := n.take(key); isKnown && l != nil { // another listing has read them meanwhile
		return l, nil
	}
	l := &nameList{key: key, users: 1, read: n.clock(), share: share}
	var err error
	if l.names, err = d.Names(ctx, maxDirNames); err != nil {
		return nil, err
	}
	l.names = slices.DeleteFunc(l.names, wire.IsTemporary)
	slices.Sort(l.names)
	if hasNames = n.hold(ctx, share, int64(len(l.names))); !hasNames {
		return nil, errBusy
	}
	if len(l.names) >= minKept && isKnown {
		n.keep(ctx, path, d, l)
	}
	return l, nil
}

// stateOf returns the state of a directory; ok is false if it is not known. A directory without a
// time tells nothing of its changes.
func stateOf(ctx context.Context, path string, d source.Dir) (key namesKey, ok bool) {
	info, err := d.Stat(ctx, ".")
	if err != nil {
		return key, false
	}
	version := disk.VersionOf(info)
	return keyOf(path, version), version.MTime != 0 || version.IsTagged()
}

// take returns the kept names of a directory in a state, nil if there are none.
func (n *namesLimit) take(key namesKey) *nameList {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.kept[key]
	if l == nil {
		return nil
	}
	if n.clock().Sub(l.read) >= keptFor {
		n.drop(l)
		return nil
	}
	if l.users++; l.place != nil {
		n.unlist(l)
	}
	return l
}

// hold counts names for an address, if need be in place of those that no listing uses. It waits for
// other listings, at most for half the request's timeout, and reports whether the limit allows the
// names.
func (n *namesLimit) hold(ctx context.Context, share *namesShare, names int64) bool {
	n.wait(1)
	defer n.wait(-1)
	for names > 0 && !share.Reserve(names) {
		if n.dropOldest() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, requestTimeout/2)
		defer cancel()
		_, err := share.Acquire(ctx, names, names)
		return err == nil
	}
	return true
}

// use returns the share of an address. giveBack ends the use.
func (n *namesLimit) use(from netip.Prefix) *namesShare {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[from]
	if s == nil {
		s = &namesShare{Share: n.held.Share(), prefix: from, reading: make(chan struct{}, maxDirReads/2)}
		n.shares[from] = s
	}
	s.users++
	return s
}

// giveBack returns names to the limit and ends one use of a share. The lock must be held.
func (n *namesLimit) giveBack(s *namesShare, names int) {
	s.Release(int64(names))
	if s.users--; s.users == 0 {
		delete(n.shares, s.prefix)
	}
}

// wait counts the listings that wait for the limit.
func (n *namesLimit) wait(change int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting += change
}

// keep keeps names that were just read, unless their directory has changed since. A directory that
// changed shortly before may have changed again with the same times, so its names are not kept.
func (n *namesLimit) keep(ctx context.Context, path string, d source.Dir, l *nameList) {
	after, ok := stateOf(ctx, path, d)
	if !ok || after != l.key || after.version.IsRacy(l.read) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.kept[l.key]; old != nil {
		n.drop(old)
	}
	l.isKept = true
	n.kept[l.key] = l
}

// release ends one use of names.
func (n *namesLimit) release(l *nameList) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	if l.isKept && n.waiting > 0 {
		n.drop(l) // others wait for the limit
	}
	if !l.isKept {
		n.giveBack(l.share, len(l.names))
		return
	}
	l.place = n.unused.PushBack(l)
	n.count += len(l.names)
	for n.count > maxKept {
		n.drop(n.unused.Front().Value.(*nameList))
	}
	if n.expiry == nil && n.count > 0 {
		n.expiry = time.AfterFunc(keptFor, n.expire)
	}
}

// expire drops the unused names that are too old to be used.
func (n *namesLimit) expire() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for place := n.unused.Front(); place != nil; {
		next := place.Next()
		if l := place.Value.(*nameList); n.clock().Sub(l.read) >= keptFor {
			n.drop(l)
		}
		place = next
	}
	if n.expiry = nil; n.count > 0 {
		n.expiry = time.AfterFunc(keptFor, n.expire)
	}
}

// close drops the names that are kept. No listing may be running.
func (n *namesLimit) close() {
	for n.dropOldest() {
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.expiry != nil {
		n.expiry.Stop()
		n.expiry = nil
	}
}

// dropOldest drops the least recently used of the unused names. It reports whether there were any.
func (n *namesLimit) dropOldest() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	oldest := n.unused.Front()
	if oldest == nil {
		return false
	}
	n.drop(oldest.Value.(*nameList))
	return true
}

// drop ends the keeping of names. Listings that use them go on. The lock must be held.
func (n *namesLimit) drop(l *nameList) {
	l.isKept = false
	delete(n.kept, l.key)
	if l.place != nil {
		n.unlist(l)
		n.giveBack(l.share, len(l.names))
	}
}

// unlist removes names from the unused ones. The lock must be held.
func (n *namesLimit) unlist(l *nameList) {
	n.unused.Remove(l.place)
	n.count -= len(l.names)
	l.place = nil
}
