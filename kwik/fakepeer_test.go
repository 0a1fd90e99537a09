package kwik

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// Fake peers speak the wire format one frame at a time, so that tests read as dialogues with a
// peer that may send anything. They use quic-go, and nothing of this package except its
// constants and message types.

// patience is how long, in virtual time, a fake peer waits for the other side.
const patience = 20 * time.Second

// A fakePeer is one end of a path or join connection.
type fakePeer struct {
	t       *testing.T
	conn    *quic.Conn
	control *quic.Stream
	r       *bufio.Reader
}

// A fakeServer is a QUIC endpoint that plays a primary or a secondary.
type fakeServer struct {
	w        *world
	addr     netip.AddrPort
	pin      trust.Pin
	listener *quic.Listener
}

// fakeServer starts a server without any behaviour.
func (w *world) fakeServer() *fakeServer {
	w.t.Helper()
	socket, addr := w.listen()
	cert := w.identity()
	transport := &quic.Transport{Conn: socket}
	listener, err := transport.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocolClient, protocolJoin}}, &quic.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { // before the world ends
		transport.Close()
		socket.Close()
	})
	return &fakeServer{w: w, addr: addr, pin: trust.PinOf(cert.Leaf), listener: listener}
}

// fakeSecondary starts a server without any behaviour that the primary believes to be a secondary.
func (w *world) fakeSecondary() (*fakeServer, ServerID) {
	w.t.Helper()
	f := w.fakeServer()
	m := &member{addr: f.addr, pin: f.pin, key: ticketKey{1}}
	if _, err := w.primary.admit(m); err != nil {
		w.t.Fatal(err)
	}
	return f, m.id
}

// acceptConn returns the next connection to the server.
func (f *fakeServer) acceptConn() *fakePeer {
	f.w.t.Helper()
	ctx, cancel := context.WithTimeout(f.w.t.Context(), patience)
	defer cancel()
	conn, err := f.listener.Accept(ctx)
	if err != nil {
		f.w.t.Fatalf("nobody came: %v", err)
	}
	return &fakePeer{t: f.w.t, conn: conn}
}

// accept returns the next client's path, after Hello and before Welcome.
func (f *fakeServer) accept() (*fakePeer, *kwikpb.Hello) {
	f.w.t.Helper()
	p := f.acceptConn()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	stream, err := p.conn.AcceptStream(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	p.use(stream)
	hello := p.receive().GetHello()
	if hello == nil {
		p.t.Fatal("no Hello")
	}
	return p, hello
}

// welcome accepts the next client as a server of the role.
func (f *fakeServer) welcome(role kwikpb.Role, id ServerID) *fakePeer {
	f.w.t.Helper()
	p, _ := f.accept()
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion, Role: role, PathId: string(id)}}})
	return p
}

// fakeClient opens a connection to a server, from a new host.
func (w *world) fakeClient(to *testServer, protocol string) *fakePeer {
	w.t.Helper()
	socket, _ := w.listen()
	transport := &quic.Transport{Conn: socket}
	w.t.Cleanup(func() {
		transport.Close()
		socket.Close()
	})
	return w.fakeDial(transport, to, protocol)
}

func (w *world) fakeDial(transport *quic.Transport, to *testServer, protocol string) *fakePeer {
	w.t.Helper()
	tlsConf := clientTLS(trust.PinnedClientConfig(nil, to.pin()), protocol)
	conn, err := transport.Dial(w.t.Context(), net.UDPAddrFromAddrPort(to.addr), tlsConf, &quic.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	return &fakePeer{t: w.t, conn: conn}
}

// hello opens the control stream with a client's first frame.
func (p *fakePeer) hello(h *kwikpb.Hello) {
	p.t.Helper()
	p.openControl()
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: h}})
}

func (p *fakePeer) openControl() {
	p.t.Helper()
	stream, err := p.conn.OpenStream()
	if err != nil {
		p.t.Fatal(err)
	}
	p.use(stream)
}

func (p *fakePeer) use(stream *quic.Stream) { p.control, p.r = stream, bufio.NewReader(stream) }

// fakeGuest is a client that a server has welcomed. With a primary, id and ticket are empty.
func (w *world) fakeGuest(to *testServer, session SessionID, id ServerID, ticket []byte) *fakePeer {
	w.t.Helper()
	p := w.fakeClient(to, protocolClient)
	p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: session[:], PathId: string(id), Ticket: ticket})
	if p.receive().GetWelcome() == nil {
		w.t.Fatal("no Welcome")
	}
	return p
}

// ticket makes a ticket as the primary would for this secondary.
func (s *testServer) ticket(scope ticketScope, session SessionID, content contentID) []byte {
	id, keys := s.member.ID(), s.ticketKeys()
	claim := ticketClaim{scope: scope, session: session, server: id, content: content}
	return issueTicket(keys[0], claim, time.Now(), time.Now().Add(ticketLife))
}

