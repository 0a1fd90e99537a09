package attack

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"
)

// keptAlive is the configuration of a client that keeps its connection alive and does nothing.
func keptAlive() *quic.Config { return &quic.Config{KeepAlivePeriod: 5 * time.Second} }

// One address opens as many sessions as a server has places for, and does nothing with them.
// Others are served. In the long form the server also ends the sessions, although
// their clients keep them alive.
func TestAttackIdleSessions(t *testing.T) {
	s := newServer(t)
	s.fill("f", 1<<20)
	s.start("")
	before := s.usage()
	h := newHost(t, "127.0.2.1")
	var clients []*client
	for range 1100 {
		if c, err := h.dial(s.addr, keptAlive()); err == nil {
			clients = append(clients, c)
		}
	}
	u := s.usage()
	t.Logf("%d sessions were opened from one address: %v", len(clients), u)
	if len(clients) > 0 {
		t.Logf("%d KiB a session", (u.rss-before.rss)/int64(len(clients))>>10)
	}
	for range 5 {
		s.mustGet("f")
	}
	if !isLong {
		return
	}
	start, deadline := time.Now(), time.After(2*time.Minute)
	for _, c := range clients {
		select {
		case <-c.conn.Context().Done():
		case <-deadline:
			t.Fatal("idle sessions live for more than two minutes")
		}
	}
	t.Logf("all of them were ended after %.0f s: %v", time.Since(start).Seconds(), s.usage())
}

// A stranger completes handshakes and sends no first frame: on 300 connections at once, then on
// 100 a second. Honest gets succeed, and the log stays short.
func TestAttackConnectionsWithoutHello(t *testing.T) {
	s := newServer(t)
	s.fill("f", 1<<20)
	s.start("")
	h := newHost(t, "127.0.2.2")
	var opened atomic.Int64
	connect := func() {
		if _, err := h.connect(s.addr, "kwik/1", keptAlive()); err == nil {
			opened.Add(1)
		}
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 30 {
				connect()
			}
		})
	}
	wg.Wait()
	stop := make(chan struct{})
	wg.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				connect()
			}
		}
	})
	gets, failed := scale(8, 40), 0
	for range gets {
		if r := s.get("f", "--retry", "0"); r.code != 0 {
			failed++
			t.Logf("exit code %d: %s", r.code, r.text)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d connections without a first frame: %d of %d honest gets failed; %v", opened.Load(), failed,
		gets, s.usage())
	if failed > 0 {
		t.Errorf("%d honest gets failed", failed)
	}
	if lines := s.countLog("server is busy"); lines > 4 {
		t.Errorf("the server logged %d times that it is busy", lines)
	}
}

// Sessions send control frames of the greatest length and withhold the last byte. The server holds
// little of them and, in the long form, ends the sessions.
func TestAttackUnfinishedFrames(t *testing.T) {
	s := newServer(t)
	s.fill("f", 64<<20)
	s.start("", "--max-memory", ofOneGiB)
	before := s.usage()
	var mu sync.Mutex
	var clients []*client
	const length = 1<<20 - 1
	frame := append(protowire.AppendVarint(nil, length), make([]byte, length-1)...)
	sessions, patience := scale(96, 400), time.Duration(scale(500, 2000))*time.Millisecond
	opened := crowd(t, s, sessions, 24, keptAlive(), func(c *client) error {
		c.control.SetWriteDeadline(time.Now().Add(patience)) // a server may not take it
		c.control.Write(frame)
		mu.Lock()
		defer mu.Unlock()
		clients = append(clients, c)
		return nil
	})
	u := s.usage()
	t.Logf("%d of %d sessions with a frame of 1 MiB less a byte: %v", opened, sessions, u)
	if limit := before.rss + int64(scale(200, 300))<<20; u.rss > limit {
		t.Errorf("the server uses %d MiB, more than %d", u.rss>>20, limit>>20)
	}
	s.mustGet("f")
	if !isLong {
		return
	}
	deadline := time.After(2 * time.Minute)
	for _, c := range clients {
		select {
		case <-c.conn.Context().Done():
		case <-deadline:
			t.Fatal("sessions with unfinished frames live for more than two minutes")
		}
	}
}
