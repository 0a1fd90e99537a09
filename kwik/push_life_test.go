package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// Sources may receive the window at different times. A source that receives it early does not
// delay it for the others.
func TestEachSourceHearsOfTheWindow(t *testing.T) {
	inPushed(t, 6<<20, 0, 1, &ClientConfig{ReorderWindow: minReorderWindow}, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		asks, writes := ends[0], ends[1]
		pushed := make(chan error, 1)
		go func() { pushed <- push(writes.session, s.StreamID(), 0, w.data) }()
		// The reader moves by an eighth of the window at a time, and each time the other source
		// asks where it is.
		buf := make([]byte, minReorderWindow/8)
		for off := 0; off < len(w.data); off += len(buf) {
			s.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadFull(s, buf); err != nil || !bytes.Equal(buf, w.data[off:off+len(buf)]) {
				t.Fatalf("at %d: %v", off, err)
			}
			if off+len(buf) == len(w.data) {
				break
			}
			if expected, err := asks.Sync(t.Context(), 0); err != nil || expected < int64(off+len(buf)) {
				t.Fatalf("at %d: the client expects %d, %v", off, expected, err)
			}
		}
		if err := <-pushed; err != nil {
			t.Error(err)
		}
	})
}

// A source does not mistake an earlier window for the answer to its question.
func TestSyncWaitsForItsAnswer(t *testing.T) {
	inPushed(t, 8<<20, 0, 0, &ClientConfig{ReorderWindow: minReorderWindow}, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		p := ends[0]
		pushed := make(chan error, 1)
		go func() { pushed <- push(p.session, s.StreamID(), 0, w.data) }()
		go io.Copy(io.Discard, s)
		for i := 0; p.Context().Err() == nil; i++ {
			before := s.Stats().Bytes // the client has them now, so it expects no less when it is asked
			expected, err := p.Sync(t.Context(), before)
			if err == nil && expected < before {
				t.Fatalf("question %d: the client had %d bytes and expects %d", i, before, expected)
			}
		}
		if err := <-pushed; err != nil {
			t.Error(err)
		}
	})
}

// A server dies in the middle of its part. Another server requests the client's window and pushes
// the rest.
func TestPusherDies(t *testing.T) {
	inPushed(t, 3<<20, unit, 2, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		x := w.mapped(ends[1], 0)
		if err := writeTo(x, w.data[:1<<20+1000]); err != nil {
			t.Fatal(err)
		}
		w.within(time.Second, func() bool { return s.Stats().Bytes == 1<<20 })
		w.secondaries[0].kill()
		x.Close()
		read := make(chan struct{})
		go func() {
			defer close(read)
			w.wantRead(s, len(w.data))
		}()
		expected, err := ends[2].Sync(t.Context(), 0)
		if err != nil || expected != 1<<20 {
			t.Fatalf("the client expects %d, %v", expected, err)
		}
		if err := push(ends[2].session, s.StreamID(), expected, w.data[expected:]); err != nil {
			t.Error(err)
		}
		<-read
	})
}

// A source whose connection breaks reconnects, requests the client's window and continues.
func TestPusherReconnects(t *testing.T) {
	inPushed(t, 3<<20, unit, 1, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		x := w.mapped(ends[1], 0)
		if err := writeTo(x, w.data[:1<<20]); err != nil {
			t.Fatal(err)
		}
		w.within(time.Second, func() bool { return s.Stats().Bytes == 1<<20 })
		ends[1].session.CloseWithError(0, "")
		if err := x.Close(); err == nil {
			t.Error("Close of a stream whose session has ended says nothing")
		}
		again, err := (<-w.secondaries[0].sessions).AcceptPushedStream(t.Context())
		if err != nil || again.StreamID() != s.StreamID() {
			t.Fatal(err)
		}
		expected, err := again.Sync(t.Context(), 0)
		if err != nil || expected != 1<<20 {
			t.Fatalf("the client expects %d, %v", expected, err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			w.wantRead(s, len(w.data))
		}()
		if err := push(again.session, s.StreamID(), expected, w.data[expected:]); err != nil {
			t.Error(err)
		}
		<-read
		if st := s.Stats(); st.Conflicts != 0 || delivered(s, "s1") != int64(len(w.data)) {
			t.Errorf("%+v", st)
		}
	})
}

