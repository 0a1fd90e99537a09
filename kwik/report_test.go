package kwik

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A proof may fail when the other server has already delivered the bytes. Its report still leads to
// a challenge: the client releases the stream after it.
func TestReportOfALateProof(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), (&standing{}).option(w))
		var challenges atomic.Int32
		w.secondaries = append(w.secondaries, w.join(configured(func(c *ServerConfig) {
			c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
				if r.Session == nil {
					challenges.Add(1)
				}
				return memory{make([]byte, len(w.data))}, nil
			}
		})))
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		delivered := make(chan struct{})
		s := w.offer(client, server, unit, func(id ServerID, off int64, p []byte) error {
			if id == "s1" {
				<-delivered
			}
			return w.prove(id, off, p)
		})
		c := w.copy(s)
		c.wantAll()
		synctest.Wait() // the client has released the stream, or waits for the proof
		close(delivered)
		w.within(time.Minute, func() bool { return challenges.Load() > 0 })
		w.within(time.Second, func() bool {
			server.mu.Lock()
			defer server.mu.Unlock()
			return len(server.offers) == 0
		})
	})
}

// The application may complete the descriptor of a challenge.
func TestChallengeDescriptor(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		var completions atomic.Int32
		complete := configured(func(c *ServerConfig) {
			c.ChallengeDescriptor = func(descriptor []byte) []byte {
				completions.Add(1)
				return append(descriptor, " of version 2"...)
			}
		})
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), (&standing{}).option(w), complete)
		challenged := make(chan string, 1)
		w.secondaries = append(w.secondaries, w.join(configured(func(c *ServerConfig) {
			c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
				if r.Session == nil {
					challenged <- string(r.Descriptor)
				}
				return memory{w.data}, nil
			}
		})))
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		client.blame("s1", uint64(s.StreamID()), 0)
		if got := <-challenged; got != "data of version 2" {
			t.Errorf("challenged for %q", got)
		}
		time.Sleep(time.Minute)
		if m := w.primary.memberList(); m[0].Suspended || completions.Load() != 1 {
			t.Errorf("%+v, %d completions", m, completions.Load())
		}
	})
}
