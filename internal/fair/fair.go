// Package fair orders requests for a shared resource, such as the bytes that a rate limit lets
// pass. The requests are those of the leaves of a tree. The members of a node share the node's
// part of the resource equally, whatever the number and the size of their requests. A member that
// requests nothing leaves its part to the others, and is owed nothing later.
//
// It is start-time fair queueing (Goyal, Vin and Cheng, 1996) at each node of the tree. Each node
// has a virtual time, the service that each of its busy members has had. The member whose next
// request begins at the earliest virtual time is served. A member that was idle begins at the
// node's virtual time. Two busy members of a node differ by at most one request of each in what
// they have had.
//
// The package has no clock and no lock: the caller guards the tree.
package fair

import "container/heap"

// A Node is a member of a group, and may be a group itself. The zero Node is not valid: Root and
// Node.Member return valid ones. A node that waits for nothing is referenced by none of its
// group, so it costs its group nothing and needs not be removed.
type Node struct {
	parent *Node

	// As a group:
	now     int64 // virtual time, in units of service of one member
	waiting queue // members that wait

	// As a member:
	requests []*Request // a leaf's, the oldest first
	start    int64      // virtual time of the group at which the next request begins
	finish   int64      // virtual time at which the last one that was served ended
	seq      uint64     // breaks ties in the order of arrival
	index    int        // in the group's queue, if it waits there
	sequence *uint64    // the tree's next seq
}

// A Request is a leaf's request for a part of the resource.
type Request struct {
	// Size is the requested part.
	Size int64
	// Done is the caller's.
	Done chan struct{}

	leaf *Node // nil when it does not wait
}

// Waits reports whether the request waits.
func (r *Request) Waits() bool { return r.leaf != nil }

// Root returns the group of a new tree.
func Root() *Node { return &Node{sequence: new(uint64)} }

// Member returns a new member of a group.
func (n *Node) Member() *Node { return &Node{parent: n, sequence: n.sequence} }

// Push adds a request of a leaf, which must not be the root. A request waits once at a time.
func (n *Node) Push(r *Request) {
	r.leaf = n
	n.requests = append(n.requests, r)
	if len(n.requests) > 1 {
		return
	}
	for m := n; m.parent != nil; m = m.parent {
		group := m.parent
		wasWaiting := len(group.waiting) > 0
		m.start = max(group.now, m.finish)
		m.seq = *m.sequence
		*m.sequence++
		heap.Push(&group.waiting, m)
		if wasWaiting {
			break // the group waits in its own group
		}
	}
}

// Next returns the request that Pop will return; nil if none waits. n is the root.
func (n *Node) Next() *Request {
	for n.requests == nil && len(n.waiting) > 0 {
		n = n.waiting[0]
	}
	if len(n.requests) == 0 {
		return nil
	}
	return n.requests[0]
}

// Pop removes and returns the request to be served next; nil if none waits. n is the root.
func (n *Node) Pop() *Request {
	r := n.Next()
	if r == nil {
		return nil
	}
	for m := r.leaf; m.parent != nil; m = m.parent {
		m.parent.now = m.start
		m.finish = m.start + r.Size
	}
	r.leaf.remove(0)
	return r
}

// Remove removes a request that waits, as if it had never been made. It reports whether the request
// did wait.
func (n *Node) Remove(r *Request) bool {
	if r.leaf == nil {
		return false
	}
	for i, q := range r.leaf.requests {
		if q == r {
			r.leaf.remove(i)
			return true
		}
	}
	return false
}

// remove removes a leaf's request, and restores the order of the queues above it.
func (n *Node) remove(i int) {
	n.requests[i].leaf = nil
	n.requests = append(n.requests[:i], n.requests[i+1:]...)
	waits := len(n.requests) > 0
	if !waits {
		n.requests = nil
	}
	for m := n; m.parent != nil; m = m.parent {
		group := m.parent
		if waits {
			m.start = max(m.start, m.finish)
			m.seq = *m.sequence
			*m.sequence++
			heap.Fix(&group.waiting, m.index)
		} else {
			heap.Remove(&group.waiting, m.index)
		}
		waits = len(group.waiting) > 0
	}
}

// A queue is a heap of the members that wait, by start.
type queue []*Node

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if q[i].start != q[j].start {
		return q[i].start < q[j].start
	}
	return q[i].seq < q[j].seq
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	m := x.(*Node)
	m.index = len(*q)
	*q = append(*q, m)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	m := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return m
}