// send writes a control frame.
func (p *fakePeer) send(f *kwikpb.ControlFrame) {
	p.t.Helper()
	raw, err := proto.Marshal(f)
	if err != nil {
		p.t.Fatal(err)
	}
	p.sendRaw(append(protowire.AppendVarint(nil, uint64(len(raw))), raw...))
}

// sendRaw writes bytes to the control stream.
func (p *fakePeer) sendRaw(raw []byte) {
	p.t.Helper()
	if _, err := p.control.Write(raw); err != nil {
		p.t.Fatal(err)
	}
}

// metadata writes a seed frame to the control stream.
func (p *fakePeer) metadata(kind kwikpb.MetadataFrameType, m proto.Message) {
	p.t.Helper()
	payload, err := proto.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Metadata{Metadata: &kwikpb.StreamMetadataFrame{Type: kind, Payload: payload}}})
}

// offer writes a StreamOffer: a primary's offer or a client's attachment.
func (p *fakePeer) offer(o *kwikpb.StreamOffer) {
	p.t.Helper()
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: o}})
}

// grant writes a client's grant.
func (p *fakePeer) grant(stream StreamID, id, start, n uint64) {
	p.t.Helper()
	p.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, &kwikpb.OffsetSyncResponse{
		KwikStreamId: uint64(stream), GrantId: id, ExpectedOffset: start, Length: n,
	})
}

// receive reads a control frame.
func (p *fakePeer) receive() *kwikpb.ControlFrame {
	p.t.Helper()
	f, err := p.tryReceive()
	if err != nil {
		p.t.Fatalf("reading a control frame: %v", err)
	}
	return f
}

func (p *fakePeer) tryReceive() (*kwikpb.ControlFrame, error) {
	p.control.SetReadDeadline(time.Now().Add(patience))
	f := &kwikpb.ControlFrame{}
	n, err := readVarint(p.r)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(p.r, raw); err != nil {
		return nil, err
	}
	return f, proto.Unmarshal(raw, f)
}

// attached reads control frames up to a client's attachment.
func (p *fakePeer) attached() *kwikpb.StreamOffer {
	p.t.Helper()
	for {
		if o := p.receive().GetStreamOffer(); o != nil {
			return o
		}
	}
}

// granted reads control frames up to a client's next grant.
func (p *fakePeer) granted() *kwikpb.OffsetSyncResponse {
	p.t.Helper()
	for {
		m := p.receive().GetMetadata()
		if m.GetType() == kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE {
			g := &kwikpb.OffsetSyncResponse{}
			if err := proto.Unmarshal(m.GetPayload(), g); err != nil {
				p.t.Fatal(err)
			}
			return g
		}
	}
}

// wantClosed waits until the other side has closed the path and checks the code.
func (p *fakePeer) wantClosed(want ErrorCode) {
	p.t.Helper()
	select {
	case <-p.conn.Context().Done():
	case <-time.After(patience):
		p.t.Fatalf("the path is still open, want %v", want)
	}
	e, ok := errors.AsType[*quic.ApplicationError](context.Cause(p.conn.Context()))
	if !ok || !e.Remote || ErrorCode(e.ErrorCode) != want {
		p.t.Fatalf("the path ended with %v, want %v", context.Cause(p.conn.Context()), want)
	}
}

// wantOpen checks that the path lives after a while.
func (p *fakePeer) wantOpen() {
	p.t.Helper()
	time.Sleep(2 * time.Second)
	if err := context.Cause(p.conn.Context()); err != nil {
		p.t.Fatalf("the path ended: %v", err)
	}
}

// A fakeExtent is a secondary stream of a fake peer.
type fakeExtent struct {
	*quic.SendStream
	p *fakePeer
}

// extent opens a secondary stream and writes raw bytes.
func (p *fakePeer) extent(raw ...[]byte) *fakeExtent {
	p.t.Helper()
	s, err := p.conn.OpenUniStreamSync(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	x := &fakeExtent{s, p}
	x.write(raw...)
	return x
}

// write writes raw bytes. That the other side may have refused the stream already is not this
// peer's affair.
func (x *fakeExtent) write(raw ...[]byte) { x.Write(bytes.Join(raw, nil)) }

// wireFrame is a StreamMetadataFrame with its length before it.
func wireFrame(kind kwikpb.MetadataFrameType, m proto.Message) []byte {
	payload, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	raw, err := proto.Marshal(&kwikpb.StreamMetadataFrame{Type: kind, Payload: payload})
	if err != nil {
		panic(err)
	}
	return append(protowire.AppendVarint(nil, uint64(len(raw))), raw...)
}

func wireOpen(stream StreamID, grant, offset uint64) []byte {
	return wireFrame(kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN, &kwikpb.SecondaryStreamOpen{
		TargetKwikStreamId: uint64(stream), GrantId: grant, InitialOffset: offset,
	})
}

func wireData(p []byte) []byte {
	return wireFrame(kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA, &kwikpb.SecondaryStreamData{Data: p})
}

func wireClose(final uint64) []byte {
	return wireFrame(kwikpb.MetadataFrameType_SECONDARY_STREAM_CLOSE, &kwikpb.SecondaryStreamClose{FinalOffset: final})
}
