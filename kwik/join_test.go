package kwik

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/cpace"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// open makes a primary without a join token; own are the machine's addresses.
func open(own ...netip.Addr) serverOption {
	return configured(func(c *ServerConfig) {
		c.JoinToken = nil
		c.LocalAddresses = func() []netip.Addr { return own }
	})
}

func TestWhoMayJoin(t *testing.T) {
	far := netip.MustParseAddrPort("203.0.113.9:4433")
	for name, c := range map[string]struct {
		primary func(w *world, own netip.Addr) *testServer // own is the secondary's address
		conf    func(w *world) JoinConfig
		want    ErrorCode
	}{
		"with the token": {conf: func(w *world) JoinConfig { return JoinConfig{Token: w.token} }},
		"with the token and a pin": {conf: func(w *world) JoinConfig {
			return JoinConfig{Token: w.token, TLS: pinned(w.primary.pin())}
		}},
		"with another token": {
			conf: func(w *world) JoinConfig { return JoinConfig{Token: []byte("another token of 16 bytes")} },
			want: ErrAccessRefused,
		},
		"without the token": {conf: func(w *world) JoinConfig {
			return JoinConfig{TLS: pinned(w.primary.pin())}
		}, want: ErrAccessRefused},
		"from the same machine": {
			primary: func(w *world, own netip.Addr) *testServer { return w.serve(ServerRolePrimary, open(own)) },
			conf:    func(w *world) JoinConfig { return JoinConfig{TLS: pinned(w.primary.pin())} },
		},
		"from another machine without a token": {
			primary: func(w *world, _ netip.Addr) *testServer { return w.serve(ServerRolePrimary, open(far.Addr())) },
			conf:    func(w *world) JoinConfig { return JoinConfig{TLS: pinned(w.primary.pin())} },
			want:    ErrAccessRefused,
		},
		"a primary that does not know the token": {
			primary: func(w *world, own netip.Addr) *testServer { return w.serve(ServerRolePrimary, open(own)) },
			conf:    func(w *world) JoinConfig { return JoinConfig{Token: w.token} },
			want:    ErrAccessRefused,
		},
		"advertising loopback from afar": {
			conf: func(w *world) JoinConfig {
				return JoinConfig{Token: w.token, Advertise: netip.MustParseAddrPort("127.0.0.1:4433")}
			}, want: ErrAccessRefused,
		},
		"advertising link-local from afar": {
			conf: func(w *world) JoinConfig {
				return JoinConfig{Token: w.token, Advertise: netip.MustParseAddrPort("169.254.169.254:80")}
			}, want: ErrAccessRefused,
		},
		"advertising multicast": {
			conf: func(w *world) JoinConfig {
				return JoinConfig{Token: w.token, Advertise: netip.MustParseAddrPort("224.0.0.1:4433")}
			}, want: ErrAccessRefused,
		},
		"advertising no address": {
			conf: func(w *world) JoinConfig {
				return JoinConfig{Token: w.token, Advertise: netip.MustParseAddrPort("0.0.0.0:4433")}
			}, want: ErrAccessRefused,
		},
		"advertising no port": {
			conf: func(w *world) JoinConfig {
				return JoinConfig{Token: w.token, Advertise: netip.MustParseAddrPort("203.0.113.9:0")}
			}, want: ErrAccessRefused,
		},
		"advertising where nobody is": {
			conf: func(w *world) JoinConfig { return JoinConfig{Token: w.token, Advertise: far} }, want: ErrAccessRefused,
		},
		"a secondary": {
			primary: func(w *world, _ netip.Addr) *testServer { return w.serve(ServerRoleSecondary) },
			conf:    func(w *world) JoinConfig { return JoinConfig{Token: w.token} },
			want:    ErrInvalidStreamRole,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				s := w.serve(ServerRoleSecondary)
				w.secondaries = append(w.secondaries, s)
				if c.primary != nil {
					w.primary.stop()
					w.primary = c.primary(w, s.addr.Addr())
				}
				m, err := s.Join(w.t.Context(), w.primary.addr.String(), c.conf(w))
				if c.want != NoError {
					wantError(w.t, err, c.want)
					w.within(time.Second, func() bool { return len(w.primary.memberList()) == 0 })
					return
				}
				if err != nil {
					w.t.Fatal(err)
				}
				want := []memberInfo{{ID: m.ID(), Addr: s.addr, KeyHash: s.pin()}}
				if got := w.primary.memberList(); !slices.Equal(got, want) || m.Primary() != w.primary.addr {
					w.t.Errorf("members %v, want %v", got, want)
				}
			})
		})
	}
}

