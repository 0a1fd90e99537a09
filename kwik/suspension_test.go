package kwik

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// standing records the suspensions that a primary reports.
type standing struct {
	mu    sync.Mutex
	heard []error
}

func (s *standing) option(w *world) serverOption {
	return configured(func(c *ServerConfig) {
		c.OnSuspension = func(_ ServerID, reason error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.heard = append(s.heard, reason)
		}
		c.Verify = func(_ context.Context, descriptor []byte, off int64, p []byte) error {
			if string(descriptor) != "data" || !bytes.Equal(p, w.data[off:off+int64(len(p))]) {
				return errors.New("wrong bytes")
			}
			return nil
		}
	})
}

func (s *standing) all() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error(nil), s.heard...)
}

// A secondary whose bytes a client could not prove is not announced until it has proved them
// to the primary.
func TestSuspension(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		var mu sync.Mutex
		broken := true
		s1 := w.join(configured(func(c *ServerConfig) {
			right := c.OpenContent
			c.OpenContent = func(ctx context.Context, r ContentRequest) (Content, error) {
				mu.Lock()
				defer mu.Unlock()
				if broken {
					return memory{make([]byte, len(w.data))}, nil
				}
				return right(ctx, r)
			}
		}))
		w.secondaries = append(w.secondaries, s1, w.join())
		offered := func() []ServerID {
			client, _ := w.dial(nil)
			defer client.CloseWithError(0, "")
			time.Sleep(100 * time.Millisecond)
			var ids []ServerID
			for _, p := range client.Servers() {
				ids = append(ids, p.ID)
			}
			return ids
		}
		if ids := offered(); len(ids) != 3 {
			w.t.Fatalf("offered are %v", ids)
		}
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, w.prove)
		c := w.copy(s)
		c.wantAll()
		w.within(time.Second, func() bool { return len(said.all()) == 1 })
		if said.all()[0] == nil {
			w.t.Fatal("the primary lifts the suspension")
		}
		if ids := offered(); len(ids) != 2 || ids[1] != "s2" {
			w.t.Errorf("offered are %v", ids)
		}
		// A session that knows the secondary gets no ticket for it with a new stream either.
		w.offer(client, server, unit, nil)
		client.mu.Lock()
		for id, open := range client.streams {
			if id != s.StreamID() && open.tickets["s1"] != nil {
				w.t.Error("there is a ticket for it")
			}
		}
		client.mu.Unlock()
		time.Sleep(5 * time.Minute) // many challenges
		if n := len(said.all()); n != 1 {
			w.t.Errorf("heard of it %d times", n)
		}
		mu.Lock()
		broken = false
		mu.Unlock()
		w.within(maxChallenge+time.Minute, func() bool { return len(said.all()) == 2 })
		if said.all()[1] != nil {
			w.t.Errorf("suspended again: %v", said.all()[1])
		}
		if ids := offered(); len(ids) != 3 {
			w.t.Errorf("offered are %v", ids)
		}
	})
}

