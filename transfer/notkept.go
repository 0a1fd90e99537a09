package transfer

import "sync"

// NotKept counts by kind what a mirror did not keep. Entries have it on the server and lack it
// in the target. Older servers tell little of it.
type NotKept struct {
	HardLinks    int64 // names of one file that are separate files in the target
	Owners       int64 // entries of another owner or group
	SpecialModes int64 // entries without their setuid, setgid or sticky bit
	Xattrs       int64 // entries without some of their extended attributes
	ACLs         int64 // entries without their ACL
	Specials     int64 // devices, FIFOs and sockets
	OutsideLinks int64 // symlinks that lead, or may lead, outside the tree
}

// Total returns the sum of the counts.
func (n NotKept) Total() int64 {
	return n.HardLinks + n.Owners + n.SpecialModes + n.Xattrs + n.ACLs + n.Specials + n.OutsideLinks
}

// A notKeptCount is a NotKept that several goroutines add to.
type notKeptCount struct {
	mu sync.Mutex
	n  NotKept
}

func (c *notKeptCount) add(to func(*NotKept)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to(&c.n)
}

func (c *notKeptCount) addAll(lost NotKept) {
	c.add(func(n *NotKept) {
		n.HardLinks += lost.HardLinks
		n.Owners += lost.Owners
		n.SpecialModes += lost.SpecialModes
		n.Xattrs += lost.Xattrs
		n.ACLs += lost.ACLs
		n.Specials += lost.Specials
		n.OutsideLinks += lost.OutsideLinks
	})
}

func (c *notKeptCount) get() NotKept {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// countLosses counts what the mirror will not keep of an entry.
func (m *mirror) countLosses(e Entry) {
	meta := e.metadata
	if meta == nil {
		return
	}
	m.notKept.add(func(n *NotKept) {
		if meta.owner != nil && !m.Owner && !m.isOwn(meta.owner) {
			n.Owners++
		}
		if meta.special != 0 && !m.SpecialModes {
			n.SpecialModes++
		}
		if meta.xattrsOmitted {
			n.Xattrs++
		}
		if meta.aclsOmitted {
			n.ACLs++
		}
	})
}

// countSkipped counts an entry that is left out for its type or for where it leads.
func (m *mirror) countSkipped(e Entry) {
	m.notKept.add(func(n *NotKept) {
		if e.Type == EntryLink {
			n.OutsideLinks++
		} else {
			n.Specials++
		}
	})
}
