package kwik

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// A secondary that finds its copy to be another version is not suspended. One that answers so
// again and again is.
func TestStaleIsNotSuspended(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		w.secondaries = append(w.secondaries, w.join(configured(func(c *ServerConfig) {
			c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
				if r.Session == nil {
					return nil, NewError(ErrContentChanged, "another version")
				}
				return memory{make([]byte, len(w.data))}, nil
			}
		})))
		for i := range maxStaleAnswers + 1 {
			if m := w.primary.memberList(); len(m) != 1 || m[0].Suspended || len(said.all()) > 0 {
				w.t.Fatalf("after %d: %+v, %v", i, m, said.all())
			}
			client, server := w.dial(nil)
			w.wantState(client, "s1", PathActive)
			s := w.offer(client, server, unit, w.prove)
			w.copy(s).wantAll()
			client.CloseWithError(0, "")
			time.Sleep(2 * provedPause)
		}
		if m := w.primary.memberList(); len(m) != 1 || !m[0].Suspended || len(said.all()) != 1 {
			w.t.Errorf("%+v, %v", m, said.all())
		}
	})
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
		blame := func(id ServerID, stream, offset uint64) {
			client.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
				PathId: string(id), State: kwikpb.PathState_PATH_STATE_BANNED, Reason: "because",
				Blame: &kwikpb.Blame{KwikStreamId: stream, Offset: offset, Length: 1},
			}}})
		}
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
