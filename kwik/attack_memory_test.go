package kwik

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// miser is the QUIC configuration of a hostile client: it allows many streams and takes few bytes.
var miser = &quic.Config{
	InitialStreamReceiveWindow: 1 << 10, MaxStreamReceiveWindow: 1 << 10, MaxIncomingUniStreams: 1000,
	InitialConnectionReceiveWindow: 64 << 10, MaxConnectionReceiveWindow: 64 << 10, KeepAlivePeriod: 10 * time.Second,
}

// fakeGuestWith is fakeGuest of a primary with another QUIC configuration.
func (w *world) fakeGuestWith(to *testServer, conf *quic.Config) *fakePeer {
	w.t.Helper()
	socket, _ := w.listen()
	transport := &quic.Transport{Conn: socket}
	w.t.Cleanup(func() {
		transport.Close()
		socket.Close()
	})
	tlsConf := clientTLS(trust.PinnedClientConfig(nil, to.pin()), protocolClient)
	conn, err := transport.Dial(w.t.Context(), net.UDPAddrFromAddrPort(to.addr), tlsConf, conf)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &fakePeer{t: w.t, conn: conn}
	id := newSessionID()
	p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: id[:]})
	if p.receive().GetWelcome() == nil {
		w.t.Fatal("no Welcome")
	}
	return p
}

