package kwik

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/netprefix"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// joinFailures records the calls of OnJoinFailure.
type joinFailures struct {
	mu   sync.Mutex
	errs []error
}

func (j *joinFailures) option() serverOption {
	return configured(func(c *ServerConfig) {
		c.OnJoinFailure = func(_ netip.AddrPort, err error) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.errs = append(j.errs, err)
		}
	})
}

func (j *joinFailures) all() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]error(nil), j.errs...)
}

// A peer that guesses the join token as fast as it can tests 16 guesses at once, and then one a
// second. Each of them is reported. Secondaries of other addresses join meanwhile.
func TestAttackJoinTokenGuessing(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		w.primary.stop()
		var log joinFailures
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), log.option())
		socket, _ := w.listen()
		defer socket.Close()
		transport := &quic.Transport{Conn: socket}
		defer transport.Close()
		// guess reports whether the primary answered with its proof, which tests one guess.
		guess := func() bool {
			p := w.fakeDial(transport, w.primary, protocolJoin)
			defer p.conn.CloseWithError(0, "")
			r, _ := p.guess([]byte("a guess of 16 bytes"), trust.Pin{}, "")
			f, err := readJoin(p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}}))
			if err != nil {
				if err = fromQUIC(err, ""); !errors.Is(err, ErrServerBusy) {
					w.t.Fatal(err)
				}
			}
			return f.GetShare() != nil
		}
		const attack = 10 * time.Second
		tested, attempts := 0, 0
		for start := time.Now(); time.Since(start) < attack; attempts++ {
			if guess() {
				tested++
			}
			time.Sleep(50 * time.Millisecond)
			if attempts == 100 { // while it is refused
				w.secondaries = append(w.secondaries, w.join())
			}
		}
		most := joinRate.Burst + int(attack/time.Second) + 1
		w.t.Logf("%d of %d guesses were tested in %v", tested, attempts, attack)
		if tested < joinRate.Burst || tested > most || attempts < 5*most {
			w.t.Errorf("%d of %d guesses were tested in %v, want at most %d", tested, attempts, attack, most)
		}
		time.Sleep(time.Second)
		if n := len(log.all()); n != tested {
			w.t.Errorf("%d failures are reported, %d happened", n, tested)
		}
		if n := len(w.primary.memberList()); n != 1 {
			w.t.Errorf("%d members", n)
		}
	})
}

// However many addresses guess, the primary answers a bounded number of guesses, and a secondary
// from the address of a member joins.
func TestAttackJoinGuessingFromEverywhere(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	j := newJoinLimit()
	tested := 0
	for n := range 100_000 {
		if j.begin(clientNumber(n), false, now.Add(time.Duration(n)*100*time.Microsecond)) {
			tested++
		}
	}
	if most := allJoinsRate.Burst + 10*32; tested > most+1 || tested < most-1 {
		t.Errorf("%d guesses in 10 s, want %d", tested, most)
	}
	end := now.Add(10 * time.Second)
	for range anyJoinRate.Burst { // successful joins do not count
		if !j.begin(clientNumber(1<<20), true, end) {
			t.Fatal("a member's address is refused")
		}
		j.succeeded(clientNumber(1<<20), true)
	}
}

// All addresses of one site guess as one.
func TestAttackJoinGuessingFromOneSite(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	j := newJoinLimit()
	tested := 0
	for n := range 10_000 {
		from := netprefix.Of(netip.AddrFrom16([16]byte{0x20, 1, 13: 1, 6: byte(n >> 8), 7: byte(n)}))
		if j.begin(from, false, now.Add(time.Duration(n)*time.Millisecond)) {
			tested++
		}
	}
	if most := joinRate.Burst + 10; tested > most {
		t.Errorf("%d guesses in 10 s, want at most %d", tested, most)
	}
}

// A secondary that joins again as fast as it can is one member, and clients hear of it about once a
// second.
func TestAttackJoinFlood(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		w.primary.stop()
		var log membershipLog
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), configured(func(c *ServerConfig) {
			c.OnMembership = log.note
		}))
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		joined, start := 0, time.Now()
		for range 400 {
			_, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: w.token})
			switch {
			case err == nil:
				joined++
			case !errors.Is(err, ErrServerBusy):
				w.t.Fatal(err)
			}
			if n := len(w.primary.memberList()); n > 1 {
				w.t.Fatalf("%d members", n)
			}
		}
		w.t.Logf("%d of 400 joins succeeded in %v", joined, time.Since(start))
		least := anyJoinRate.Burst
		if most := least + int(time.Since(start)/time.Second) + 1; joined < least || joined > most {
			w.t.Errorf("%d joins in %v, want at most %d", joined, time.Since(start), most)
		}
	})
}

