package kwik

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// delivered is the number of bytes of a stream that a path delivered and that counted.
func delivered(s *AggregateReader, id ServerID) int64 {
	for _, src := range s.Stats().Sources {
		if src.Server == id {
			return src.Bytes
		}
	}
	return 0
}

// A secondary that joins during a transfer is used at once.
func TestJoinDuringATransfer(t *testing.T) {
	inWorldOf(t, 4<<20, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		c := w.copy(w.offer(client, server, unit, nil))
		time.Sleep(200 * time.Millisecond)
		w.secondaries = append(w.secondaries, w.join())
		joined := time.Now()
		w.within(time.Second, func() bool { return delivered(c.s, "s1") > 0 })
		if took := time.Since(joined); took > 500*time.Millisecond {
			w.t.Errorf("its first bytes counted after %v", took)
		}
		c.wantAll()
		if n := delivered(c.s, "s1"); n < 256<<10 {
			w.t.Errorf("it brought %d bytes of %d", n, len(w.data))
		}
	})
}

// Tickets for paths and streams are renewed before they expire. After a day a secondary that has
// closed its unused path is dialed again and serves the stream that was offered first.
func TestTicketsAreRenewed(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, nil)
		time.Sleep(2*ticketLife + time.Hour)
		if state, n := w.path(client, "s1").State, len(w.secondaries[0].sessions); state != PathClosed || n != 1 {
			w.t.Errorf("%d paths were opened, the last is %v", n, state)
		}
		w.copy(s).wantAll()
		if delivered(s, "s1") == 0 {
			w.t.Error("the secondary delivered nothing")
		}
	})
}

// A secondary that leaves its primary is not announced to new clients. A client that it serves
// continues with it, closes the path when no stream needs it, and does not dial it again.
func TestLeaveDuringATransfer(t *testing.T) {
	inWorldOf(t, 4<<20, 1, slow, func(w *world) {
		client, server := w.dial(nil)
		s1 := w.secondaries[0]
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, "s1") > 0 })
		s1.member.Close()
		time.Sleep(200 * time.Millisecond)
		before := delivered(c.s, "s1")
		late, _ := w.dial(nil)
		time.Sleep(200 * time.Millisecond)
		if n := len(late.Servers()); n != 1 {
			w.t.Errorf("a new client knows %d paths", n)
		}
		if delivered(c.s, "s1") == before {
			w.t.Error("the secondary that left delivers no more")
		}
		c.wantAll()
		session := <-s1.sessions
		select {
		case <-session.Context().Done():
		case <-time.After(time.Second):
			w.t.Fatal("the client stays with a secondary that it needs no more")
		}
		if e, ok := errors.AsType[*quic.ApplicationError](context.Cause(session.Context())); !ok || e.ErrorCode != 0 {
			w.t.Errorf("the client left with %v", context.Cause(session.Context()))
		}
		time.Sleep(time.Minute)
		if len(s1.sessions) != 0 {
			w.t.Error("the client dialed a secondary that was withdrawn")
		}
	})
}

// The path to a secondary that serves no stream is closed at once.
func TestLeaveWhileIdle(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		client, _ := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		w.secondaries[0].member.Close()
		session := <-w.secondaries[0].sessions
		select {
		case <-session.Context().Done():
		case <-time.After(time.Second):
			w.t.Error("the client stays")
		}
	})
}

// A secondary that is withdrawn and announced again while it serves keeps its connection.
func TestLeaveAndJoinAgainDuringATransfer(t *testing.T) {
	inWorldOf(t, 4<<20, 0, slow, func(w *world) {
		s1 := w.join()
		w.secondaries = append(w.secondaries, s1)
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		time.Sleep(200 * time.Millisecond)
		w.primary.mu.Lock()
		m := w.primary.members.byID["s1"]
		server.tellGone("s1", "")
		w.primary.mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		w.primary.mu.Lock()
		server.tellMember(m)
		w.primary.mu.Unlock()
		c.wantAll()
		if st := w.path(client, "s1"); st.State != PathActive {
			w.t.Errorf("path %+v", st)
		}
		if n := len(s1.sessions); n != 1 {
			w.t.Errorf("%d connections to the secondary", n)
		}
		second := w.copy(w.offer(client, server, unit, nil))
		second.wantAll()
		if delivered(second.s, "s1") == 0 {
			w.t.Error("the path was not used for the next stream")
		}
	})
}

// A secondary restarts during a long transfer, with the same address and key. It joins again
// and gets the same ticket key, so older tickets stay valid. The clients notice at once that their
// connection is gone (Config.StatelessResetKey) and use the secondary again.
func TestSecondaryRestart(t *testing.T) {
	reset := configured(func(c *ServerConfig) { c.StatelessResetKey = &quic.StatelessResetKey{1, 2, 3} })
	inWorldOf(t, 10<<20, 0, slow, func(w *world) {
		s1 := w.join(reset)
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, "s1") > 0 })
		s1.kill()
		oldKeys := s1.ticketKeys()
		time.Sleep(300 * time.Millisecond)
		before := delivered(c.s, "s1")
		again := w.join(restarted(s1), reset)
		w.secondaries = append(w.secondaries, again)
		joined := time.Now()
		if again.member.ID() != "s1" {
			w.t.Errorf("it is %q now", again.member.ID())
		}
		if keys := again.ticketKeys(); len(keys) != 1 || keys[0] != oldKeys[0] {
			w.t.Error("it has another ticket key")
		}
		w.within(10*time.Second, func() bool { return delivered(c.s, "s1") > before })
		if took := time.Since(joined); took > 3*time.Second {
			w.t.Errorf("it was used again after %v", took)
		}
		c.wantAll()
	})
}

// A secondary that was away so long that clients rarely dial it is dialed as soon as it is
// announced again.
func TestSecondaryComesBackAfterLong(t *testing.T) {
	inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
		s := w.serve(ServerRoleSecondary)
		s.stop()
		add := &kwikpb.AddPath{PathId: "s1", KeyHash: s.pinBytes(), Addresses: []string{s.addr.String()}, Ticket: make([]byte, ticketSize)}
		p.addPath(add)
		time.Sleep(2 * time.Minute)
		again := w.serve(ServerRoleSecondary, restarted(s))
		w.secondaries = append(w.secondaries, again)
		again.member = &Membership{id: "s1"}
		again.mu.Lock()
		again.keys = []ticketKey{{1}}
		again.mu.Unlock()
		w.wantState(client, "s1", PathClosed) // between two dials
		add.Ticket = again.ticket(ticketScopePath, client.ID(), contentID{})
		p.addPath(add)
		if took := w.within(time.Minute, func() bool { return w.path(client, "s1").State == PathActive }); took > time.Second {
			w.t.Errorf("it is back after %v", took)
		}
	})
}

// A path whose connection is refused again and again is dialed less and less often.
func TestRedialBacksOff(t *testing.T) {
	inWorldOf(t, unit, 0, simnet.Link{Latency: time.Millisecond}, func(w *world) {
		server, id := w.fakeSecondary()
		client, _ := w.dial(nil)
		tries := 0
		for start := time.Now(); time.Since(start) < time.Minute; tries++ {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
			conn, err := server.listener.Accept(ctx)
			cancel()
			if err != nil {
				w.t.Fatal(err)
			}
			conn.CloseWithError(quic.ApplicationErrorCode(ErrAccessRefused), "no")
		}
		if tries > 10 {
			w.t.Errorf("dialled %d times in a minute", tries)
		}
		wantError(w.t, w.wantState(client, id, PathClosed).Err, ErrAccessRefused)
	})
}