// excuses are the ways in which a secondary cannot show the bytes of a challenge.
func excuses() map[string]func(context.Context, ContentRequest) (Content, error) {
	failing := func(err error) func(context.Context, ContentRequest) (Content, error) {
		return func(context.Context, ContentRequest) (Content, error) { return nil, err }
	}
	return map[string]func(context.Context, ContentRequest) (Content, error){
		"lacks the file":         failing(errors.New("no such file")),
		"has no such content":    failing(NewError(ErrContentUnavailable, "no such version")),
		"has another version":    failing(NewError(ErrContentChanged, "another version")),
		"is busy":                failing(NewError(ErrServerBusy, "too many open files")),
		"has another size":       func(context.Context, ContentRequest) (Content, error) { return memory{}, nil },
		"has an unreadable file": func(context.Context, ContentRequest) (Content, error) { return unreadable{}, nil },
		"hashes for a long time": func(ctx context.Context, _ ContentRequest) (Content, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
}

// unreadable is a Content that cannot be read.
type unreadable struct{}

func (unreadable) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }
func (unreadable) Close() error                      { return nil }

// A secondary that cannot show the bytes is not suspended, however often clients report it, and
// stays announced to them.
func TestAttackReportsOfAnExcusedSecondary(t *testing.T) {
	for name, open := range excuses() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, 4<<20, 0, lan, func(w *world) {
				w.primary.stop()
				said := &standing{}
				w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
				var challenges atomic.Int32
				w.secondaries = append(w.secondaries, w.join(configured(func(c *ServerConfig) {
					c.OpenContent = func(ctx context.Context, r ContentRequest) (Content, error) {
						if r.Session == nil {
							challenges.Add(1)
							return open(ctx, r)
						}
						return memory{w.data}, nil
					}
				})))
				client, server := w.dial(nil)
				s := w.offer(client, server, unit, nil)
				for i := range uint64(40) {
					client.blame("s1", uint64(s.StreamID()), i*unit)
					time.Sleep(challengeTimeout + 2*provedPause)
					if m := w.primary.memberList(); len(m) != 1 || m[0].Suspended || len(said.all()) > 0 {
						w.t.Fatalf("after %d reports: %+v, %v", i+1, m, said.all())
					}
				}
				if n := challenges.Load(); n != 40 {
					w.t.Errorf("%d challenges for 40 reports", n)
				}
				client.mu.Lock()
				defer client.mu.Unlock()
				if !client.servers["s1"].isAnnounced() {
					w.t.Error("it is not announced to the client any more")
				}
			})
		})
	}
}

// blame sends a report that bytes of a server failed their proof.
func (s *ClientSession) blame(id ServerID, stream, offset uint64) {
	report := &kwikpb.PathStatus{
		PathId: string(id), State: kwikpb.PathState_PATH_STATE_BANNED, Reason: "because",
		Blame: &kwikpb.Blame{KwikStreamId: stream, Offset: offset, Length: 1},
	}
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: report}})
}

// A report counts only if the session was given a ticket for that stream at that secondary.
func TestAttackReportsWithoutATicket(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		var challenges atomic.Int32
		count := configured(func(c *ServerConfig) {
			right := c.OpenContent
			c.OpenContent = func(ctx context.Context, r ContentRequest) (Content, error) {
				if r.Session == nil {
					challenges.Add(1)
				}
				return right(ctx, r)
			}
		})
		w.secondaries = append(w.secondaries, w.join(count))
		client, server := w.dial(nil)
		other, otherServer := w.dial(nil)
		theirs := w.offer(other, otherServer, unit, nil)
		w.offer(other, otherServer, unit, nil)
		pushed := w.offerPushed(client, server, 4<<20, unit, nil)
		client.blame("s1", uint64(theirs.StreamID())+9, 0) // a stream that does not exist
		client.blame("s1", uint64(pushed.StreamID()), 0)
		client.blame("s9", uint64(pushed.StreamID()), 0)
		server.mu.Lock()
		server.offers[pushed.StreamID()].ticketed = nil
		server.mu.Unlock()
		stream := w.offer(client, server, unit, nil)
		server.mu.Lock()
		server.offers[stream.StreamID()].ticketed = nil // as if the secondary had been suspended then
		server.mu.Unlock()
		client.blame("s1", uint64(stream.StreamID()), 0)
		time.Sleep(time.Minute)
		if n := challenges.Load(); n != 0 || len(said.all()) != 0 {
			w.t.Errorf("%d challenges, %v", n, said.all())
		}
	})
}

