package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// inFakePrimaryScene runs f with a client that a fake primary has welcomed.
func inFakePrimaryScene(t *testing.T, f func(w *world, client *ClientSession, primary *fakePeer)) {
	t.Helper()
	inWorldOf(t, unit, 0, lan, func(w *world) {
		server := w.fakeServer()
		welcomed := make(chan *ClientSession)
		w.wg.Go(func() {
			client, err := w.tryDial(server.addr, server.pin, nil)
			if err != nil {
				w.t.Error(err)
			}
			welcomed <- client
		})
		p := server.welcome(kwikpb.Role_ROLE_PRIMARY, primaryID)
		f(w, <-welcomed, p)
	})
}

func (p *fakePeer) addPath(a *kwikpb.AddPath) {
	p.t.Helper()
	if a.Ticket == nil {
		a.Ticket = make([]byte, ticketSize)
	}
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_AddPath{AddPath: a}})
}

// A frame that is not the Welcome of a primary of this version fails Dial, and both ends get
// the same code.
func TestDialIsRefusedByTheClient(t *testing.T) {
	welcome := func(version uint32, role kwikpb.Role) *kwikpb.ControlFrame {
		return &kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: version, Role: role}}}
	}
	for name, c := range map[string]struct {
		answer *kwikpb.ControlFrame
		want   ErrorCode
	}{
		"secondary":       {welcome(protocolVersion, kwikpb.Role_ROLE_SECONDARY), ErrInvalidStreamRole},
		"another version": {welcome(7, kwikpb.Role_ROLE_PRIMARY), ErrVersionMismatch},
		"another frame":   {&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{}}}, ErrMetadataProtocolViolation},
		"an empty frame":  {&kwikpb.ControlFrame{}, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				server := w.fakeServer()
				dialled := make(chan error, 1)
				w.wg.Go(func() {
					_, err := w.tryDial(server.addr, server.pin, nil)
					dialled <- err
				})
				p, hello := server.accept()
				if id := hello.GetSessionId(); len(id) != 16 || hello.GetVersion() != 1 {
					w.t.Errorf("Hello with a session ID of %d bytes and version %d", len(id), hello.GetVersion())
				}
				if hello.GetPathId() != "" || hello.GetTicket() != nil {
					w.t.Errorf("Hello to a primary names path %q, ticket %x", hello.GetPathId(), hello.GetTicket())
				}
				p.send(c.answer)
				wantError(w.t, <-dialled, c.want)
				p.wantClosed(c.want)
			})
		})
	}
}

// A server that never sends Welcome costs a client at most the HelloTimeout, or the time that
// the client's context allows.
func TestDialGivesUp(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		server := w.fakeServer()
		start := time.Now()
		if _, err := w.tryDial(server.addr, server.pin, nil); err == nil {
			w.t.Error("no error without Welcome")
		} else if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			w.t.Errorf("%v is no time-out", err)
		}
		if took := time.Since(start); took > 11*time.Second {
			w.t.Errorf("gave up after %v", took)
		}
		server.accept()

		socket, _ := w.listen()
		defer socket.Close()
		ctx, cancel := context.WithTimeoutCause(w.t.Context(), time.Second, errors.New("the user is impatient"))
		defer cancel()
		start = time.Now()
		_, err := Dial(ctx, socket, net.UDPAddrFromAddrPort(server.addr), clientTLS(pinned(server.pin), ""), nil)
		if err == nil || err.Error() != "waiting for the server's welcome: the user is impatient" {
			w.t.Errorf("error %v, want the context's cause", err)
		}
		if took := time.Since(start); took > 1100*time.Millisecond {
			w.t.Errorf("gave up after %v", took)
		}
		p, _ := server.accept()
		p.wantClosed(NoError)
	})
}