func TestJoinNeedsTrust(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		if _, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{}); err == nil {
			w.t.Error("joined with neither a token nor a tls.Config")
		}
		if _, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: w.token, TLS: pinned(trust.Pin{})}); !isPinError(err) {
			w.t.Errorf("another key than the pinned one: %v", err)
		}
		_, err := w.primary.Join(w.t.Context(), s.addr.String(), JoinConfig{Token: w.token})
		wantError(w.t, err, ErrInvalidStreamRole)
	})
}

// joinFrame writes a join frame to a new stream of a fake peer and returns the stream.
func (p *fakePeer) joinFrame(f *kwikpb.JoinFrame) *quic.Stream {
	p.t.Helper()
	stream, err := p.conn.OpenStream()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := writeJoin(stream, f); err != nil {
		p.t.Fatal(err)
	}
	return stream
}

// request is a JoinRequest by a holder of the token, who can confirm with the exchange.
func (p *fakePeer) request(w *world, pin trust.Pin, advertise string) (*kwikpb.JoinRequest, *cpace.Exchange) {
	p.t.Helper()
	return p.guess(w.token, pin, advertise)
}

// guess is request with any token.
func (p *fakePeer) guess(token []byte, pin trust.Pin, advertise string) (*kwikpb.JoinRequest, *cpace.Exchange) {
	p.t.Helper()
	k, err := newJoinSecret(p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	x, err := k.newExchange(token)
	if err != nil {
		p.t.Fatal(err)
	}
	return &kwikpb.JoinRequest{Version: joinVersion, KeyHash: pin[:], Share: x.Share(), Advertise: advertise}, x
}

// requestJoin sends a request of a holder of the token, and confirms.
func (p *fakePeer) requestJoin(w *world, pin trust.Pin, advertise string) {
	p.t.Helper()
	r, x := p.request(w, pin, advertise)
	stream := p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
	f, err := readJoin(stream)
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := x.Initiator(f.GetShare().GetShare(), joinData(r), nil)
	if err != nil || !bytes.Equal(f.GetShare().GetMac(), proveKey(key, "primary")) {
		p.t.Fatalf("the primary's proof is wrong: %v", err)
	}
	confirm := &kwikpb.JoinConfirm{Mac: proveKey(key, "secondary")}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Confirm{Confirm: confirm}}); err != nil {
		p.t.Fatal(err)
	}
}