// A server that pretends to be the primary, without the token, gets only the secondary's share. It
// is random, and serves to test one guess.
func TestAttackStandInPrimary(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		stand := w.fakeServer()
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		var shares [][]byte
		for range 2 {
			done := make(chan error, 1)
			w.wg.Go(func() {
				_, err := s.Join(context.Background(), stand.addr.String(), JoinConfig{Token: w.token})
				done <- err
			})
			p := stand.acceptConn()
			stream, err := p.conn.AcceptStream(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			f, err := readJoin(stream)
			if err != nil || len(f.ProtoReflect().GetUnknown())+len(f.GetRequest().ProtoReflect().GetUnknown()) > 0 {
				w.t.Fatalf("%v, %v", f, err)
			}
			shares = append(shares, f.GetRequest().GetShare())
			k, err := newJoinSecret(p.conn)
			if err != nil {
				w.t.Fatal(err)
			}
			x, err := k.newExchange([]byte("a guess of 16 bytes"))
			if err != nil {
				w.t.Fatal(err)
			}
			key, err := x.Responder(f.GetRequest().GetShare(), joinData(f.GetRequest()), nil)
			if err != nil {
				w.t.Fatal(err)
			}
			writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Share{
				Share: &kwikpb.JoinShare{Share: x.Share(), Mac: proveKey(key, "primary")},
			}})
			wantError(w.t, <-done, ErrAccessRefused)
			p.wantClosed(ErrAccessRefused)
			if f, err := readJoin(stream); err == nil {
				w.t.Errorf("the secondary answers a wrong proof with %v", f)
			}
		}
		if bytes.Equal(shares[0], shares[1]) {
			w.t.Error("two shares are equal")
		}
	})
}

// The primary's refusal after it dialed back contains neither the key of another server, nor
// whether there is one, and takes the same time. Its own log has the cause.
func TestAttackDialBackAsScanner(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		w.primary.stop()
		var log joinFailures
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), log.option())
		other := w.secondaries[0]
		silent, silentAddr := w.listen()
		defer silent.Close()
		texts := make(map[string]bool)
		for name, c := range map[string]struct {
			addr netip.AddrPort
			pin  trust.Pin
		}{
			"nobody is there":           {netip.MustParseAddrPort("203.0.113.9:4433"), trust.Pin{1}},
			"a closed port":             {netip.AddrPortFrom(other.addr.Addr(), 1025), trust.Pin{1}},
			"a socket without QUIC":     {silentAddr, trust.Pin{1}},
			"a server with another key": {other.addr, trust.Pin{1}},
			"a server that joins not":   {other.addr, other.pin()},
		} {
			p := w.fakeClient(w.primary, protocolJoin)
			start := time.Now()
			p.requestJoin(w, c.pin, c.addr.String())
			p.wantClosed(ErrAccessRefused)
			if took := time.Since(start); took < dialBackTimeout || took > dialBackTimeout+100*time.Millisecond {
				w.t.Errorf("%s: refused after %v", name, took)
			}
			text := fromQUIC(context.Cause(p.conn.Context()), "").(*Error).Message
			if strings.Contains(text, other.pin().String()) {
				w.t.Errorf("%s: %s", name, text)
			}
			texts[strings.ReplaceAll(text, c.addr.String(), "ADDR")] = true
		}
		if len(texts) != 1 {
			w.t.Errorf("refusals: %v", texts)
		}
		causes := make(map[string]bool)
		for _, err := range log.all() {
			causes[err.Error()] = true
		}
		if len(causes) != 5 {
			w.t.Errorf("the log has %v", causes)
		}
	})
}

// A joining peer cannot aim the primary at more addresses than its attempts.
func TestAttackDialBackRate(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		victim, addr := w.listen()
		defer victim.Close()
		socket, _ := w.listen()
		defer socket.Close()
		transport := &quic.Transport{Conn: socket}
		defer transport.Close()
		var mu sync.Mutex
		datagrams := 0
		w.wg.Go(func() {
			buf := make([]byte, 2048)
			for {
				if _, _, err := victim.ReadFrom(buf); errors.Is(err, net.ErrClosed) || err != nil {
					return
				}
				mu.Lock()
				datagrams++
				mu.Unlock()
			}
		})
		for range 200 { // in 20 s
			p := w.fakeDial(transport, w.primary, protocolJoin)
			r, x := p.request(w, trust.Pin{1}, addr.String())
			stream := p.joinFrame(&kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: r}})
			if f, err := readJoin(stream); err == nil {
				key, err := x.Initiator(f.GetShare().GetShare(), joinData(r), nil)
				if err != nil {
					w.t.Fatal(err)
				}
				writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Confirm{
					Confirm: &kwikpb.JoinConfirm{Mac: proveKey(key, "secondary")},
				}})
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(dialBackTimeout)
		mu.Lock()
		defer mu.Unlock()
		w.t.Logf("200 joins made the primary send %d datagrams", datagrams)
		if datagrams == 0 || datagrams > 12*(joinRate.Burst+20+2) {
			w.t.Errorf("200 joins made the primary send %d datagrams to a third party", datagrams)
		}
	})
}

