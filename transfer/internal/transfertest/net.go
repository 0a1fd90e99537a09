package transfertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"

	"github.com/quic-go/quic-go"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A Net is a simulated network with one server, kwikcp's or a hostile one, inside a synctest
// bubble.
type Net struct {
	T        *testing.T
	Sim      *simnet.Network
	Link     simnet.Link                         // of each host
	Wrap     func(net.PacketConn) net.PacketConn // wraps the server's socket; nil for none
	Cert     tls.Certificate                     // the server's
	Listener *kwik.Listener                      // nil before Start
	Log      LogBuffer                           // for the server's log
	Ctx      context.Context                     // ends with the test

	wg sync.WaitGroup // goroutines of Go
}

var (
	// ServerAddr is the server's address.
	ServerAddr = netip.MustParseAddrPort("10.0.0.1:4433")
	// ClientHost is the address of clients, at any port.
	ClientHost = netip.MustParseAddrPort("10.0.0.2:0")
	// AnyLink is the link of hosts where the link does not matter.
	AnyLink = simnet.Link{Latency: 5 * time.Millisecond, Rate: 100e6}
)

// OnNet runs f in a bubble with a new network. It closes the listener and waits for everything
// that Go started.
func OnNet(t *testing.T, f func(n *Net)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &Net{T: t, Sim: simnet.New(1), Link: AnyLink}
		var cancel context.CancelFunc
		n.Ctx, cancel = context.WithCancel(t.Context())
		var err error
		if n.Cert, err = trust.NewIdentity(time.Now()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			if n.Listener != nil {
				n.Listener.Close()
			}
			n.wg.Wait()
			n.Sim.Close()
		}()
		f(n)
	})
}

// A LogBuffer holds a log that may grow while it is read.
type LogBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends to the log.
func (l *LogBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns the log.
func (l *LogBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Reset empties the log.
func (l *LogBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

// Go runs f in a goroutine. The network waits for it at its end.
func (n *Net) Go(f func()) { n.wg.Go(f) }

// Logger returns a logger that writes to Log, at all levels.
func (n *Net) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&n.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// A Server is what Serve needs of a serve.Server.
type Server interface {
	OpenContent(context.Context, kwik.ContentRequest) (kwik.Content, error)
	Serve(context.Context, *kwik.Listener) error
	Verify(ctx context.Context, descriptor []byte, off int64, p []byte) error
	Recheck(descriptor []byte, size, start, end int64)
	ChallengeDescriptor(descriptor []byte) []byte
	Close()
}

// Serve starts a server, which it closes at the end of the network.
func (n *Net) Serve(s Server) {
	n.T.Helper()
	l := n.Start(&kwik.ServerConfig{
		OpenContent: s.OpenContent, Verify: s.Verify, Recheck: s.Recheck, ChallengeDescriptor: s.ChallengeDescriptor,
	})
	n.Go(func() {
		s.Serve(n.Ctx, l)
		s.Close()
	})
}

// Start starts the server's listener.
func (n *Net) Start(conf *kwik.ServerConfig) *kwik.Listener {
	n.T.Helper()
	var socket net.PacketConn
	socket, err := n.Sim.Listen(ServerAddr, n.Link)
	if err != nil {
		n.T.Fatal(err)
	}
	if n.Wrap != nil {
		socket = n.Wrap(socket)
	}
	conf.LocalAddresses = func() []netip.Addr { return nil }
	key := quic.StatelessResetKey(trust.StatelessResetKey(n.Cert)) // as the command sets it
	conf.StatelessResetKey = &key
	if conf.OnPanic == nil {
		conf.OnPanic = func(_ net.Addr, err *kwik.PanicError) { n.T.Error(err) }
	}
	if n.Listener, err = kwik.Listen(socket, &tls.Config{Certificates: []tls.Certificate{n.Cert}}, conf); err != nil {
		n.T.Fatal(err)
	}
	return n.Listener
}

// A Script is the response of a hostile server to a request.
type Script func(p *Peer)

// A Peer is the side of a hostile server in one request.
type Peer struct {
	*testing.T
	*kwik.ServerSession
	Stream  *kwik.Stream
	Request *transferpb.Request
}

// Reply sends a reply. It ignores errors: the client may have gone.
func (p *Peer) Reply(r *transferpb.Reply) { wire.WriteMessage(p.Stream, r) }

// Manifest sends a Manifest.
func (p *Peer) Manifest(m *transferpb.Manifest) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Manifest{Manifest: m}})
}

// Tree sends chaining values.
func (p *Peer) Tree(cvs []byte) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: &transferpb.Tree{ChainingValues: cvs}}})
}

// Failure refuses the request.
func (p *Peer) Failure(code transferpb.Failure_Code) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{Code: code}}})
	p.Stream.Close()
}

// Hostile starts a server that runs a script for the first request of each session, and opens
// content with open.
func (n *Net) Hostile(open kwik.OpenContentFunc, act Script) {
	n.T.Helper()
	l := n.Start(&kwik.ServerConfig{OpenContent: open})
	n.Go(func() {
		for {
			session, err := l.Accept(n.Ctx)
			if err != nil {
				return
			}
			stream, err := session.AcceptStream(n.Ctx)
			if err != nil {
				continue
			}
			p := &Peer{T: n.T, ServerSession: session, Stream: stream, Request: &transferpb.Request{}}
			if err := wire.ReadMessage(bufio.NewReader(stream), p.Request); err != nil {
				n.T.Errorf("the client's request: %v", err)
			}
			n.Go(func() { act(p) })
		}
	})
}

// Client returns the configuration of a client.
func (n *Net) Client() *kwik.ClientConfig {
	return &kwik.ClientConfig{
		Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }},
		ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
			return n.Sim.Listen(ClientHost, n.Link)
		},
	}
}

// TLS returns a configuration that trusts the server.
func (n *Net) TLS() *tls.Config { return trust.PinnedClientConfig(nil, trust.PinOf(n.Cert.Leaf)) }

// Dial connects a client. The caller closes the session.
func (n *Net) Dial() *kwik.ClientSession {
	n.T.Helper()
	c, err := kwik.DialAddr(n.Ctx, ServerAddr.String(), n.TLS(), n.Client())
	if err != nil {
		n.T.Fatal(err)
	}
	return c
}

// Ask sends raw as a request, and ends the stream if fin is set. It returns the replies up to the
// end of the stream, and the error that ended the stream, nil for a regular end.
func (n *Net) Ask(c *kwik.ClientSession, raw []byte, fin bool) (replies []*transferpb.Reply, err error) {
	n.T.Helper()
	stream, err := c.OpenStreamSync(n.Ctx)
	if err != nil {
		n.T.Fatal(err)
	}
	if _, err := stream.Write(raw); err != nil {
		n.T.Fatal(err)
	}
	if fin {
		stream.Close()
	}
	r := bufio.NewReader(stream)
	for {
		reply := &transferpb.Reply{}
		if err := wire.ReadMessage(r, reply); err == io.EOF {
			return replies, nil
		} else if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
	}
}

// Request encodes a request for one file.
func Request(version uint32, path string) []byte {
	var b bytes.Buffer
	wire.WriteMessage(&b, &transferpb.Request{Version: version, Path: []byte(path)})
	return b.Bytes()
}
