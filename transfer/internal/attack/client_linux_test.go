package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// hostilePatience bounds each wait of a hostile client: a server may not answer it.
const hostilePatience = 5 * time.Second

// A host is a network address with hostile clients, which share a socket.
type host struct {
	t         *testing.T
	transport *quic.Transport
	socket    *countedSocket
}

// A countedSocket counts what arrives, and sends nothing once it is silent.
type countedSocket struct {
	net.PacketConn
	udp      *net.UDPConn // the same socket
	received atomic.Int64 // bytes
	silent   atomic.Bool
	record   atomic.Bool // packets that are sent are kept

	mu   sync.Mutex
	sent [][]byte
}

func (c *countedSocket) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(p)
	c.received.Add(int64(n))
	return n, from, err
}

func (c *countedSocket) WriteTo(p []byte, to net.Addr) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	if c.record.Load() {
		c.mu.Lock()
		c.sent = append(c.sent, bytes.Clone(p))
		c.mu.Unlock()
	}
	return c.PacketConn.WriteTo(p, to)
}

// recorded returns the packets that were recorded.
func (c *countedSocket) recorded() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sent)
}

// SetReadBuffer sets the size of the system's buffer, as package quic requests.
func (c *countedSocket) SetReadBuffer(n int) error { return c.udp.SetReadBuffer(n) }

// SetWriteBuffer is SetReadBuffer for packets that are sent.
func (c *countedSocket) SetWriteBuffer(n int) error { return c.udp.SetWriteBuffer(n) }

// newHost returns a host at an address of this machine. All of 127.0.0.0/8 is.
func newHost(t *testing.T, addr string) *host {
	t.Helper()
	socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	counted := &countedSocket{PacketConn: socket, udp: socket}
	h := &host{t: t, transport: &quic.Transport{Conn: counted}, socket: counted}
	t.Cleanup(func() {
		h.transport.Close()
		socket.Close()
	})
	return h
}

// A client is a hostile client: it speaks the protocol, but follows no rule that the test does not
// make it follow. Its methods return errors, since the server may end the connection at any time.
type client struct {
	conn    *quic.Conn
	control *quic.Stream
	r       *bufio.Reader
}

// unread is the configuration of a client that takes almost nothing of what a server sends.
func unread() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow: 1 << 10, MaxStreamReceiveWindow: 1 << 10,
		InitialConnectionReceiveWindow: 1 << 20, MaxConnectionReceiveWindow: 1 << 20,
		MaxIncomingUniStreams: 1 << 10, KeepAlivePeriod: 5 * time.Second,
	}
}

// connect opens a connection without a first frame.
func (h *host) connect(to netip.AddrPort, protocol string, config *quic.Config) (*client, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	tlsConf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
	conn, err := h.transport.Dial(ctx, net.UDPAddrFromAddrPort(to), tlsConf, config)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn}, nil
}

// dial opens a session.
func (h *host) dial(to netip.AddrPort, config *quic.Config) (*client, error) {
	c, err := h.connect(to, "kwik/1", config)
	if err != nil {
		return nil, err
	}
	if c.control, err = c.conn.OpenStream(); err != nil {
		return nil, err
	}
	c.r = bufio.NewReader(c.control)
	id := make([]byte, 16)
	rand.Read(id)
	hello := &kwikpb.Hello{Version: 1, SessionId: id}
	if err := c.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	_, err = c.await(func(f *kwikpb.ControlFrame) bool { return f.GetWelcome() != nil })
	return c, err
}

// send writes a control frame.
func (c *client) send(f *kwikpb.ControlFrame) error {
	c.control.SetWriteDeadline(time.Now().Add(hostilePatience))
	_, err := protodelim.MarshalTo(c.control, f)
	return err
}

// await reads control frames up to the first that matches.
func (c *client) await(matches func(*kwikpb.ControlFrame) bool) (*kwikpb.ControlFrame, error) {
	for {
		c.control.SetReadDeadline(time.Now().Add(hostilePatience))
		f := &kwikpb.ControlFrame{}
		if err := protodelim.UnmarshalFrom(c.r, f); err != nil {
			return nil, err
		}
		if matches(f) {
			return f, nil
		}
	}
}

// request sends a request on a new stream and returns the stream.
func (c *client) request(q *transferpb.Request) (*quic.Stream, error) {
	ctx, cancel := context.WithTimeout(c.conn.Context(), hostilePatience)
	defer cancel()
	stream, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	q.Version = wire.ProtocolVersion
	if err := wire.WriteMessage(stream, q); err != nil {
		return nil, err
	}
	return stream, stream.Close()
}

// attach attaches the server to a stream that it offered, and grants it the first n bytes.
func (c *client) attach(o *kwikpb.StreamOffer, n uint64) error {
	again := proto.Clone(o).(*kwikpb.StreamOffer)
	again.Tickets, again.HeadStart = nil, 0
	if err := c.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: again}}); err != nil {
		return err
	}
	payload, err := proto.Marshal(&kwikpb.OffsetSyncResponse{KwikStreamId: o.GetKwikStreamId(), Length: n, GrantId: 1})
	if err != nil {
		return err
	}
	return c.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Metadata{Metadata: &kwikpb.StreamMetadataFrame{
		Type: kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, Payload: payload,
	}}})
}