// Sessions are cheap. So the cost of one client's reports for a secondary is bounded over all
// sessions of its address. They leave space for the report of another client.
func TestAttackReportsOverManySessions(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		var asked atomic.Int32
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), configured(func(c *ServerConfig) {
			c.Verify = func(context.Context, []byte, int64, []byte) error {
				asked.Add(1)
				return nil
			}
		}))
		w.secondaries = append(w.secondaries, w.join())
		socket, _ := w.listen() // one host for all sessions
		transport := &quic.Transport{Conn: socket}
		defer socket.Close()
		defer transport.Close()
		for range 10 {
			p := w.fakeDial(transport, w.primary, protocolClient)
			p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: make([]byte, 16)})
			p.receive()
			server := <-w.primary.sessions
			spec := AggregateStreamSpec{Size: 4 << 20, Alignment: unit, Descriptor: []byte("data")}
			o, err := server.OpenAggregateStream(spec)
			if err != nil {
				w.t.Fatal(err)
			}
			for i := range uint64(200) {
				report := &kwikpb.PathStatus{
					PathId: "s1", Blame: &kwikpb.Blame{KwikStreamId: uint64(o.StreamID()), Offset: i % 64 * unit},
				}
				p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: report}})
				time.Sleep(100 * time.Millisecond)
				w.primary.mu.Lock()
				owed := len(w.primary.members.byID["s1"].rejected)
				w.primary.mu.Unlock()
				if owed > maxRejectedByClient {
					w.t.Fatalf("%d units of one client are rejected", owed)
				}
			}
			p.conn.CloseWithError(0, "")
		}
		// 200 s: 256 reports at once, and one each 10 s.
		w.primary.mu.Lock()
		left := w.primary.reports.TryTake(clientPrefix(socket.LocalAddr()), time.Now())
		w.primary.mu.Unlock()
		w.t.Logf("2,000 reports in 200 s made the secondary answer %d challenges", asked.Load())
		if n := asked.Load(); n < 10 || n > 60 || left {
			w.t.Errorf("%d challenges for 2,000 reports in 200 s; more reports are handled: %v", n, left)
		}
	})
}

// A member that was suspended and has left is forgotten after unprovedLife, and the newest are
// remembered.
func TestUnprovedExpires(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	m := members{unproved: make(map[memberKey]unprovedUnit)}
	gone := func(n byte) *member {
		return &member{pin: trust.Pin{n}, suspended: true, rejected: []rejectedUnit{{start: int64(n)}, {start: 99}}}
	}
	for n := range byte(5) {
		m.remember(gone(n), start.Add(time.Duration(n)*time.Minute), 3)
	}
	if len(m.unproved) != 3 || m.unproved[memberKey{pin: trust.Pin{4}}].unit.start != 4 {
		t.Errorf("%+v", m.unproved)
	}
	m.remember(gone(9), start.Add(2*time.Minute+unprovedLife), 3)
	if _, old := m.unproved[memberKey{pin: trust.Pin{2}}]; old || len(m.unproved) != 3 {
		t.Errorf("%+v", m.unproved)
	}
}

// A client that lies about an honest secondary does not exclude it: the primary requests the
// bytes, and they are right. Malformed reports are ignored.
func TestFalseBlame(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		w.secondaries = append(w.secondaries, w.join())
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		blame := client.blame
		for off := range uint64(40) {
			blame("s1", uint64(s.StreamID()), off*unit/2)
		}
		blame("s1", uint64(s.StreamID()), 4<<20)
		blame("s1", uint64(s.StreamID()), 1<<63)
		blame("s1", 1<<63, 0)
		blame("s9", uint64(s.StreamID()), 0)
		blame("primary", uint64(s.StreamID()), 0)
		time.Sleep(time.Second)
		if m := w.primary.memberList(); len(m) != 1 || m[0].Suspended || len(said.all()) != 0 {
			w.t.Errorf("%+v, %v", m, said.all())
		}
		w.copy(s).wantAll()
	})
}

// A suspended secondary that joins again stays suspended until it has proved the rejected
// units.
func TestSuspensionOutlastsTheMembership(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		s1 := w.join(corrupt(func(b []byte) { clear(b) }))
		w.secondaries = append(w.secondaries, s1)
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, w.prove)
		w.copy(s).wantAll()
		w.within(time.Second, func() bool { return len(said.all()) == 1 })
		s1.member.Close()
		w.within(time.Second, func() bool { return len(w.primary.memberList()) == 0 })
		s1.join(JoinConfig{Token: w.token})
		time.Sleep(time.Minute)
		if m := w.primary.memberList(); len(m) != 1 || !m[0].Suspended || len(said.all()) != 1 {
			w.t.Errorf("after another join: %+v, %v", m, said.all())
		}
		s1.stop() // repaired
		again := w.join(restarted(s1))
		w.secondaries = append(w.secondaries, again)
		w.within(time.Minute, func() bool { m := w.primary.memberList(); return len(m) == 1 && !m[0].Suspended })
		if heard := said.all(); len(heard) != 2 || heard[1] != nil {
			w.t.Errorf("%v", heard)
		}
	})
}