func TestAdvertised(t *testing.T) {
	own := netip.MustParseAddr("198.51.100.7")
	isLocal := func(ip netip.Addr) bool { return ip.IsLoopback() || ip == own }
	seen := netip.MustParseAddrPort("203.0.113.9:4433")
	stranger := joiningPeer{seen: seen, hasToken: true}
	here := joiningPeer{seen: netip.MustParseAddrPort("127.0.0.1:4433"), isLocal: true, hasToken: true}
	open := here
	open.hasToken = false
	for _, c := range []struct {
		peer joiningPeer
		text string
		ok   bool
	}{
		{stranger, "203.0.113.9:4433", true},
		{stranger, "203.0.113.10:443", true},
		{stranger, "[2001:db8::1]:4433", true},
		{stranger, "10.1.2.3:4433", true}, // the primary may be behind the same translator
		{stranger, "[::ffff:203.0.113.10]:4433", true},
		{stranger, "", false},
		{stranger, "203.0.113.9", false},
		{stranger, "203.0.113.9:0", false},
		{stranger, "example.org:4433", false},
		{stranger, "127.0.0.1:4433", false},
		{stranger, "[::1]:4433", false},
		{stranger, "[::ffff:127.0.0.1]:4433", false},
		{stranger, "169.254.169.254:80", false},
		{stranger, "[fe80::1]:4433", false},
		{stranger, "[fe80::1%eth0]:4433", false},
		{stranger, "224.0.0.1:4433", false},
		{stranger, "[ff02::1]:4433", false},
		{stranger, "0.0.0.0:4433", false},
		{stranger, "0.1.2.3:4433", false},
		{stranger, "[::]:4433", false},
		{stranger, "255.255.255.255:4433", false},
		{stranger, "240.1.2.3:4433", false},
		{stranger, "[64:ff9b::7f00:1]:4433", false},
		{stranger, "[64:ff9b::a9fe:a9fe]:80", false},
		{stranger, "[64:ff9b::cb00:7109]:4433", false},
		{stranger, "[2002:7f00:1::]:4433", false},
		{stranger, "[::7f00:1]:4433", false},
		{stranger, "[fd00:ec2::254]:80", false},
		{stranger, "100.100.100.200:80", false},
		{stranger, "192.0.0.192:80", false},
		{stranger, "203.0.113.10:53", false},
		{stranger, "203.0.113.10:11211", false},
		{here, "127.0.0.1:4434", true},
		{here, "[::1]:4434", true},
		{here, "203.0.113.9:4433", true},
		{here, "[fd00:ec2::254]:80", false},
		{open, "127.0.0.1:4433", true},
		{open, "198.51.100.7:4433", true},
		{open, "[::1]:4433", true},
		{open, "127.0.0.1:22", false},
		{open, "198.51.100.7:22", false},
		{open, "203.0.113.9:4433", false},
		{open, "10.1.2.3:4433", false},
	} {
		addr, err := c.peer.advertised(c.text, isLocal)
		if (err == nil) != c.ok || addr.IsValid() != c.ok {
			t.Errorf("%q: %v, %v", c.text, addr, err)
		}
		if err != nil && !errors.Is(err, ErrAccessRefused) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

func FuzzAdvertised(f *testing.F) {
	f.Add("203.0.113.9:4433")
	f.Add("[::ffff:127.0.0.1]:4433")
	f.Add("[64:ff9b::a9fe:a9fe]:80")
	peer := joiningPeer{seen: netip.MustParseAddrPort("203.0.113.9:4433"), hasToken: true}
	f.Fuzz(func(t *testing.T, text string) {
		addr, err := peer.advertised(text, func(netip.Addr) bool { return false })
		if err != nil {
			return
		}
		ip := addr.Addr()
		isTaken := ip.IsGlobalUnicast() && !ip.Is4In6() && ip.Zone() == ""
		if !isTaken || addr.Port() == 0 {
			t.Errorf("%q is taken for %v", text, addr)
		}
	})
}

// Tokens that are short enough to be guessed are refused by both roles.
func TestShortTokens(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		short := w.token[:MinJoinToken-1]
		s := w.serve(ServerRoleSecondary)
		w.secondaries = append(w.secondaries, s)
		if _, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: short}); err == nil ||
			!strings.Contains(err.Error(), "at least 16") {
			w.t.Errorf("join: %v", err)
		}
		if _, err := Listen(nil, pinned(trust.Pin{}), &ServerConfig{JoinToken: short}); err == nil ||
			!strings.Contains(err.Error(), "at least 16") {
			w.t.Errorf("listen: %v", err)
		}
	})
}
