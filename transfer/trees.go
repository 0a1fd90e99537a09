package transfer

import (
	"fmt"
	"sync"

	"kwikcp/integrity"
	"kwikcp/internal/sysmem"
)

// This file bounds what the trees of a server may cost a client. A server can claim any size, and
// the number of chaining values follows from the size.

// checkGroup applies the rule of docs/PROTOCOL.md section 12: the size of a file determines the
// size of its chunk groups. A server that could choose small groups could make the client hold
// 1,024 times as many chaining values.
func checkGroup(size int64, group uint32) error {
	if want := integrity.GroupSizeFor(size); group != uint32(want) {
		return fmt.Errorf("%w: a file of %d bytes has groups of 2^%d chunks, not 2^%d", errManifest, size, want, group)
	}
	return nil
}

// maxFileSize is the size of the largest file that has a tree, in bytes.
const maxFileSize = integrity.MaxGroups << 20

const (
	// maxTreeMemory and minTreeMemory bound the default of a treeBudget, in bytes: the trees of 32
	// TiB and of 2 TiB of files.
	maxTreeMemory = cvSize * integrity.MaxGroups
	minTreeMemory = 64 << 20
)

// A treeBudget bounds the chaining values that all transfers of a process hold, in bytes. It is
// safe for concurrent use.
type treeBudget struct {
	limit int64

	mu   sync.Mutex
	held int64 // guarded by mu
}

// processTrees is the budget of this process, which may have less memory than the machine.
var processTrees = &treeBudget{limit: treeMemoryFor(sysmem.Limit())}

// treeMemoryFor returns the limit for a process that may use so many bytes of memory.
func treeMemoryFor(memory int64) int64 { return min(max(memory/8, minTreeMemory), maxTreeMemory) }

// A treeShare is the part of a budget that one transfer holds. It is used by one goroutine at a
// time. The zero value uses the budget of the process and holds nothing.
type treeShare struct {
	budget *treeBudget // nil means processTrees
	held   int64
}

// take charges n bytes that have arrived. It does not wait: a transfer that waits would hold what
// another waits for.
func (s *treeShare) take(n int64) error {
	if s.budget == nil {
		s.budget = processTrees
	}
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.limit-b.held {
		return &Error{Kind: KindLocal, Op: "receive the hash trees of the files", Err: fmt.Errorf(
			"they need more than the %d MiB of memory that this process has for them", b.limit>>20)}
	}
	b.held += n
	s.held += n
	return nil
}

// release returns everything that was taken.
func (s *treeShare) release() {
	if s.held == 0 {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.held -= s.held
	s.held = 0
}