func TestHostilePrimaryControl(t *testing.T) {
	hash := make([]byte, 32)
	offer := &kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID), Size: 10, Alignment: 4}
	with := func(change func(o *kwikpb.StreamOffer)) func(p *fakePeer) {
		return func(p *fakePeer) {
			o := &kwikpb.StreamOffer{KwikStreamId: offer.KwikStreamId, Size: offer.Size, Alignment: offer.Alignment}
			change(o)
			p.offer(o)
		}
	}
	for name, c := range map[string]struct {
		say  func(p *fakePeer)
		want ErrorCode
	}{
		"path without a name": {func(p *fakePeer) { p.addPath(&kwikpb.AddPath{KeyHash: hash}) }, ErrMetadataProtocolViolation},
		"primary moved": {func(p *fakePeer) {
			p.addPath(&kwikpb.AddPath{PathId: "primary", KeyHash: hash, Addresses: []string{"10.0.0.9:4433"}})
		}, ErrMetadataProtocolViolation},
		"primary without a key": {func(p *fakePeer) { p.addPath(&kwikpb.AddPath{PathId: "primary"}) }, ErrMetadataProtocolViolation},
		"path without a ticket": {func(p *fakePeer) {
			p.addPath(&kwikpb.AddPath{PathId: "s1", KeyHash: hash, Ticket: []byte{}, Addresses: []string{"10.0.0.9:4433"}})
		}, ErrMetadataProtocolViolation},
		"path named as further one": {func(p *fakePeer) { p.addPath(&kwikpb.AddPath{PathId: "s1+2", KeyHash: hash}) }, ErrMetadataProtocolViolation},
		"unprintable path":          {func(p *fakePeer) { p.addPath(&kwikpb.AddPath{PathId: "a\x1b[2J", KeyHash: hash}) }, ErrMetadataProtocolViolation},
		"path without a key":        {func(p *fakePeer) { p.addPath(&kwikpb.AddPath{PathId: "s1"}) }, ErrMetadataProtocolViolation},
		"many addresses": {func(p *fakePeer) {
			p.addPath(&kwikpb.AddPath{PathId: "s1", KeyHash: hash, Addresses: make([]string, maxAddresses+1)})
		}, ErrMetadataProtocolViolation},
		"stream with a QUIC id":    {with(func(o *kwikpb.StreamOffer) { o.KwikStreamId = 8 }), ErrMetadataProtocolViolation},
		"stream id of 64 bits":     {with(func(o *kwikpb.StreamOffer) { o.KwikStreamId = 1 << 63 }), ErrMetadataProtocolViolation},
		"empty stream":             {with(func(o *kwikpb.StreamOffer) { o.Size = 0 }), ErrMetadataProtocolViolation},
		"endless stream":           {with(func(o *kwikpb.StreamOffer) { o.Size = 1 << 62 }), ErrMetadataProtocolViolation},
		"huge units":               {with(func(o *kwikpb.StreamOffer) { o.Alignment = sched.MaxUnit + 1 }), ErrMetadataProtocolViolation},
		"segments that do not fit": {with(func(o *kwikpb.StreamOffer) { o.Segments = []uint64{4, 7} }), ErrMetadataProtocolViolation},
		"huge descriptor":          {with(func(o *kwikpb.StreamOffer) { o.Descriptor_ = make([]byte, maxDescriptor+1) }), ErrMetadataProtocolViolation},
		"129 streams": {func(p *fakePeer) {
			for i := range uint64(maxStreamsPerSession + 1) {
				p.offer(&kwikpb.StreamOffer{KwikStreamId: offer.KwikStreamId + i, Size: 1})
			}
		}, ErrSecondaryStreamOverflow},
		"Hello": {func(p *fakePeer) {
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: &kwikpb.Hello{}}})
		}, ErrMetadataProtocolViolation},
		"second Welcome": {func(p *fakePeer) {
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion}}})
		}, ErrMetadataProtocolViolation},
		"a grant":    {func(p *fakePeer) { p.grant(firstAggregateStreamID, 1, 0, 4) }, ErrMetadataProtocolViolation},
		"huge frame": {func(p *fakePeer) { p.sendRaw(protowire.AppendVarint(nil, 1<<62)) }, ErrMetadataProtocolViolation},
		"garbage":    {func(p *fakePeer) { p.sendRaw(bytes.Repeat([]byte{0xff}, 32)) }, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
				c.say(p)
				p.wantClosed(c.want)
				<-client.Context().Done()
				wantError(w.t, context.Cause(client.Context()), c.want)
			})
		})
	}
}

