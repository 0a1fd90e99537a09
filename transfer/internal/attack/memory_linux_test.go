package attack

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// ofOneGiB is the memory for clients of a server on a machine with 1 GiB.
const ofOneGiB = "256M"

// crowd opens n hostile sessions from several addresses, as many at a time as there are addresses,
// and lets each of them attack. It returns how many attacks succeeded; a server may refuse them.
// The sessions stay open until the test ends.
func crowd(t *testing.T, s *server, n, addresses int, config *quic.Config, attack func(*client) error) (succeeded int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range addresses {
		h := newHost(t, fmt.Sprintf("127.0.1.%d", 1+i))
		share := (n + addresses - 1 - i) / addresses
		wg.Go(func() {
			for range share {
				c, err := h.dial(s.addr, config)
				if err == nil {
					err = attack(c)
				}
				if err == nil {
					mu.Lock()
					succeeded++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return succeeded
}

// alone returns the median time of three honest gets without an attack.
func (s *server) alone(path string) time.Duration {
	times := []time.Duration{s.mustGet(path), s.mustGet(path), s.mustGet(path)}
	slices.Sort(times)
	return times[1]
}

// attachMany requests a file several times, attaches to each of the streams, and reads nothing of
// them.
func attachMany(path string, streams int) func(*client) error {
	return func(c *client) error {
		for range streams {
			stream, err := c.request(&transferpb.Request{Path: []byte(path), Range: &transferpb.ByteRange{End: 1}})
			if err != nil {
				return err
			}
			stream.SetReadDeadline(time.Now().Add(hostilePatience))
			if _, err := io.Copy(io.Discard, stream); err != nil {
				return err
			}
			offer, err := c.await(func(f *kwikpb.ControlFrame) bool { return f.GetStreamOffer() != nil })
			if err != nil {
				return err
			}
			if err := c.attach(offer.GetStreamOffer(), 4<<20); err != nil {
				return err
			}
		}
		return nil
	}
}

// Sessions have as many attachments as the protocol allows, each with a grant, and read nothing.
// They do not exhaust a server, and an honest get goes on beside them.
func TestAttackUnreadAttachments(t *testing.T) {
	s := newServer(t)
	s.fill("f", 64<<20)
	s.start("", "--max-memory", ofOneGiB)
	before := s.alone("f")
	stop := s.watch("attachments", time.Second)
	sessions := scale(12, 1000)
	attached := crowd(t, s, sessions, scale(12, 120), unread(), attachMany("f", 128))
	beside := s.mustGet("f")
	u := stop()
	t.Logf("%d of %d hostile sessions have 128 attachments each", attached, sessions)
	t.Logf("a get of 64 MiB takes %.2f s alone and %.2f s beside them", before.Seconds(), beside.Seconds())
	if limit := int64(scale(350, 600)) << 20; u.peak > limit {
		t.Errorf("the server used %d MiB of memory, more than %d", u.peak>>20, limit>>20)
	}
	if beside > 3*before+time.Second {
		t.Errorf("an honest get took %v, alone it took %v", beside, before)
	}
}
