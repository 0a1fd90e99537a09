package kwik

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
)

// A world is a primary, secondaries and clients over a simulated network inside a synctest bubble.
type world struct {
	t     *testing.T
	net   *simnet.Network
	link  simnet.Link
	token []byte
	addrs atomic.Int32
	// data is what every server serves for the descriptor "data"; corrupt servers change it.
	data []byte
	wg   sync.WaitGroup

	primary     *testServer
	secondaries []*testServer
	clients     []*ClientSession
	servers     []*testServer // all that were started
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
	n := copy(p, m.data[min(off, int64(len(m.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (m memory) Close() error { return nil }

// inWorld runs f with a primary and n secondaries that have joined and serve 3 MiB and a little.
func inWorld(t *testing.T, n int, link simnet.Link, f func(w *world)) {
	t.Helper()
	inWorldOf(t, 3<<20+77, n, link, f)
}

// inWorldOf is inWorld with another size of the content.
func inWorldOf(t *testing.T, size, n int, link simnet.Link, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: simnet.New(1), link: link, token: []byte("a token, 16 bytes"), data: randomBytes(1, size)}
		worlds.Add(1)
		t.Cleanup(w.end) // in the bubble, after a failure, too; synctest then fails the test if a goroutine is left
		w.primary = w.serve(ServerRolePrimary)
		for range n {
			w.secondaries = append(w.secondaries, w.join())
		}
		f(w)
	})
}

// worlds counts the worlds that are there; tests may run in parallel.
var worlds atomic.Int32

// end closes everything and waits for it. synctest finds the goroutines that are left. Memory that
// is still charged is found, and so are blocks if no other world uses any.
func (w *world) end() {
	defer func() {
		held := blocksHeld.Load()
		if worlds.Add(-1) == 0 && held != 0 && blocksHeld.Load() == held {
			w.t.Errorf("%d blocks are held in the end", held)
		}
	}()
	for _, c := range w.clients {
		c.CloseWithError(0, "")
	}
	for _, s := range w.secondaries {
		s.stop()
	}
	if w.primary != nil {
		w.primary.stop()
	}
	w.wg.Wait()
	w.net.Close()
	for _, s := range w.servers {
		memory, frames, contents := s.memory.Used(), s.frames.Used(), s.contents.Used()
		if memory+frames+contents != 0 {
			w.t.Errorf("%d bytes, %d bytes of frames and %d contents are charged in the end", memory, frames, contents)
		}
	}
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// listen opens a socket on a new host.
func (w *world) listen() (net.PacketConn, netip.AddrPort) {
	w.t.Helper()
	n := w.addrs.Add(1)
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 4433)
	return w.listenAt(addr), addr
}

func (w *world) listenAt(addr netip.AddrPort) net.PacketConn {
	w.t.Helper()
	conn, err := w.net.Listen(addr, w.link)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func (w *world) identity() tls.Certificate {
	w.t.Helper()
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// A serverOption changes what serve and join start.
type serverOption func(*serverOptions)

type serverOptions struct {
	config ServerConfig
	addr   netip.AddrPort
	cert   tls.Certificate
	shown  *atomic.Pointer[tls.Certificate] // instead of cert, if it is not nil
	data   []byte
}

// configured changes a server's configuration.
func configured(change func(*ServerConfig)) serverOption {
	return func(o *serverOptions) { change(&o.config) }
}

// corrupt makes a server serve other bytes.
func corrupt(change func([]byte)) serverOption {
	return func(o *serverOptions) {
		o.data = slices.Clone(o.data)
		change(o.data)
	}
}

// restarted makes a server the successor of one that has gone, with the same address and key.
func restarted(old *testServer) serverOption {
	return func(o *serverOptions) { o.addr, o.cert = old.addr, old.cert }
}

// serve starts a server whose content is w.data.
func (w *world) serve(role ServerRole, options ...serverOption) *testServer {
	w.t.Helper()
	o := &serverOptions{data: w.data}
	o.config = ServerConfig{
		Config: Config{LocalAddresses: func() []netip.Addr { return nil }}, Role: role, JoinToken: w.token,
		OnPanic: func(_ net.Addr, err *PanicError) { w.t.Error(err) },
		OpenContent: func(_ context.Context, r ContentRequest) (Content, error) {
			if string(r.Descriptor) != "data" {
				return nil, fmt.Errorf("no content %q", r.Descriptor)
			}
			return memory{o.data}, nil
		},
	}
	for _, option := range options {
		option(o)
	}
	var socket net.PacketConn
	if o.addr.IsValid() {
		socket = w.listenAt(o.addr)
	} else {
		socket, o.addr = w.listen()
		o.cert = w.identity()
	}
	tlsConf := &tls.Config{Certificates: []tls.Certificate{o.cert}}
	if o.shown != nil {
		get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.shown.Load(), nil }
		tlsConf = &tls.Config{GetCertificate: get}
	}
	l, err := Listen(socket, tlsConf, &o.config)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &testServer{Listener: l, w: w, addr: o.addr, cert: o.cert, socket: socket, sessions: make(chan *ServerSession, 256)}
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
	w.servers = append(w.servers, s)
	return s
}

// join starts a secondary and joins it to the primary.
func (w *world) join(options ...serverOption) *testServer {
	w.t.Helper()
	s := w.serve(ServerRoleSecondary, options...)
	s.join(JoinConfig{Token: w.token})
	return s
}

func (s *testServer) join(conf JoinConfig) {
	s.w.t.Helper()
	m, err := s.Join(s.w.t.Context(), s.w.primary.addr.String(), conf)
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.member = m
}

// pin is the hash of the server's key.
func (s *testServer) pin() trust.Pin { return trust.PinOf(s.cert.Leaf) }

func (s *testServer) pinBytes() []byte {
	pin := s.pin()
	return pin[:]
}

// kill makes a server vanish silently, like kill -9.
func (s *testServer) kill() {
	s.socket.Close()
	s.stop()
}

// dial connects a client to the primary and returns both ends.
func (w *world) dial(conf *ClientConfig) (*ClientSession, *ServerSession) {
	w.t.Helper()
	client, err := w.tryDial(w.primary.addr, w.primary.pin(), conf)
	if err != nil {
		w.t.Fatal(err)
	}
	return client, <-w.primary.sessions
}

// tryDial connects a client to a server that may refuse it.
func (w *world) tryDial(addr netip.AddrPort, pin trust.Pin, conf *ClientConfig) (*ClientSession, error) {
	w.t.Helper()
	return w.tryDialWith(Dial, addr, pin, conf)
}

type dialFunc func(context.Context, net.PacketConn, net.Addr, *tls.Config, *ClientConfig) (*ClientSession, error)

// tryDialWith is tryDial with Dial or DialEarly.
func (w *world) tryDialWith(
	dial dialFunc, addr netip.AddrPort, pin trust.Pin, conf *ClientConfig,
) (*ClientSession, error) {
	w.t.Helper()
	socket, _ := w.listen()
	c := ClientConfig{}
	if conf != nil {
		c = *conf
	}
	c.LocalAddresses = func() []netip.Addr { return nil }
	if c.ListenPacket == nil {
		c.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
			conn, _ := w.listen()
			return conn, nil
		}
	}
	client, err := dial(w.t.Context(), socket, net.UDPAddrFromAddrPort(addr), trust.PinnedClientConfig(nil, pin), &c)
	if err != nil {
		socket.Close()
		return nil, err
	}
	w.clients = append(w.clients, client)
	w.wg.Go(func() {
		<-client.ctx.Done()
		client.wg.Wait()
		socket.Close()
	})
	return client, nil
}

// offer opens w.data as an aggregate stream and returns the client's reader, which verifies
// with verify.
func (w *world) offer(
	client *ClientSession, server *ServerSession, alignment int64, verify ProofFunc,
) *AggregateReader {
	w.t.Helper()
	o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: int64(len(w.data)), Alignment: alignment, Descriptor: []byte("data")})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.accept(client, o.StreamID(), verify)
}

// accept accepts an aggregate stream and opens its reader.
func (w *world) accept(client *ClientSession, id StreamID, verify ProofFunc) *AggregateReader {
	w.t.Helper()
	o, err := client.AcceptAggregate(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := o.Open(verify)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// A copying is a CopyTo in the background, so that the test can play a peer meanwhile.
type copying struct {
	w    *world
	s    *AggregateReader
	sink *sink
	err  error
	done chan struct{}
}

func (w *world) copy(s *AggregateReader) *copying { return w.copyWith(s, nil) }

func (w *world) copyWith(s *AggregateReader, options *CopyOptions) *copying {
	c := &copying{w: w, s: s, sink: newSink(int(s.Size())), done: make(chan struct{})}
	w.wg.Go(func() {
		defer close(c.done)
		_, c.err = s.CopyTo(context.Background(), c.sink, options)
	})
	return c
}

// wantAll waits for the end and fails the test unless every byte is right and was written
// once.
func (c *copying) wantAll() {
	c.w.t.Helper()
	<-c.done
	switch {
	case c.err != nil:
		c.w.t.Fatalf("CopyTo: %v", c.err)
	case !bytes.Equal(c.sink.data, c.w.data):
		c.w.t.Fatal("CopyTo wrote wrong bytes")
	case c.sink.twice:
		c.w.t.Fatal("CopyTo wrote bytes twice")
	}
}

// prove is a ProofFunc that knows w.data.
func (w *world) prove(_ ServerID, off int64, p []byte) error {
	if !bytes.Equal(p, w.data[off:off+int64(len(p))]) {
		return errors.New("wrong")
	}
	return nil
}

// path returns the client's statistics of a server.
func (w *world) path(c *ClientSession, id ServerID) ServerStats {
	w.t.Helper()
	for _, p := range c.Servers() {
		if p.ID == id {
			return p
		}
	}
	return ServerStats{State: -1}
}

// wantState waits, for a minute of virtual time at most, until a server is in a state.
func (w *world) wantState(c *ClientSession, id ServerID, want PathState) ServerStats {
	w.t.Helper()
	w.within(time.Minute, func() bool { return w.path(c, id).State == want })
	return w.path(c, id)
}

// within waits until a condition holds and returns how long that took.
func (w *world) within(most time.Duration, holds func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) >= most {
			w.t.Fatalf("not within %v", most)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// wantError fails the test unless err is a KWIK error of the code.
func wantError(t *testing.T, err error, code ErrorCode) {
	t.Helper()
	if _, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, code) {
		t.Fatalf("error %v, want one of code %v", err, code)
	}
}

// A sink is the destination of CopyTo in tests. It records bytes that are written twice.
type sink struct {
	mu    sync.Mutex
	data  []byte
	seen  rangeset.Set
	twice bool
}

func newSink(n int) *sink { return &sink{data: make([]byte, n)} }

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen.Add(off, off+int64(len(p))) != int64(len(p)) {
		s.twice = true
	}
	return copy(s.data[off:], p), nil
}

// pinned is the configuration of a client that accepts one key.
func pinned(pin trust.Pin) *tls.Config { return trust.PinnedClientConfig(nil, pin) }

// isPinError reports whether err means that a server has another key than the pinned one.
func isPinError(err error) bool {
	_, ok := errors.AsType[*trust.PinError](err)
	return ok
}
