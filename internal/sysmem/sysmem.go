// Package sysmem finds out how much memory the process may use.
package sysmem

import (
	"math"
	"runtime/debug"
	"sync"
)

// unknown is the memory, in bytes, that is assumed where the system does not report it.
const unknown = 2 << 30

// Limit returns how much memory the process may use, in bytes. It is the machine's, or less if the
// process's control groups, its resource limits or GOMEMLIMIT demand that. It is found out once.
var Limit = sync.OnceValue(func() int64 {
	limit := systemLimit()
	if limit <= 0 || limit == math.MaxInt64 {
		limit = unknown
	}
	return min(limit, debug.SetMemoryLimit(-1))
})