func TestHostileJoins(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(w *world, p *fakePeer)
		want ErrorCode
	}{
		"nothing": {func(w *world, p *fakePeer) {}, ErrMetadataProtocolViolation},
		"a probe": {func(w *world, p *fakePeer) {
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Probe{Probe: &kwikpb.JoinProbe{Nonce: make([]byte, 32)}}})
		}, ErrMetadataProtocolViolation},
		"version 1": {func(w *world, p *fakePeer) {
			r := &kwikpb.JoinRequest{Version: 1, KeyHash: make([]byte, 32)} // with token_proof, which is unknown now
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrVersionMismatch},
		"a later version": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			r.Version = joinVersion + 1
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrVersionMismatch},
		"short key hash": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			r.KeyHash = r.KeyHash[1:]
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrMetadataProtocolViolation},
		"no share": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			r.Share = nil
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrAccessRefused},
		"a share that is no point": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			r.Share[64] ^= 1
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrMetadataProtocolViolation},
		"a short share": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			r.Share = []byte{0}
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrMetadataProtocolViolation},
		"a host name": {
			func(w *world, p *fakePeer) { p.requestJoin(w, trust.Pin{}, "localhost:4433") }, ErrAccessRefused,
		},
		"a port that reflects": {
			func(w *world, p *fakePeer) { p.requestJoin(w, trust.Pin{}, "203.0.113.9:53") }, ErrAccessRefused,
		},
		"a metadata service": {
			func(w *world, p *fakePeer) { p.requestJoin(w, trust.Pin{}, "[fd00:ec2::254]:80") }, ErrAccessRefused,
		},
		"no confirmation": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			stream := p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
			readJoin(stream)
			stream.Close()
		}, ErrAccessRefused},
		"the primary's own proof": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, "")
			stream := p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
			f, err := readJoin(stream)
			if err != nil {
				w.t.Fatal(err)
			}
			writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Confirm{
				Confirm: &kwikpb.JoinConfirm{Mac: f.GetShare().GetMac()},
			}})
		}, ErrAccessRefused},
		"a relayed exchange": {func(w *world, p *fakePeer) {
			// Of another TLS session, as a peer between the two servers has it.
			honest := w.fakeClient(w.primary, protocolJoin)
			r, x := honest.request(w, trust.Pin{}, "")
			stream := p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
			f, err := readJoin(stream)
			if err != nil {
				w.t.Fatal(err)
			}
			key, err := x.Initiator(f.GetShare().GetShare(), joinData(r), nil)
			if err != nil || bytes.Equal(f.GetShare().GetMac(), proveKey(key, "primary")) {
				w.t.Errorf("the primary's proof holds in another TLS session: %v", err)
			}
			writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Confirm{
				Confirm: &kwikpb.JoinConfirm{Mac: proveKey(key, "secondary")},
			}})
		}, ErrAccessRefused},
		"huge request": {func(w *world, p *fakePeer) {
			r, _ := p.request(w, trust.Pin{}, strings.Repeat("a", maxJoinFrame))
			p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
		}, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				p := w.fakeClient(w.primary, protocolJoin)
				c.say(w, p)
				p.wantClosed(c.want)
				if n := len(w.primary.memberList()); n != 0 {
					w.t.Errorf("%d members", n)
				}
			})
		})
	}
}

// A peer that knows the token can make the primary dial a third party, but no more. No KWIK
// frame follows, and no client is sent there.
func TestJoinAtTheExpenseOfAnother(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		client, _ := w.dial(nil)
		victim := w.fakeServer() // speaks the join protocol, as another primary's secondary does
		p := w.fakeClient(w.primary, protocolJoin)
		p.requestJoin(w, trust.Pin{5}, victim.addr.String())
		p.wantClosed(ErrAccessRefused) // not the announced key

		// The announced key, but another primary's secondary: it is not joining here, so it
		// proves nothing.
		other := w.secondaries[0]
		p = w.fakeClient(w.primary, protocolJoin)
		p.requestJoin(w, other.pin(), other.addr.String())
		p.wantClosed(ErrAccessRefused)

		// The announced key, and it answers, but it does not have the join's TLS session.
		p = w.fakeClient(w.primary, protocolJoin)
		p.requestJoin(w, victim.pin, victim.addr.String())
		dialled := victim.acceptConn()
		stream, err := dialled.conn.AcceptStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if probe, err := readJoin(stream); err != nil || len(probe.GetProbe().GetNonce()) != 32 {
			w.t.Fatalf("probe %v, %v", probe, err)
		}
		writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Proof{Proof: &kwikpb.JoinProof{Mac: make([]byte, 32)}}})
		p.wantClosed(ErrAccessRefused)
		dialled.wantClosed(NoError)
		time.Sleep(time.Second)
		if n := len(client.Servers()); n != 2 {
			w.t.Errorf("the client knows %d paths", n)
		}
	})
}

// A secondary that is not joining answers no probe, and no other frame.
func TestHostileProbes(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		for _, c := range []struct {
			say  proto.Message
			want ErrorCode
		}{
			{&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Probe{Probe: &kwikpb.JoinProbe{Nonce: make([]byte, 32)}}}, ErrAccessRefused},
			{&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Probe{Probe: &kwikpb.JoinProbe{Nonce: make([]byte, 31)}}}, ErrMetadataProtocolViolation},
			{&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: &kwikpb.JoinRequest{Version: 1}}}, ErrInvalidStreamRole},
		} {
			p := w.fakeClient(w.secondaries[0], protocolJoin)
			p.joinFrame(c.say.(*kwikpb.JoinFrame))
			p.wantClosed(c.want)
		}
	})
}

