package kwik

import (
	"sync"

	"github.com/quic-go/quic-go"
)

// This file bounds the memory that the servers of a session can take together. A connection's
// receive window is how many bytes its server may send that are not read. For each secondary stream
// the client may hold a unit that is not complete. Every path has a window and such streams, and a
// primary decides how many paths there are.

const (
	// defaultWindowLimit and minWindowLimit bound the windows of all paths of a session, in bytes.
	defaultWindowLimit = 128 << 20
	minWindowLimit     = 48 << 20
	// pathWindow is the part of the limit that each path has for itself, in bytes.
	pathWindow = 128 << 10
	// maxPaths bounds the paths of a session.
	maxPaths = maxSecondaryPaths + 1 + maxFurtherPaths
	// fullPaths is how many times MaxStreamsPerPath secondary streams all paths have together,
	// besides the pathStreamFloor of each.
	fullPaths       = 8
	pathStreamFloor = 4
)

// A shareBudget divides a limit of a session among its paths. Each path has floor for itself. The
// first paths get as much as they ask for. Further ones get a quarter of what is left. A share may
// grow while something is left. It cannot shrink before its path ends. A shareBudget is safe for
// concurrent use.
type shareBudget struct {
	floor int64

	mu   sync.Mutex
	left int64 // no path has it; without the floors
}

// A budgetShare is the part of a budget that one path has.
type budgetShare struct {
	budget *shareBudget
	taken  int64 // of budget.left; guarded by its lock
	closed bool  // likewise
}

// open returns the share of a new path that asks for want, and how much the path has. The caller
// closes the share when the path has ended.
func (b *shareBudget) open(want int64) (share *budgetShare, got int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := max(min(want-b.floor, b.left/4), 0)
	b.left -= taken
	return &budgetShare{budget: b, taken: taken}, min(want, taken+b.floor)
}

// grow takes n more and reports whether so much was left.
func (s *budgetShare) grow(n int64) bool {
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
func (s *budgetShare) close() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.left += s.taken
	s.taken, s.closed = 0, true
}

// A pathShares is what a path has of the session's budgets.
type pathShares struct {
	window, streams *budgetShare
	maxStreams      int // secondary streams that may be open at once
}

func (p *pathShares) close() {
	p.window.close()
	p.streams.close()
}

// pathQUIC returns the QUIC configuration of a new path, which has shares of the session's budgets.
// The caller closes them when the path has ended.
func (s *ClientSession) pathQUIC(role ServerRole) (*quic.Config, *pathShares) {
	q := s.config.clientQUIC(role)
	shares := &pathShares{}
	var window, streams int64
	shares.window, window = s.windows.open(int64(q.InitialConnectionReceiveWindow))
	shares.streams, streams = s.streamSlots.open(q.MaxIncomingUniStreams)
	shares.maxStreams = int(streams)
	q.InitialConnectionReceiveWindow, q.MaxIncomingUniStreams = uint64(window), streams
	allowed := q.AllowConnectionWindowIncrease
	q.AllowConnectionWindowIncrease = func(conn *quic.Conn, delta uint64) bool {
		return shares.window.grow(int64(delta)) && (allowed == nil || allowed(conn, delta))
	}
	return q, shares
}

// owns makes a connection return its shares at its end.
func (d dialled) owns(shares *pathShares) dialled {
	release := d.release
	d.maxStreams = shares.maxStreams
	d.release = func() {
		release()
		shares.close()
	}
	return d
}
