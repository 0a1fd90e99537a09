package kwik

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"kwikcp/internal/netprefix"
	kwikpb "kwikcp/kwik/proto"
)

// TestAttackChurn floods a client with frames that are each allowed. Its memory and its goroutines
// must not grow with their number, and the session must go on.
func TestAttackChurn(t *testing.T) {
	const frames = 5000
	frame := func(f *kwikpb.ControlFrame) func(*fakePeer, int) { return func(p *fakePeer, _ int) { p.send(f) } }
	id := func(i int) string { return fmt.Sprintf("s%d", i) }
	metadata := func(kind kwikpb.MetadataFrameType, m proto.Message) func(*fakePeer, int) {
		return func(p *fakePeer, _ int) { p.metadata(kind, m) }
	}
	for name, say := range map[string]func(p *fakePeer, i int){
		"servers that come and go": func(p *fakePeer, i int) {
			p.addPath(&kwikpb.AddPath{PathId: id(i), KeyHash: make([]byte, 32), Addresses: []string{"10.9.9.9:4433"}})
			p.removePath(id(i), "")
		},
		"servers that come": func(p *fakePeer, i int) {
			p.addPath(&kwikpb.AddPath{PathId: id(i), KeyHash: make([]byte, 32), Addresses: []string{"10.9.9.9:4433"}})
		},
		"one server, other addresses": func(p *fakePeer, i int) {
			p.addPath(&kwikpb.AddPath{PathId: "s", KeyHash: make([]byte, 32),
				Addresses: []string{fmt.Sprintf("10.9.%d.%d:4433", i/256, i%256)}})
		},
		"tickets": func(p *fakePeer, i int) {
			p.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID), Size: 1,
				Tickets: []*kwikpb.StreamTicket{{PathId: id(i), Ticket: make([]byte, ticketSize)}}})
		},
		"tickets for streams that ended": func(p *fakePeer, i int) {
			p.offer(&kwikpb.StreamOffer{
				KwikStreamId: uint64(firstAggregateStreamID) + uint64(i%2), Size: 1, Pushed: true,
				Tickets: []*kwikpb.StreamTicket{{PathId: id(i), Ticket: make([]byte, ticketSize)}},
			})
		},
		"reports": frame(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathReport{PathReport: &kwikpb.PathReport{
			PacketsSent: 1 << 60, PacketsLost: 1 << 60, CongestionWindow: 1 << 60,
		}}}),
		"GoAway": frame(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_GoAway{GoAway: &kwikpb.GoAway{}}}),
		"RemovePath with a long reason": func(p *fakePeer, i int) {
			if i < 20 {
				p.removePath("s", strings.Repeat("r", maxControlFrame-100))
			}
		},
		"questions": metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
			KwikStreamId: uint64(firstAggregateStreamID), CurrentOffset: 1, Room: 1 << 31, Timestamp: 7,
		}),
		"refusals": metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(firstAggregateStreamID), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
			Reason: strings.Repeat("r", 2000),
		}),
		"frames of a later version": func(p *fakePeer, _ int) { p.sendRaw([]byte{3, 0x98, 0x06, 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
				p.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID), Size: 1})
				for i := range 200 { // so that the pools of both ends are full
					say(p, i)
				}
				time.Sleep(time.Second)
				goroutines := runtime.NumGoroutine()
				grown := heapGrowth(func() {
					for i := 200; i < frames; i++ {
						say(p, i)
					}
					time.Sleep(time.Second)
				})
				t.Logf("the heap grew by %d KiB, %d goroutines more", grown>>10, runtime.NumGoroutine()-goroutines)
				if grown > 4<<20 {
					t.Errorf("the heap grew by %d bytes", grown)
				}
				if more := runtime.NumGoroutine() - goroutines; more > 4*maxSecondaryPaths {
					t.Errorf("%d goroutines more", more)
				}
				p.wantOpen()
				if n := len(client.Servers()); n > 2*maxSecondaryPaths+2 {
					t.Errorf("the client knows %d servers", n)
				}
			})
		})
	}
}

