package source

import (
	"container/list"
	"slices"
	"strings"
	"time"

	"kwikcp/transfer/disk"
)

// This file remembers for a short time what a store answered. So the description of a name after a
// listing, or after it was opened, costs no request. It has no clock: callers pass the time.

const (
	// listedFor is how long the answer of a listing is used.
	listedFor = 10 * time.Second
	// answeredFor is how long the description of an object is used after the store sent it. It
	// bounds how long a replaced object may still be served as it was.
	answeredFor = 2 * time.Second
	// maxKnown bounds the names that are remembered, of all directories together.
	maxKnown = 32 << 10
)

// A known is what a store answered about a name.
type known struct {
	name     string
	info     objectInfo
	isListed bool      // in a listing: info may have no tag
	until    time.Time // the answer is used before
}

// names are the answers of a store. Its owner locks it.
type names struct {
	known    map[string]*list.Element // of *known, by the whole name
	order    list.List                // the oldest first
	listings map[string]*listing
	listed   int // names of listings
}

// A listing holds all names of a directory.
type listing struct {
	entries []string // sorted
	until   time.Time
	next    int // the entry after the one that was requested last
}

func newNames() *names {
	return &names{known: make(map[string]*list.Element), listings: make(map[string]*listing)}
}

// learn records what the store answered about a name.
func (n *names) learn(info objectInfo, isListed bool, now time.Time) {
	until := now.Add(answeredFor)
	if isListed || info.isDir {
		until = now.Add(listedFor)
	}
	if e := n.known[info.name]; e != nil {
		if old := e.Value.(*known); isListed && !old.isListed && old.until.After(now) {
			return // it has the tag
		}
		n.forgetElement(e)
	}
	n.known[info.name] = n.order.PushBack(&known{info.name, info, isListed, until})
	for n.order.Len() > maxKnown {
		n.forgetElement(n.order.Front())
	}
}

// find returns what is known about a name. An answer that is listed may lack the tag.
func (n *names) find(name string, now time.Time) (info objectInfo, isListed, ok bool) {
	e := n.known[name]
	if e == nil {
		return info, false, false
	}
	k := e.Value.(*known)
	if !now.Before(k.until) {
		n.forgetElement(e)
		return info, false, false
	}
	return k.info, k.isListed, true
}

// forget drops what is known about a name.
func (n *names) forget(name string) {
	if e := n.known[name]; e != nil {
		n.forgetElement(e)
	}
}

func (n *names) forgetElement(e *list.Element) {
	delete(n.known, e.Value.(*known).name)
	n.order.Remove(e)
}

// learnListing records all names of a directory.
func (n *names) learnListing(dir string, entries []string, now time.Time) {
	n.forgetListing(dir)
	for other, l := range n.listings {
		if !now.Before(l.until) || n.listed+len(entries) > maxKnown {
			n.forgetListing(other)
		}
	}
	if len(entries) <= maxKnown {
		n.listings[dir] = &listing{entries: entries, until: now.Add(listedFor)}
		n.listed += len(entries)
	}
}

func (n *names) forgetListing(dir string) {
	if l := n.listings[dir]; l != nil {
		n.listed -= len(l.entries)
		delete(n.listings, dir)
	}
}

// findListing returns all names of a directory.
func (n *names) findListing(dir string, now time.Time) ([]string, bool) {
	l := n.listings[dir]
	if l == nil || !now.Before(l.until) {
		n.forgetListing(dir)
		return nil, false
	}
	return l.entries, true
}

// sequel returns names that will probably be requested next, after a name of a listing was. These
// are at most so many, which are not known yet, and the name first. It returns none unless the
// entry before it was requested last.
func (n *names) sequel(name string, count int, now time.Time) (wanted []string) {
	dir := disk.Parent(name)
	entries, isListed := n.findListing(dir, now)
	if !isListed {
		return nil
	}
	i, ok := slices.BinarySearch(entries, disk.Base(name))
	l := n.listings[dir]
	isNext := ok && i > 0 && i == l.next
	l.next = i + 1
	if !isNext {
		return nil
	}
	for ; i < len(entries) && len(wanted) < count; i++ {
		next := disk.JoinPath(dir, entries[i])
		if _, _, isKnown := n.find(next, now); !isKnown {
			wanted = append(wanted, next)
		} else if len(wanted) == 0 {
			return nil
		}
	}
	return wanted
}

// maxNameLength bounds a component of a name, in bytes, as file systems do.
const maxNameLength = 255

// isHoldable reports whether a file system can hold a name of one component.
func isHoldable(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxNameLength &&
		!strings.ContainsAny(name, "/\x00")
}

// A nameFilter chooses the entries of a directory that a file system can hold.
type nameFilter struct {
	dir     string
	entries map[string]objectInfo
	left    int    // out
	example string // one of these
}

// add adds an entry of a listing. Of an object and a directory with the same name the directory is
// held: it has more.
func (f *nameFilter) add(info objectInfo) {
	name := info.name
	if !isHoldable(name) {
		f.leaveOut(name)
		return
	}
	if old, isDouble := f.entries[name]; isDouble {
		switch {
		case old.isDir == info.isDir:
			return
		case !info.isDir:
			f.leaveOut(name)
			return
		}
		f.leaveOut(name)
	}
	info.name = disk.JoinPath(f.dir, name)
	f.entries[name] = info
}

func (f *nameFilter) leaveOut(name string) {
	f.left++
	f.example = name
}