// ReorderTimeout counts only while the consumer waits for a hole. It does not count while Read
// has bytes to return, or while CopyTo receives other bytes.
func TestReorderTimeoutIsAWait(t *testing.T) {
	conf := &ClientConfig{ReorderTimeout: 3 * time.Second}
	inPushed(t, 1000, 0, 0, conf, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		p := ends[0]
		for start, end := range map[int]int{0: 100, 500: 1000} {
			if err := push(p.session, p.StreamID(), int64(start), w.data[start:end]); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // the application is busy with something else
		w.wantRead(s, 100)
		start := time.Now()
		_, err := s.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrAggregationTimeout) || took < 2900*time.Millisecond || took > 4*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
	inWorldOf(t, 1000, 0, lan, func(w *world) {
		client, server := w.dial(conf)
		s := w.offerPushed(client, server, 1000, 0, nil)
		copied := w.copy(s)
		p, err := server.AcceptPushedStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for i := 9; i >= 0; i-- { // the first part is pushed last, after 20 s
			if err := push(server, p.StreamID(), int64(100*i), w.data[100*i:100*i+100]); err != nil {
				w.t.Error(err)
			}
			time.Sleep(2 * time.Second)
		}
		copied.wantAll()
	})
}

// CopyTo ends when every byte has arrived. It does not write bytes that are pushed later,
// although they would win the conflict.
func TestLastWinsAfterCopyTo(t *testing.T) {
	inWorldOf(t, 1000, 0, lan, func(w *world) {
		t := w.t
		client, server := w.dial(&ClientConfig{ConflictResolution: ConflictResolutionLastWins})
		s := w.offerPushed(client, server, 1000, 0, nil)
		var over atomic.Bool
		copied := make(chan error, 1)
		go func() {
			_, err := s.CopyTo(context.Background(), writerFunc(func(p []byte, off int64) (int, error) {
				if over.Load() {
					t.Error("w is written to after CopyTo's return")
				}
				s.Stats() // a writer may ask
				return len(p), nil
			}), nil)
			over.Store(true)
			copied <- err
		}()
		p, err := server.AcceptPushedStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		late := w.mapped(p, 0)
		if err := writeTo(late, w.data[:100]); err != nil {
			t.Fatal(err)
		}
		if err := push(server, p.StreamID(), 0, w.data[:200]); err != nil { // replaces the bytes of late
			t.Fatal(err)
		}
		a := s.agg
		if err := push(server, p.StreamID(), 200, w.data[200:]); err != nil {
			t.Fatal(err)
		}
		if err := <-copied; err != nil {
			t.Fatal(err)
		}
		a.mu.Lock()
		src := a.sources[primaryPathID]
		a.mu.Unlock()
		b := newBlock(100)
		if err := a.deliver(src, 1<<40, 0, b); err != nil { // as one that was under way
			t.Error(err)
		}
		late.Close()
	})
}

// A movable socket can change its port, as a NAT that forgets a mapping changes it.
type movable struct {
	open  func() net.PacketConn
	bound net.Addr // the first address, which is what QUIC believes to have

	mu  sync.Mutex
	now net.PacketConn
}

func (m *movable) current() net.PacketConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// move binds another port. Packets in flight to the old port are lost.
func (m *movable) move() {
	m.mu.Lock()
	old := m.now
	m.now = m.open()
	m.mu.Unlock()
	old.Close()
}

func (m *movable) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		conn := m.current()
		n, from, err := conn.ReadFrom(p)
		if err == nil || conn == m.current() {
			return n, from, err
		}
	}
}
func (m *movable) WriteTo(p []byte, to net.Addr) (int, error) {
	for {
		conn := m.current()
		n, err := conn.WriteTo(p, to)
		if err == nil || conn == m.current() {
			return n, err
		}
	}
}
func (m *movable) Close() error                       { return m.current().Close() }
func (m *movable) LocalAddr() net.Addr                { return m.bound }
func (m *movable) SetDeadline(t time.Time) error      { return m.current().SetDeadline(t) }
func (m *movable) SetReadDeadline(t time.Time) error  { return m.current().SetReadDeadline(t) }
func (m *movable) SetWriteDeadline(t time.Time) error { return m.current().SetWriteDeadline(t) }

// The client's address changes during a transfer on every path. The transfer continues on the
// same paths, and the client does not fetch delivered bytes again.
func TestClientMovesToANewAddress(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: 5 * time.Millisecond, Rate: 20e6}, func(w *world) {
		t := w.t
		var sockets []*movable
		socket := func() *movable {
			open := func() net.PacketConn { conn, _ := w.listen(); return conn }
			m := &movable{open: open, now: open()}
			m.bound = m.now.LocalAddr()
			sockets = append(sockets, m)
			return m
		}
		conf := &ClientConfig{
			Config:       Config{LocalAddresses: w.primary.config.LocalAddresses},
			ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) { return socket(), nil },
		}
		primary := socket()
		client, err := Dial(t.Context(), primary, net.UDPAddrFromAddrPort(w.primary.addr), pinned(w.primary.pin()), conf)
		if err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients, client)
		defer func() {
			client.CloseWithError(0, "")
			primary.Close()
		}()
		server := <-w.primary.sessions
		w.wantState(client, "s1", PathActive)
		secondary := <-w.secondaries[0].sessions
		before := server.RemoteAddr().String()
		s := w.offer(client, server, unit, nil)
		c := w.copy(s)
		w.within(time.Minute, func() bool { return delivered(s, primaryID) > 1<<19 && delivered(s, "s1") > 1<<19 })
		for _, m := range sockets {
			m.move()
		}
		c.wantAll()
		if after := server.RemoteAddr().String(); after == before {
			t.Errorf("the primary still sees %v", after)
		}
		if st := s.Stats(); st.Wasted > 1<<19 {
			t.Errorf("%d bytes were fetched again", st.Wasted)
		}
		for _, session := range []*ServerSession{server, secondary} {
			if session.Context().Err() != nil {
				t.Errorf("a path ended: %v", context.Cause(session.Context()))
			}
		}
		if len(w.primary.sessions)+len(w.secondaries[0].sessions) > 0 {
			t.Error("a new path was opened")
		}
	})
}