// A membershipLog records the calls of OnMembership.
type membershipLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *membershipLog) note(id ServerID, _ netip.AddrPort, reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, map[bool]string{true: "+", false: "-"}[reason == nil]+string(id))
}

func (l *membershipLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, " ")
}

// A secondary that joins again with its key and address keeps its ID. The older connection is
// closed, and clients do not hear that the secondary left.
func TestRejoinKeepsTheName(t *testing.T) {
	inWorldOf(t, unit, 2, lan, func(w *world) {
		var log membershipLog
		w.primary.config.OnMembership = log.note
		first := w.secondaries[0]
		old := first.member
		first.join(JoinConfig{Token: w.token})
		if first.member.ID() != old.ID() {
			w.t.Errorf("joined again as %q, was %q", first.member.ID(), old.ID())
		}
		<-old.Context().Done()
		time.Sleep(time.Second)
		if n := len(w.primary.memberList()); n != 2 {
			w.t.Errorf("%d members", n)
		}
		if log.String() != "+s1" {
			w.t.Errorf("OnMembership: %v", &log)
		}
		third := w.join()
		w.secondaries = append(w.secondaries, third)
		if third.member.ID() != "s3" {
			w.t.Errorf("the third is %q", third.member.ID())
		}
	})
}

func TestMemberLimit(t *testing.T) {
	inWorldOf(t, unit, 2, lan, func(w *world) {
		w.primary.config.maxMembers = 2
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		_, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: w.token})
		wantError(w.t, err, ErrServerBusy)
		w.secondaries[0].join(JoinConfig{Token: w.token}) // a member may join again
		w.secondaries[1].member.Close()
		w.within(time.Second, func() bool { return len(w.primary.memberList()) == 1 })
		s.join(JoinConfig{Token: w.token})
	})
}

// Of two joins of one listener at once, the second is refused, and the first is not disturbed.
func TestTwoJoinsAtOnce(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		errs := make(chan error, 2)
		for range 2 {
			w.wg.Go(func() {
				_, err := s.Join(context.Background(), w.primary.addr.String(), JoinConfig{Token: w.token})
				errs <- err
			})
		}
		one, two := <-errs, <-errs
		if (one == nil) == (two == nil) {
			w.t.Errorf("one of %v and %v should be nil", one, two)
		}
		time.Sleep(time.Second)
		if n := len(w.primary.memberList()); n != 1 {
			w.t.Errorf("%d members", n)
		}
	})
}

// A listener that closes ends its membership at once, and does not wait for silent strangers.
func TestListenerCloseIsPrompt(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		s := w.secondaries[0]
		w.fakeClient(s, protocolClient)
		w.fakeClient(s, protocolJoin)
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		s.stop()
		if took := time.Since(start); took > 100*time.Millisecond {
			w.t.Errorf("Close took %v", took)
		}
		if took := w.within(10*time.Second, func() bool { return len(w.primary.memberList()) == 0 }); took > 100*time.Millisecond {
			w.t.Errorf("the primary noticed after %v", took)
		}
		w.fakeClient(w.primary, protocolClient)
		w.fakeClient(w.primary, protocolJoin)
		time.Sleep(100 * time.Millisecond)
		start = time.Now()
		w.primary.stop()
		if took := time.Since(start); took > 100*time.Millisecond {
			w.t.Errorf("Close of the primary took %v", took)
		}
	})
}

// A secondary that dies silently is withdrawn within seconds.
func TestDeadSecondaryIsWithdrawn(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		w.secondaries[0].kill()
		if took := w.within(time.Minute, func() bool { return len(w.primary.memberList()) == 0 }); took > 13*time.Second { // a keep-alive after 4 s, then 8 s without an answer
			w.t.Errorf("after %v", took)
		}
	})
}