// A client that lies all the time excludes no server, not for a moment, and costs the servers
// little.
func TestLiesWithoutEnd(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		var asked atomic.Int32
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), configured(func(c *ServerConfig) {
			c.Verify = func(context.Context, []byte, int64, []byte) error {
				asked.Add(1)
				return nil
			}
		}))
		w.secondaries = append(w.secondaries, w.join())
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		for i := range uint64(1000) {
			client.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
				PathId: "s1", Blame: &kwikpb.Blame{KwikStreamId: uint64(s.StreamID()), Offset: i % 64 * unit},
			}}})
			time.Sleep(10 * time.Millisecond)
			if w.primary.memberList()[0].Suspended {
				w.t.Fatal("suspended for a word")
			}
		}
		time.Sleep(time.Minute)
		if n := asked.Load(); n == 0 || n > 30 {
			w.t.Errorf("%d challenges for 1000 lies", n)
		}
	})
}

// Pushed bytes cannot be requested, and a primary without Verify trusts no report. A report
// changes nothing there.
func TestBlameThatCannotBeChecked(t *testing.T) {
	inWorldOf(t, 4<<20, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		for _, s := range []*AggregateReader{w.offerPushed(client, server, 4<<20, unit, nil), w.offer(client, server, unit, nil)} {
			client.reportRejected("s1", kwikpb.PathState_PATH_STATE_BANNED, &kwikpb.Blame{KwikStreamId: uint64(s.StreamID())}, errors.New("because"))
		}
		time.Sleep(time.Hour)
		if m := w.primary.memberList(); len(m) != 1 || m[0].Suspended {
			w.t.Errorf("%+v", m)
		}
	})
}

// Malformed challenges are answered with a reason, and do not end the membership.
func TestHostileChallenges(t *testing.T) {
	inWorldOf(t, 4<<20, 1, lan, func(w *world) {
		right := kwikpb.Challenge{Size: 4 << 20, Alignment: unit, Descriptor_: []byte("data"), Length: unit}
		l := w.secondaries[0].Listener
		for name, change := range map[string]func(c *kwikpb.Challenge){
			"nothing":            func(c *kwikpb.Challenge) { c.Length = 0 },
			"too much":           func(c *kwikpb.Challenge) { c.Length = sched.MaxUnit + 1 },
			"beyond the end":     func(c *kwikpb.Challenge) { c.Offset = 4<<20 - 1 },
			"at the end":         func(c *kwikpb.Challenge) { c.Offset = 4 << 20 },
			"an overflow":        func(c *kwikpb.Challenge) { c.Offset = 1<<64 - 1 },
			"no size":            func(c *kwikpb.Challenge) { c.Size = 0 },
			"unknown content":    func(c *kwikpb.Challenge) { c.Descriptor_ = []byte("other") },
			"an endless name":    func(c *kwikpb.Challenge) { c.Descriptor_ = make([]byte, maxDescriptor+1) },
			"larger than it is":  func(c *kwikpb.Challenge) { c.Size, c.Offset = 8<<20, 4<<20 },
			"segments that lack": func(c *kwikpb.Challenge) { c.Segments = []uint64{1, 2} },
		} {
			c := kwikpb.Challenge{Size: right.Size, Alignment: right.Alignment, Descriptor_: right.Descriptor_, Length: right.Length}
			change(&c)
			if p, err := l.readChallenged(w.t.Context(), &c); err == nil || p != nil {
				w.t.Errorf("%s: %d bytes, %v", name, len(p), err)
			}
		}
		if p, err := l.readChallenged(w.t.Context(), &right); err != nil || !bytes.Equal(p, w.data[:unit]) {
			w.t.Errorf("the right one: %d bytes, %v", len(p), err)
		}
		w.primary.mu.Lock()
		m := w.primary.members.byID["s1"]
		w.primary.mu.Unlock()
		stream, err := m.conn.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte{3, 1, 2, 3})
		if _, err := stream.Read(make([]byte, 1)); err == nil {
			w.t.Error("garbage is answered")
		}
		stream.CancelWrite(0)
		if err := m.conn.Context().Err(); err != nil {
			w.t.Error("the membership ended")
		}
	})
}