// openData offers the client w.data n times.
func (w *world) openData(server *ServerSession, n int) (ids []StreamID) {
	w.t.Helper()
	for range n {
		o, err := server.OpenAggregateStream(AggregateStreamSpec{
			Size: int64(len(w.data)), Alignment: unit, Descriptor: []byte("data"),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, o.StreamID())
	}
	return ids
}

// A contentCount counts the open contents of a server.
type contentCount struct{ open, most, opened atomic.Int64 }

// countedMemory is a Content that is counted.
type countedMemory struct {
	memory
	count *contentCount
}

func (m countedMemory) Close() error {
	m.count.open.Add(-1)
	return nil
}

// counted makes a server count its open contents.
func (c *contentCount) counted(w *world) serverOption {
	return configured(func(conf *ServerConfig) {
		conf.OpenContent = func(context.Context, ContentRequest) (Content, error) {
			c.opened.Add(1)
			c.most.Store(max(c.most.Load(), c.open.Add(1)))
			return countedMemory{memory{w.data}, c}, nil
		}
	})
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Hostile clients attach 128 streams each, request everything and take nothing. Before there was a
// budget, each session held 32 MiB and 128 contents. An honest client beside them is served at
// once. The hostile ones are let go, since they leave little memory to others.
func TestAttackUnreadAttachments(t *testing.T) {
	const guests, limit, maxContents = 20, 32 << 20, 64
	inWorldOf(t, 8<<20, 0, lan, func(w *world) {
		count := &contentCount{}
		s := w.serve(ServerRolePrimary, count.counted(w), configured(func(c *ServerConfig) {
			c.MemoryLimit, c.MaxContents, c.MaxSessions = limit, maxContents, guests+2
		}))
		w.t.Cleanup(s.stop)
		peers := make([]*fakePeer, guests)
		sessions := make([]*ServerSession, guests)
		for i := range peers {
			peers[i] = w.fakeGuestWith(s, miser)
			sessions[i] = <-s.sessions
		}
		before := heap()
		start := time.Now()
		for i, p := range peers {
			for _, id := range w.openData(sessions[i], maxStreamsPerSession) {
				p.offer(w.attachment(id))
				for g := range uint64(8) {
					p.grant(id, g+1, g<<20, 1<<20)
				}
			}
		}
		synctest.Wait()
		time.Sleep(time.Second)
		grown := heap() - before
		used := s.memory.Used()
		w.t.Logf("%d sessions of %d streams: %d KiB charged, %d KiB of heap, %d contents",
			guests, maxStreamsPerSession, used>>10, grown>>10, count.most.Load())
		if used > limit || used < limit/4 {
			w.t.Errorf("%d bytes are charged, at most %d may be", used, limit)
		}
		if grown > 2*limit {
			w.t.Errorf("the heap grew by %d MiB", grown>>20)
		}
		if most := count.most.Load(); most > maxContents {
			w.t.Errorf("%d contents were open at once", most)
		}

		honest, err := w.tryDial(s.addr, s.pin(), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		began := time.Now()
		w.copy(w.offer(honest, <-s.sessions, unit, w.prove)).wantAll()
		if took := time.Since(began); took > 3*time.Second {
			w.t.Errorf("the honest client waited %v", took)
		}
		time.Sleep(time.Until(start.Add(scarceTakeTimeout + 2*takeTick + time.Second)))
		if s.memory.IsScarce() || s.contents.IsScarce() {
			w.t.Errorf("%d KiB and %d contents are used after the clients should have been let go",
				s.memory.Used()>>10, s.contents.Used())
		}
		for i, session := range sessions {
			select {
			case <-session.Context().Done():
			case <-time.After(time.Until(start.Add(takeTimeout + 2*takeTick))):
				w.t.Fatalf("client %d was not let go", i)
			}
			peers[i].wantClosed(ErrServerBusy)
		}
		time.Sleep(time.Second) // the sessions end
		if open := count.open.Load(); open > 1 {
			w.t.Errorf("%d contents are open in the end", open)
		}
	})
}

// A client that takes nothing is let go, also while there is plenty of memory.
func TestAttackClientTakesNothing(t *testing.T) {
	inWorldOf(t, 8<<20, 0, lan, func(w *world) {
		p := w.fakeGuestWith(w.primary, miser)
		server := <-w.primary.sessions
		id := w.openData(server, 1)[0]
		p.offer(w.attachment(id))
		p.grant(id, 1, 0, 8<<20)
		start := time.Now()
		<-server.Context().Done()
		if took := time.Since(start); took < takeTimeout || took > takeTimeout+2*takeTick {
			w.t.Errorf("the client was let go after %v", took)
		}
		p.wantClosed(ErrServerBusy)
	})
}

// A client that takes the bytes of one stream and none of another keeps its session. The other
// stream ends.
func TestAttackClientTakesOneStream(t *testing.T) {
	inWorldOf(t, 8<<20, 0, lan, func(w *world) {
		p := w.fakeGuestWith(w.primary, &quic.Config{
			InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: 64 << 10, KeepAlivePeriod: 10 * time.Second,
		})
		server := <-w.primary.sessions
		ids := w.openData(server, 2)
		for _, id := range ids {
			p.offer(w.attachment(id))
			p.grant(id, 1, 0, 8<<20)
		}
		if _, err := p.conn.AcceptUniStream(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		taken, err := p.conn.AcceptUniStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for start := time.Now(); time.Since(start) < takeTimeout+2*takeTick; time.Sleep(takeTick) {
			if _, err := taken.Read(make([]byte, 32<<10)); err != nil {
				w.t.Fatal(err)
			}
		}
		var refused kwikpb.StreamMappingUpdate
		for refused.GetCode() != uint64(ErrServerBusy) {
			if m := p.receive().GetMetadata(); m.GetType() == kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE {
				if err := unmarshalMetadata(m, &refused); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		p.wantOpen()
	})
}

// Slow clients that are honest are not let go: neither one with a low rate limit nor one whose disk
// stops for minutes.
func TestSlowClientsAreNotLetGo(t *testing.T) {
	t.Run("rate limit", func(t *testing.T) {
		inWorldOf(t, 1<<20, 0, lan, func(w *world) {
			client, server := w.dial(&ClientConfig{Config: Config{RateLimit: NewRateLimit(1 << 10)}})
			w.copy(w.offer(client, server, unit, w.prove)).wantAll() // takes 17 minutes
		})
	})
	t.Run("disk", func(t *testing.T) {
		inWorldOf(t, 32<<20, 0, lan, func(w *world) {
			client, server := w.dial(nil)
			r := w.offer(client, server, unit, w.prove)
			slow := &stoppingSink{sink: newSink(len(w.data)), goesOn: make(chan struct{})}
			time.AfterFunc(takeTimeout-10*time.Second, func() { close(slow.goesOn) })
			if _, err := r.CopyTo(w.t.Context(), slow, nil); err != nil {
				w.t.Error(err)
			}
			if err := context.Cause(server.Context()); err != nil {
				w.t.Errorf("the session ended: %v", err)
			}
		})
	})
}

// A stoppingSink is stopped until goesOn is closed.
type stoppingSink struct {
	*sink
	goesOn chan struct{}
}

func (s *stoppingSink) WriteAt(p []byte, off int64) (int, error) {
	<-s.goesOn
	return s.sink.WriteAt(p, off)
}

// While the contents are scarce, those of attachments without a grant are closed, and opened again
// for the next grant.
func TestScarceContentsAreClosedWhenIdle(t *testing.T) {
	inWorldOf(t, 4*unit, 0, lan, func(w *world) {
		count := &contentCount{}
		s := w.serve(ServerRolePrimary, count.counted(w), configured(func(c *ServerConfig) {
			c.MaxContents, c.MaxSessions = 4, 1
		}))
		w.t.Cleanup(s.stop)
		p := w.fakeGuest(s, mySession, "", nil)
		ids := w.openData(<-s.sessions, 8)
		for _, id := range ids {
			p.offer(w.attachment(id))
		}
		w.within(busyTimeout, func() bool { return count.opened.Load() == 8 })
		if most := count.most.Load(); most > 4 {
			w.t.Errorf("%d contents were open at once", most)
		}
		time.Sleep(2 * contentIdleTime)
		for _, id := range ids {
			p.grant(id, 1, 0, 4*unit)
			stream, err := p.conn.AcceptUniStream(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			raw, err := io.ReadAll(stream)
			// The frames: the smallest, one of twice its size, and the rest.
			want := slices.Concat(wireData(w.data[:unit]), wireData(w.data[unit:3*unit]), wireData(w.data[3*unit:]))
			if err != nil || !bytes.Contains(raw, want) {
				w.t.Fatalf("%d bytes of stream %#x: %v", len(raw), uint64(id), err)
			}
		}
		if count.opened.Load() <= 8 || count.most.Load() > 4 {
			w.t.Errorf("%d contents were opened, %d at once", count.opened.Load(), count.most.Load())
		}
		p.wantOpen()
	})
}

// Segments and descriptors of attachments are charged. A session whose share does not suffice is
// refused the further streams, and keeps the others.
func TestAttackSegmentsOfAttachments(t *testing.T) {
	const segments = 4095 // with the ticket, as many repeated fields as a frame may have
	inWorldOf(t, segments, 1, lan, func(w *world) {
		count := &contentCount{}
		s := w.join(count.counted(w), configured(func(c *ServerConfig) { c.MemoryLimit, c.MaxSessions = 16<<20, 32 }))
		w.secondaries = append(w.secondaries, s)
		p := w.fakeGuest(s, mySession, s.member.ID(), s.ticket(ticketScopePath, mySession, contentID{}))
		server := <-s.sessions
		o := w.attachment(0)
		o.Alignment, o.Descriptor_ = 0, make([]byte, maxDescriptor)
		for range segments {
			o.Segments = append(o.Segments, 1)
		}
		u, err := newUnits(o.Size, 0, o.Segments)
		if err != nil {
			w.t.Fatal(err)
		}
		ticket := s.ticket(ticketScopeStream, mySession, newContentID(u, 0, o.Descriptor_, false))
		for i := range maxStreamsPerSession {
			o.KwikStreamId = uint64(firstAggregateStreamID) + uint64(i)
			o.Tickets = []*kwikpb.StreamTicket{{PathId: string(s.member.ID()), Ticket: ticket}}
			p.offer(o)
		}
		attached, refused := 0, 0
		for attached+refused < maxStreamsPerSession {
			switch m := p.receive().GetMetadata(); m.GetType() {
			case kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST:
				attached++
			case kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE:
				var update kwikpb.StreamMappingUpdate
				if err := unmarshalMetadata(m, &update); err != nil || update.GetCode() != uint64(ErrServerBusy) {
					w.t.Fatalf("%v, %v", &update, err)
				}
				refused++
			}
		}
		const each = attachmentMemory + maxDescriptor + 8*segments
		used := server.memory.Used()
		w.t.Logf("%d attached, %d refused, %d KiB charged", attached, refused, used>>10)
		if used > s.memory.Most() || used < int64(attached)*each || refused == 0 {
			w.t.Errorf("%d bytes are charged for %d streams, %d were refused", used, attached, refused)
		}
		p.wantOpen()
	})
}

// A server takes no more bytes that it does not read than its windows allow, and what it reads
// makes way for more.
func TestAttackUnreadRequests(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		p := w.fakeGuest(w.primary, mySession, "", nil)
		w.openData(<-w.primary.sessions, 1) // the session is not idle
		sent := 0
		for range maxPlainStreams - 1 {
			stream, err := p.conn.OpenStream()
			if err != nil {
				w.t.Fatal(err)
			}
			stream.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			n, _ := stream.Write(make([]byte, 1<<20))
			sent += n
		}
		// Bytes that quic-go has taken and not sent count as written.
		if most := 64<<10 + maxPlainStreams*1500; sent > most {
			w.t.Errorf("%d bytes were taken that no one reads, at most %d may be", sent, most)
		}
	})
}
