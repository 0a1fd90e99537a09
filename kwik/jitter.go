package kwik

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// newJitter returns the random source of a back-off that concerns one path or member, named by
// its ID. It is for one goroutine. The clock seeds it: clients that lost a server together
// still differ by nanoseconds, and a simulation in virtual time repeats.
func newJitter(id string) func() float64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), h.Sum64())).Float64
}
