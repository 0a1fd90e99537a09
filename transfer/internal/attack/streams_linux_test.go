package attack

import (
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A client opens streams as fast as it can and resets each at once. The server's memory stays
// bounded, and an honest client is served.
func TestAttackStreamResets(t *testing.T) {
	s := newServer(t)
	s.fill("f", 4<<20)
	s.start("")
	before := s.alone("f")
	start := s.usage()
	h := newHost(t, "127.0.4.1")
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() { // ends after 3 s, and the test waits for it
		resets := 0
		for begun := time.Now(); time.Since(begun) < 3*time.Second; resets++ {
			stream, err := c.conn.OpenStream()
			if err != nil {
				time.Sleep(time.Millisecond) // the server's limit of streams
				continue
			}
			stream.Write([]byte{200})
			stream.CancelWrite(0)
			stream.CancelRead(0)
		}
		done <- resets
	}()
	beside := s.mustGet("f")
	resets := <-done
	u := s.usage()
	t.Logf("%d streams were reset; %v", resets, u)
	t.Logf("an honest get takes %.3f s alone and %.3f s beside them", before.Seconds(), beside.Seconds())
	if u.peak > start.peak+64<<20 {
		t.Errorf("the server uses %d MiB more", (u.peak-start.peak)>>20)
	}
	if beside > 3*before+time.Second {
		t.Errorf("an honest get took %v, alone it took %v", beside, before)
	}
}

// A client makes requests and acknowledges nothing more. The congestion window bounds what the
// server then sends, and all of it goes to an address that has been validated (row D5).
func TestAttackRequestsWithoutAcknowledgement(t *testing.T) {
	s := newServer(t)
	s.fill("f", 64<<20)
	s.start("")
	s.mustGet("f")
	h := newHost(t, "127.0.4.2")
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	idle := h.socket.received.Load()
	for range 20 {
		if _, err := c.request(&transferpb.Request{Path: []byte("f"), HeadStart: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	for start := time.Now(); h.socket.received.Load() < idle+64<<10; time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatal("nothing is sent")
		}
	}
	h.socket.silent.Store(true)
	sent := h.socket.received.Load()
	time.Sleep(3 * time.Second) // of retransmissions
	more := h.socket.received.Load() - sent
	t.Logf("a client that fell silent is sent %d bytes more in 3 s", more)
	if limit := int64(2 << 20); more > limit {
		t.Errorf("%d bytes were sent to a silent client", more)
	}
}
