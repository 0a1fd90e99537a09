package kwik

import "kwikcp/internal/budget"

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
	// sharesOfMemory is the number of sessions that may together hold all memory.
	sharesOfMemory = 8
)

// defaultMemoryLimit returns the memory for clients on a machine with the given memory, in bytes.
func defaultMemoryLimit(machine int64) int64 {
	return min(max(machine/4, minDefaultMemoryLimit), maxDefaultMemoryLimit)
}

func newMemoryBudget(c *ServerConfig) *budget.Total {
	return budget.New(c.MemoryLimit, int64(c.MaxSessions), memoryFloor, c.MemoryLimit/sharesOfMemory)
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

// Release returns n bytes that were charged by Reserve. It panics if they were not.
func (s *ServerSession) Release(n int64) { s.memory.Release(n) }