// FuzzAddPath checks which announcements a client accepts, and that none makes it panic.
func FuzzAddPath(f *testing.F) {
	f.Add("s1", "10.0.0.1:4433", uint8(32), uint8(ticketSize))
	f.Add("s1+2", "[fe80::1%eth0]:1", uint8(32), uint8(ticketSize))
	f.Add("primary", "::ffff:127.0.0.1", uint8(31), uint8(0))
	f.Fuzz(func(t *testing.T, id, addr string, hash, ticket uint8) {
		info := &kwikpb.AddPath{
			PathId: id, Addresses: []string{addr}, KeyHash: make([]byte, hash), Ticket: make([]byte, ticket),
		}
		if isWellFormed(info) && (len(id) > maxServerIDLength || strings.ContainsAny(id, "+\x1b\n")) {
			t.Errorf("the ID %q is taken", id)
		}
		s := &ClientSession{
			config:  (&ClientConfig{Config: Config{LocalAddresses: func() []netip.Addr { return nil }}}).populate(),
			primary: &path{addr: netip.MustParseAddrPort("9.9.9.9:4433")},
		}
		to, err := netip.ParseAddrPort(addr)
		if err != nil || !s.mayDial(to) {
			return
		}
		ip := to.Addr().Unmap()
		isPublic := ip.IsGlobalUnicast() && !ip.IsPrivate()
		if !isPublic || to.Port() == 0 {
			t.Errorf("a public primary may name %v", to)
		}
	})
}

// FuzzOffer checks that the fields of an offer make no client panic or take memory for a claim.
func FuzzOffer(f *testing.F) {
	f.Add(uint64(10), uint64(4), uint64(4), []byte{3, 7})
	f.Add(uint64(1<<62-1), uint64(1), uint64(1<<20), []byte{})
	f.Fuzz(func(t *testing.T, size, alignment, headStart uint64, lengths []byte) {
		var segments []uint64
		for _, n := range lengths {
			segments = append(segments, uint64(n))
		}
		u, err := newUnits(size, alignment, segments)
		if err != nil {
			return
		}
		if uint64(u.Total()) != size || u.Size() > maxDataPayload {
			t.Errorf("%d bytes in units of %d", u.Total(), u.Size())
		}
		o := &kwikpb.StreamOffer{Size: size, Alignment: alignment, HeadStart: headStart, Segments: segments}
		if checkHeadStart(u, o) == nil && headStart > min(size, maxHeadStart) {
			t.Errorf("a head start of %d in %d bytes", headStart, size)
		}
	})
}

// A member knows the IDs of the sessions that it serves. As a client it names one in Hello, and has
// its own permission revoked: the session of the other client goes on.
func TestAttackSessionOfAnother(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		id := client.ID()
		p := w.fakeClient(w.primary, protocolClient)
		p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: id[:]})
		if f, err := p.tryReceive(); err == nil && f.GetWelcome() != nil {
			(<-w.primary.sessions).Revoke("expired")
			time.Sleep(time.Second)
			w.t.Error("a second session with one ID")
		} else if !errors.Is(fromQUIC(err, ""), ErrAccessRefused) {
			w.t.Error(err)
		}
		w.copy(w.offer(client, server, unit, nil)).wantAll()
	})
}

// A secondary that leaves and joins again, each time at another port, leaves nothing behind in the
// streams of the clients.
func TestAttackChurnOfMembers(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		w.offer(client, server, unit, nil)
		l := w.primary.Listener
		for i := range 1000 {
			addr := netip.AddrPortFrom(netip.MustParseAddr("10.9.9.9"), uint16(2000+i))
			m := &member{addr: addr, from: netprefix.Of(addr.Addr())}
			if _, err := l.admit(m); err != nil {
				w.t.Fatal(err)
			}
			l.removeMember(m, "left")
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond) // the client reads
			}
		}
		server.mu.Lock()
		defer server.mu.Unlock()
		for _, o := range server.offers {
			if n := len(o.ticketed); n > 2 {
				w.t.Errorf("%d servers are remembered for a stream", n)
			}
		}
	})
}

// A client that acknowledges late makes the server believe in a long round trip. The server
// does not keep things for as long.
func TestAttackLongRoundTrip(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Second: 4 * time.Second, time.Hour: maxLinger,
	} {
		if got := lingerTime(rtt); got != want {
			t.Errorf("%v after a round trip of %v, want %v", got, rtt, want)
		}
	}
}
