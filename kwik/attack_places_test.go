package kwik

import (
	"net/netip"
	"testing"
	"time"

	"kwikcp/internal/netprefix"
)

// This file holds attacks of clients that have many addresses, on the admission alone.

// usualLimits are the limits of a listener with the default configuration.
var usualLimits = admissionLimits{
	handshakes: 512, handshakesPerClient: 256, joins: 64, joinsPerClient: 16,
	sessions: 1024, sessionsPerClient: 256, helloTimeout: 10 * time.Second,
}

// siteAddress returns the prefix of an address in one of the networks of a site.
func siteAddress(site, network int) netip.Prefix {
	return netprefix.Of(netip.AddrFrom16([16]byte{0x20, 1, 5: byte(site), 6: byte(network >> 8), 7: byte(network)}))
}

// Half a ClientHello makes a connection that quic-go does not hand over. It cannot be closed before
// its handshake times out after 5 s. Three sites with 300 addresses each send 2,000
// a second. The connections that exist at a time are bounded, and another client is served.
func TestAttackUnfinishedHandshakes(t *testing.T) {
	w := newAdmissionWorld(t, usualLimits)
	var alive []*newcomer // in the order of their arrival
	most, honest := 0, 0
	for i := range 20_000 {
		w.now = w.now.Add(time.Second / 2000)
		for len(alive) > 0 && w.now.Sub(alive[0].arrived) >= 5*time.Second {
			w.end(alive[0])
			alive = alive[1:]
		}
		if n, _, why := w.arrive(siteAddress(i%3, i%300), w.now); why == admitted {
			alive = append(alive, n)
		}
		most = max(most, len(alive))
		if i%100 == 99 {
			n, _, why := w.arrive(clientNumber(i), w.now)
			if why != admitted {
				t.Fatalf("an honest client: %q", why)
			}
			w.serve(n)
			if !n.gone {
				honest++
			}
			w.end(n)
		}
	}
	t.Logf("at most %d connections; %d of 200 honest clients served", most, honest)
	if most > 3*256 || honest != 200 {
		t.Errorf("%d connections at a time, want at most 768; %d of 200 honest clients served", most, honest)
	}
	for _, n := range alive {
		w.end(n)
	}
	if len(w.newcomers) != 0 || len(w.stranded) != 0 {
		t.Errorf("%d and %d are left", len(w.newcomers), len(w.stranded))
	}
}

// Four sites hold all places for sessions, each from 256 addresses with one stream, and take what
// they requested. 100 clients from elsewhere get places and keep them.
func TestAttackSessionsOfManyAddresses(t *testing.T) {
	w := newAdmissionWorld(t, usualLimits)
	enter := func(from netip.Prefix, id int) (*resident, refusal) {
		w.now = w.now.Add(10 * time.Millisecond)
		r := &resident{from: from, id: SessionID{byte(id), byte(id >> 8)}, touched: w.now}
		_, why := w.enter(r, w.now)
		return r, why
	}
	for i := range 1024 {
		if _, why := enter(siteAddress(i%4, i/4), i); why != admitted {
			t.Fatal(why)
		}
	}
	served := 0
	var honest []*resident
	for i := range 100 {
		r, why := enter(clientNumber(i), 2000+i)
		if why == admitted {
			honest = append(honest, r)
		}
		enter(siteAddress(i%4, 1000+i), 3000+i) // the attackers go on
	}
	for _, r := range honest {
		if _, isHere := w.residents[r]; isHere {
			served++
		}
	}
	if served != 100 || len(w.residents) > 1024 {
		t.Errorf("%d of 100 honest clients have places; %d sessions", served, len(w.residents))
	}
}

// Peers without the token draw their joins out, at four addresses. A secondary joins nevertheless.
func TestAttackJoinsDrawnOut(t *testing.T) {
	w := newAdmissionWorld(t, usualLimits)
	for i := range 64 {
		n, _ := w.mustArrive(clientNumber(i % 4))
		if _, why := w.join(n); why != admitted {
			t.Fatal(why)
		}
	}
	n, _ := w.mustArrive(clientNumber(9))
	evicted, why := w.join(n)
	if why != admitted || len(evicted) != 1 || evicted[0].why != endedJoin {
		t.Fatalf("%q, %d lost their places", why, len(evicted))
	}
	again, _ := w.mustArrive(evicted[0].from)
	if evicted, _ := w.join(again); len(evicted) == 1 && evicted[0] == n {
		t.Error("the secondary lost its place")
	}
}
