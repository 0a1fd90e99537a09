package kwik

import (
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// Fifty clients at once on a primary and two secondaries all finish, and none takes three times
// as long as the fastest.
func TestFiftyClients(t *testing.T) {
	clients := 50
	if raceEnabled {
		clients = 10 // the race detector is slow
	}
	inWorldOf(t, 1<<20, 2, simnet.Link{Latency: 5 * time.Millisecond, Rate: 200e6}, func(w *world) {
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		sessions := make(map[*ClientSession]*AggregateReader)
		for range clients {
			client, server := w.dial(nil)
			sessions[client] = w.offer(client, server, unit, nil)
		}
		start := time.Now()
		for client, s := range sessions {
			wg.Go(func() {
				c := w.copy(s)
				c.wantAll()
				client.CloseWithError(0, "")
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(start))
			})
		}
		wg.Wait()
		fastest, slowest := took[0], took[0]
		for _, d := range took {
			fastest, slowest = min(fastest, d), max(slowest, d)
		}
		w.t.Logf("%v to %v", fastest, slowest)
		if len(took) != clients || slowest > 3*fastest {
			w.t.Errorf("%d finished, after %v to %v", len(took), fastest, slowest)
		}
	})
}