// A primary cannot send its clients to any address (docs/PROTOCOL.md, section 2).
func TestAddPathAddressPolicy(t *testing.T) {
	own := netip.MustParseAddr("192.0.2.7")
	for _, c := range []struct {
		primary, addr string
		may           bool
	}{
		{"203.0.113.1:1", "198.51.100.1:4433", true},
		{"203.0.113.1:1", "10.0.0.1:4433", false},
		{"203.0.113.1:1", "[2001:db8::1]:4433", true},
		{"203.0.113.1:1", "[::ffff:198.51.100.1]:4433", true},
		{"203.0.113.1:1", "198.51.100.1:0", false},
		{"203.0.113.1:1", "0.0.0.0:4433", false},
		{"203.0.113.1:1", "[::]:4433", false},
		{"203.0.113.1:1", "[::ffff:0.0.0.0]:4433", false},
		{"203.0.113.1:1", "224.0.0.1:4433", false},
		{"203.0.113.1:1", "[ff02::1]:4433", false},
		{"203.0.113.1:1", "127.0.0.1:4433", false},
		{"203.0.113.1:1", "[::1]:4433", false},
		{"203.0.113.1:1", "[::ffff:127.0.0.1]:4433", false},
		{"203.0.113.1:1", "169.254.169.254:80", false},
		{"203.0.113.1:1", "[fe80::1]:4433", false},
		{"203.0.113.1:1", "[fe80::1%eth0]:4433", false},
		{"127.0.0.1:1", "127.0.0.1:4433", true},
		{"127.0.0.1:1", "[::1]:4433", true},
		{"127.0.0.1:1", "0.0.0.0:4433", false},
		{"169.254.1.1:1", "169.254.1.2:4433", true},
		{"192.0.2.7:1", "127.0.0.1:4433", true},
		{"192.0.2.8:1", "127.0.0.1:4433", false},
	} {
		s := &ClientSession{
			config:  (&ClientConfig{Config: Config{LocalAddresses: func() []netip.Addr { return []netip.Addr{own} }}}).populate(),
			primary: &path{addr: netip.MustParseAddrPort(c.primary)},
		}
		if got := s.mayDial(netip.MustParseAddrPort(c.addr)); got != c.may {
			t.Errorf("primary at %s names %s: %v, want %v", c.primary, c.addr, got, c.may)
		}
	}
}

// Names and addresses that must not be dialed are ignored. So are the 65th secondary and an
// offer that has ended.
func TestAddPathIsIgnored(t *testing.T) {
	inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
		hash := make([]byte, 32)
		p.addPath(&kwikpb.AddPath{PathId: "name", KeyHash: hash, Addresses: []string{"localhost:4433", "", "\xc3\xa9", "10.0.0.1", "127.0.0.1:1"}})
		p.addPath(&kwikpb.AddPath{PathId: "none", KeyHash: hash})
		for i := range maxSecondaryPaths + 1 {
			p.addPath(&kwikpb.AddPath{PathId: fmt.Sprintf("s%d", i), KeyHash: hash, Addresses: []string{"10.9.9.9:4433"}})
		}
		p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{PathId: "unknown"}}})
		p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{PathId: "primary"}}})
		p.wantOpen()
		if n := len(client.Servers()); n != maxSecondaryPaths+1 {
			w.t.Errorf("%d paths, want the primary's and %d", n, maxSecondaryPaths)
		}
	})
}

// The limit of 64 paths counts the servers that the primary offers, not all that it ever
// offered.
func TestWithdrawnPathsMakeRoom(t *testing.T) {
	inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
		for i := range 2 * maxSecondaryPaths {
			id := fmt.Sprintf("s%d", i)
			p.addPath(&kwikpb.AddPath{PathId: id, KeyHash: make([]byte, 32), Addresses: []string{"10.9.9.9:4433"}})
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{PathId: id}}})
			time.Sleep(10 * time.Millisecond)
		}
		p.addPath(&kwikpb.AddPath{PathId: "last", KeyHash: make([]byte, 32), Addresses: []string{"10.9.9.9:4433"}})
		w.wantState(client, "last", PathConnecting)
	})
}

// A stream that has all its bytes does not count among the 128, although the application has
// not closed it yet.
func TestFinishedStreamsMakeRoom(t *testing.T) {
	inWorldOf(t, 10, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		for range maxStreamsPerSession + 10 {
			s := w.offer(client, server, 0, nil)
			w.copy(s).wantAll()
			time.Sleep(20 * time.Millisecond) // for the primary to hear that it is released
		}
		if err := context.Cause(client.Context()); err != nil {
			w.t.Error(err)
		}
	})
}

// A secondary with another key than the one that the primary saw is refused, and gets no
// ticket.
func TestSecondaryWithAnotherKey(t *testing.T) {
	inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
		impostor := w.fakeServer()
		p.addPath(&kwikpb.AddPath{PathId: "s1", KeyHash: make([]byte, 32), Addresses: []string{impostor.addr.String()}, Ticket: make([]byte, ticketSize)})
		st := w.wantState(client, "s1", PathClosed)
		if !isPinError(st.Err) {
			w.t.Errorf("reason %v", st.Err)
		}
	})
}

// A primary that announces itself as a secondary refuses the connection itself.
func TestPrimaryNamedAsSecondary(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		if _, err := w.primary.admit(&member{addr: w.primary.addr, pin: w.primary.pin()}); err != nil {
			w.t.Fatal(err)
		}
		client, _ := w.dial(nil)
		st := w.wantState(client, "s1", PathClosed)
		wantError(w.t, st.Err, ErrAccessRefused)
		if st := w.path(client, primaryID); st.State != PathActive {
			w.t.Errorf("the primary's path: %+v", st)
		}
	})
}
