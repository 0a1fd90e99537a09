package kwik

import (
	"context"
	"time"

	"kwikcp/internal/budget"
)

// This file is the memory that a server holds for its clients. ServerConfig.MemoryLimit bounds it.
// Each session has a share of the budget. Memory is charged before it is taken, so that clients
// that take nothing, or request much, cannot exhaust the server.

const (
	// minMemoryLimit bounds ServerConfig.MemoryLimit, in bytes. The other two bound its default.
	minMemoryLimit        = 16 << 20
	minDefaultMemoryLimit = 64 << 20
	maxDefaultMemoryLimit = 4 << 30
	// memoryFloor is the memory that each session is guaranteed, in bytes: the largest block, and
	// the streams to use it. It is less if half of the limit does not suffice for all floors.
	memoryFloor = maxDataPayload + 128<<10
	// controlFloor is the same for queued control frames.
	controlFloor = 64 << 10
	// sharesOfMemory is the number of sessions that may together hold all memory.
	sharesOfMemory = 8
)

// defaultMemoryLimit returns the memory for clients on a machine with the given memory, in bytes.
func defaultMemoryLimit(machine int64) int64 {
	return min(max(machine/4, minDefaultMemoryLimit), maxDefaultMemoryLimit)
}

// newMemoryBudgets returns the budget of all memory but queued control frames, and that of those,
// which is an eighth. They are apart, because a session that may queue no more frames ends: blocks
// and streams must not cause that.
func newMemoryBudgets(c *ServerConfig) (memory, frames *budget.Total) {
	sessions, forFrames := int64(c.MaxSessions), c.MemoryLimit/8
	memory = budget.New(c.MemoryLimit-forFrames, sessions, memoryFloor, c.MemoryLimit/sharesOfMemory)
	return memory, budget.New(forFrames, sessions, controlFloor, 2*maxControlQueue)
}

// newContentBudget returns the budget of open contents. Each session may have one, if they suffice
// for twice as many sessions.
func newContentBudget(c *ServerConfig) *budget.Total {
	return budget.New(int64(c.MaxContents), int64(c.MaxSessions), 1, int64(c.MaxContents))
}

// Memory returns the bytes that the server holds for its clients, and how many it may hold.
func (l *Listener) Memory() (used, limit int64) {
	return l.memory.Used() + l.frames.Used(), l.config.MemoryLimit
}

// Reserve charges n bytes, kept for this client, to the memory budgets of the session and of the
// server. It fails with ErrServerBusy. The caller must call Release for them, even after the
// session has ended.
func (s *ServerSession) Reserve(n int64) error {
	if !s.memory.Reserve(n) {
		return errorf(ErrServerBusy, "the server has no memory for %d more bytes of this client", n)
	}
	return nil
}

// MemoryShare returns how many bytes one session may have at most.
func (s *ServerSession) MemoryShare() int64 { return s.listener.memory.Most() }

// Release returns n bytes that were charged by Reserve. It panics if they were not.
func (s *ServerSession) Release(n int64) { s.memory.Release(n) }

const (
	// attachmentMemory is the charge of an attached stream, in bytes: its goroutine's stack, its
	// QUIC stream and the queued grants. The descriptor and the segments are charged beside it.
	attachmentMemory = 12 << 10
	// offerMemory is the charge of an aggregate stream that a primary has offered, in bytes,
	// without its descriptor and its segments.
	offerMemory = 2 << 10
	// pushedMemory is the charge of a pushed stream, in bytes, likewise.
	pushedMemory = 2 << 10
	// busyTimeout bounds the wait for memory or an open content of a session that holds no block.
	// It is less than the 10 s after which clients give up by default, so that they learn the
	// reason.
	busyTimeout = 8 * time.Second
)

// blockMemory returns the charge of a block for n bytes of payload.
func blockMemory(n int) int64 { return int64(blockHeadroom + blockSizes[blockClass(n)]) }

// acquireBlock returns a block for want bytes of payload, or, if memory is short, for least. It
// waits while there is none. The caller must call releaseBlock.
func (s *ServerSession) acquireBlock(ctx context.Context, want, least int) (*block, error) {
	n := s.memory.TryAcquire(blockMemory(want), blockMemory(least))
	if n == 0 {
		var err error
		if n, err = s.acquire(ctx, s.memory, blockMemory(want), blockMemory(least)); err != nil {
			return nil, err
		}
	}
	s.blocks.Add(1)
	return newBlock(int(n - blockHeadroom)), nil
}

// releaseBlock releases a block of acquireBlock.
func (s *ServerSession) releaseBlock(b *block) {
	n := int64(len(b.room))
	b.release()
	s.blocks.Add(-1)
	s.memory.Release(n)
}

// acquire takes want, or else least, from a share of the session. It fails with ErrServerBusy after
// busyTimeout, except while the session holds blocks: then the client itself decides how long that
// takes.
func (s *ServerSession) acquire(ctx context.Context, share *budget.Share, want, least int64) (int64, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, busyTimeout)
		n, err := share.Acquire(attempt, want, least)
		cancel()
		switch {
		case err == nil:
			return n, nil
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case s.blocks.Load() == 0:
			return 0, errorf(ErrServerBusy, "the server's memory or files are in use by other clients")
		}
	}
}
