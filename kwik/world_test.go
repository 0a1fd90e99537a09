package kwik

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
)

// A world is a primary, secondaries and clients over a simulated network inside a synctest bubble.
type world struct {
	t     *testing.T
	net   *simnet.Network
	link  simnet.Link
	token []byte
	addrs int
	// data is what every server serves for the descriptor "data"; corrupt servers change it.
	data []byte
	wg   sync.WaitGroup

	primary     *testServer
	secondaries []*testServer
}

type testServer struct {
	*Listener
	w        *world
	addr     netip.AddrPort
	cert     tls.Certificate
	sessions chan *ServerSession
	member   *Membership
	socket   net.PacketConn
	stop     func()
}

// memory is a Content.
type memory struct{ data []byte }

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, m.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (m memory) Close() error { return nil }

// inWorld runs f with a primary and n secondaries that have joined.
func inWorld(t *testing.T, n int, link simnet.Link, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: simnet.New(1), link: link, token: []byte("a token"), data: randomBytes(1, 3<<20+77)}
		w.primary = w.serve(ServerRolePrimary, nil)
		for range n {
			w.secondaries = append(w.secondaries, w.join(nil))
		}
		f(w)
		for _, s := range w.secondaries {
			s.stop()
		}
		w.primary.stop()
		w.wg.Wait()
		w.net.Close()
	})
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func (w *world) listen() (net.PacketConn, netip.AddrPort) {
	w.t.Helper()
	w.addrs++
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(w.addrs)}), 4433)
	conn, err := w.net.Listen(addr, w.link)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, addr
}

// serve starts a server whose content is w.data, passed through change if that is not nil.
func (w *world) serve(role ServerRole, change func([]byte) []byte) *testServer {
	w.t.Helper()
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	socket, addr := w.listen()
	data := w.data
	if change != nil {
		data = change(append([]byte(nil), data...))
	}
	l, err := Listen(socket, &tls.Config{Certificates: []tls.Certificate{cert}}, &Config{
		Role: role, JoinToken: w.token, LocalAddresses: func() []netip.Addr { return nil },
		OpenContent: func(_ context.Context, r ContentRequest) (Content, error) {
			if string(r.Descriptor) != "data" {
				return nil, fmt.Errorf("no content %q", r.Descriptor)
			}
			return memory{data}, nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &testServer{Listener: l, w: w, addr: addr, cert: cert, socket: socket, sessions: make(chan *ServerSession, 16)}
	w.wg.Go(func() {
		for {
			session, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			s.sessions <- session
		}
	})
	s.stop = sync.OnceFunc(func() {
		l.Close()
		socket.Close()
	})
	return s
}

// join starts a secondary and joins it to the primary.
func (w *world) join(change func([]byte) []byte) *testServer {
	w.t.Helper()
	s := w.serve(ServerRoleSecondary, change)
	m, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: w.token})
	if err != nil {
		w.t.Fatal(err)
	}
	s.member = m
	return s
}

// kill makes a server vanish without a word, as kill -9 does.
func (s *testServer) kill() {
	s.socket.Close()
	s.stop()
}

// dial connects a client to the primary and returns both ends.
func (w *world) dial(conf *Config) (*ClientSession, *ServerSession) {
	w.t.Helper()
	socket, _ := w.listen()
	if conf == nil {
		conf = &Config{}
	}
	conf.LocalAddresses = func() []netip.Addr { return nil }
	conf.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
		conn, _ := w.listen()
		return conn, nil
	}
	client, err := Dial(w.t.Context(), socket, net.UDPAddrFromAddrPort(w.primary.addr), trust.PinnedClientConfig(nil, trust.PinOf(w.primary.cert.Leaf)), conf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.wg.Go(func() {
		<-client.ctx.Done()
		client.wg.Wait()
		socket.Close()
	})
	return client, <-w.primary.sessions
}

// offer opens w.data as an aggregate stream and returns the client's end.
func (w *world) offer(client *ClientSession, server *ServerSession, alignment int64) *Stream {
	w.t.Helper()
	o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: int64(len(w.data)), Alignment: alignment, Descriptor: []byte("data")})
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := client.AcceptAggregate(w.t.Context(), o.StreamID())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// A sink is where CopyTo writes in tests; it notes bytes written twice.
type sink struct {
	mu    sync.Mutex
	data  []byte
	seen  []bool
	twice bool
}

func newSink(n int) *sink { return &sink{data: make([]byte, n), seen: make([]bool, n)} }

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p {
		s.twice = s.twice || s.seen[off+int64(i)]
		s.seen[off+int64(i)] = true
	}
	return copy(s.data[off:], p), nil
}
