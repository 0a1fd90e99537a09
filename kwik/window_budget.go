package kwik

import (
	"sync"

	"github.com/quic-go/quic-go"
)

// This file bounds the memory that the servers of a session can take together. A connection's
// receive window is how many bytes its server may send that are not read. Every path has one, and
// a primary decides how many paths there are.

const (
	// defaultWindowLimit and minWindowLimit bound the windows of all paths of a session, in bytes.
	defaultWindowLimit = 128 << 20
	minWindowLimit     = 48 << 20
	// pathWindow is the part of the limit that each path has for itself, in bytes.
	pathWindow = 128 << 10
	// maxPaths bounds the paths of a session.
	maxPaths = maxSecondaryPaths + 1 + maxFurtherPaths
)

// A windowBudget divides the limit of a session's receive windows among its paths. The first paths
// get as much as they ask for. Further ones get a quarter of what is left, and at least
// pathWindow. A window grows while something is left. It cannot shrink before its path ends. A
// windowBudget is safe for concurrent use.
type windowBudget struct {
	mu   sync.Mutex
	left int64 // bytes that no path has, without pathWindow of each path
}

func newWindowBudget(limit int64) *windowBudget {
	return &windowBudget{left: limit - maxPaths*pathWindow}
}

// A windowShare is the part of a budget that one path has.
type windowShare struct {
	budget *windowBudget
	taken  int64 // of budget.left; guarded by its lock
	closed bool  // likewise
}

// open returns the share of a new path that asks for want bytes, and the window to begin with. The
// caller closes it when the path has ended.
func (b *windowBudget) open(want int64) (share *windowShare, window int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := max(min(want-pathWindow, b.left/4), 0)
	b.left -= taken
	return &windowShare{budget: b, taken: taken}, min(want, taken+pathWindow)
}

// grow takes n bytes more and reports whether there were so many.
func (s *windowShare) grow(n int64) bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.closed || n > s.budget.left {
		return false
	}
	s.budget.left -= n
	s.taken += n
	return true
}

// close returns the share to the budget.
func (s *windowShare) close() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.left += s.taken
	s.taken, s.closed = 0, true
}

// pathQUIC returns the QUIC configuration of a new path, whose receive window is a share of the
// session's. The caller closes the share when the path has ended.
func (s *ClientSession) pathQUIC(role ServerRole) (*quic.Config, *windowShare) {
	q := s.config.clientQUIC(role)
	share, window := s.windows.open(int64(q.InitialConnectionReceiveWindow))
	q.InitialConnectionReceiveWindow = uint64(window)
	allowed := q.AllowConnectionWindowIncrease
	q.AllowConnectionWindowIncrease = func(conn *quic.Conn, delta uint64) bool {
		return share.grow(int64(delta)) && (allowed == nil || allowed(conn, delta))
	}
	return q, share
}

// owns makes the end of a path return its share.
func (d dialled) owns(share *windowShare) dialled {
	release := d.release
	d.release = func() {
		release()
		share.close()
	}
	return d
}
