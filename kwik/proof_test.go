package kwik

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"lukechampine.com/blake3"

	kwikpb "kwikcp/kwik/proto"
)

// The layout of a bound ticket (docs/PROTOCOL.md section 8), computed with another BLAKE3.
func TestBoundTicketLayout(t *testing.T) {
	key, claim := ticketKey{7}, testClaim
	claim.holder = ticketHolder{5}
	notBefore := uint64(ticketTime.Unix())
	want := binary.LittleEndian.AppendUint64([]byte{2, 1}, notBefore)
	want = binary.LittleEndian.AppendUint64(want, notBefore+12*3600)
	h := blake3.New(32, key[:])
	h.Write([]byte("kwik ticket\x02\x01"))
	h.Write(claim.session[:])
	h.Write(want[2:18])
	h.Write([]byte("\x02\x00\x00\x00\x00\x00\x00\x00s1"))
	h.Write(claim.content[:])
	h.Write(claim.holder[:])
	ticket := issueTicket(key, claim, ticketTime, ticketTime.Add(ticketLife))
	if !slices.Equal(ticket, h.Sum(want)) || len(ticket) != ticketSize {
		t.Errorf("ticket % x", ticket)
	}
	other := claim
	other.holder[31] = 1
	for name, c := range map[string]ticketClaim{"another holder": other, "no holder": testClaim} {
		if err := checkTicket([]ticketKey{key}, c, ticket, ticketTime); !errors.Is(err, ErrAccessRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for bit := range 8 * ticketSize {
		broken := slices.Clone(ticket)
		broken[bit/8] ^= 1 << (bit % 8)
		for _, c := range []ticketClaim{claim, testClaim} {
			if err := checkTicket([]ticketKey{key}, c, broken, ticketTime); !errors.Is(err, ErrAccessRefused) {
				t.Errorf("bit %d flipped: %v", bit, err)
			}
		}
	}
	downgraded := slices.Clone(ticket)
	downgraded[0] = ticketVersion
	if err := checkTicket([]ticketKey{key}, testClaim, downgraded, ticketTime); !errors.Is(err, ErrAccessRefused) {
		t.Errorf("downgraded: %v", err)
	}
}

// A thief who has read all that a client received and sent cannot use its tickets from another
// machine. That holds on a secondary, on a further path to the primary, and with a session of the
// thief that has the client's ID.
func TestAttackTicketReplay(t *testing.T) {
	inWorldOf(t, 4<<20, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		stream := w.offer(client, server, unit, w.prove)
		client.mu.Lock()
		tickets := map[ServerID][]byte{
			"s1": client.servers["s1"].info.GetTicket(), primaryID: client.servers[primaryID].info.GetTicket(),
		}
		streamTicket := client.streams[stream.StreamID()].tickets["s1"]
		client.mu.Unlock()
		public := []byte(client.key.Public().(ed25519.PublicKey))
		for id, to := range map[ServerID]*testServer{"s1": w.secondaries[0], primaryID: w.primary} {
			thief := newSessionKey()
			for _, forge := range []func(p *fakePeer) (key, proof []byte){
				func(*fakePeer) (key, proof []byte) { return nil, nil },
				func(*fakePeer) (key, proof []byte) { return public, nil },
				func(*fakePeer) (key, proof []byte) { return public, make([]byte, 63) },
				func(*fakePeer) (key, proof []byte) { return public, make([]byte, 64) },
				func(p *fakePeer) (key, proof []byte) { return thief.Public().(ed25519.PublicKey), p.proof(thief) },
				func(p *fakePeer) (key, proof []byte) { return public, p.proof(thief) },
				func(*fakePeer) (key, proof []byte) { return public, clientProof(w, client, id) }, // replayed
			} {
				p := w.fakeClient(to, protocolClient)
				key, proof := forge(p)
				p.hello(&kwikpb.Hello{
					Version: protocolVersion, SessionId: client.id[:], PathId: string(id), Ticket: tickets[id],
					ProofKey: key, Proof: proof,
				})
				p.wantClosed(ErrAccessRefused)
			}
		}
		// The thief gets no session with the client's ID. Even a ticket of his own for it would not
		// combine with the client's stream ticket.
		thief := newSessionKey()
		p := w.fakeClient(w.primary, protocolClient)
		thiefKey := []byte(thief.Public().(ed25519.PublicKey))
		p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: client.id[:], ProofKey: thiefKey})
		p.wantClosed(ErrAccessRefused)
		own := issueTicket(w.secondaries[0].ticketKeys()[0], ticketClaim{
			scope: ticketScopePath, session: client.id, server: "s1", holder: ticketHolder(thiefKey),
		}, time.Now(), time.Now().Add(ticketLife))
		p = w.fakeClient(w.secondaries[0], protocolClient)
		p.hello(&kwikpb.Hello{
			Version: protocolVersion, SessionId: client.id[:], PathId: "s1", Ticket: own,
			ProofKey: thiefKey, Proof: p.proof(thief),
		})
		if p.receive().GetWelcome() == nil {
			w.t.Fatal("the thief's own ticket is refused")
		}
		p.offer(&kwikpb.StreamOffer{
			KwikStreamId: uint64(stream.StreamID()), Size: 4 << 20, Alignment: unit, Descriptor_: []byte("data"),
			Tickets: []*kwikpb.StreamTicket{{PathId: "s1", Ticket: streamTicket}},
		})
		p.wantClosed(ErrAccessRefused)
		w.copy(stream).wantAll() // the client is not disturbed
	})
}

// proof is the proof of a session's key on a fake client's connection.
func (p *fakePeer) proof(key ed25519.PrivateKey) []byte {
	p.t.Helper()
	proof, err := provePath(key, p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	return proof
}

// clientProof is the proof that a client sent on its path to a server, or would send on its path
// to the primary.
func clientProof(w *world, c *ClientSession, id ServerID) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	proof, err := provePath(c.key, c.paths[id.path(1)].path.conn)
	if err != nil {
		w.t.Fatal(err)
	}
	return proof
}

// Malformed keys in Hello are refused on every path.
func TestHostileProofKeys(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		for _, key := range [][]byte{make([]byte, 31), make([]byte, 33), make([]byte, 32), {1}} {
			p := w.fakeClient(w.primary, protocolClient)
			p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: make([]byte, 16), ProofKey: key})
			p.wantClosed(ErrMetadataProtocolViolation)
		}
	})
}

// A client of an earlier release, without a key, has tickets that are bound to nothing.
func TestClientWithoutAKey(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		p := w.fakeClient(w.primary, protocolClient)
		p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: make([]byte, 16)})
		for {
			add := p.receive().GetAddPath()
			if add.GetPathId() != "s1" {
				continue
			}
			if add.GetTicket()[0] != ticketVersion {
				t.Errorf("ticket of version %d", add.GetTicket()[0])
			}
			w.fakeGuest(w.secondaries[0], SessionID{}, "s1", add.GetTicket())
			return
		}
	})
}

func FuzzReadHolder(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, key []byte) {
		h, err := readHolder(&kwikpb.Hello{ProofKey: key})
		isHolder := len(key) == len(h) && h != ticketHolder{}
		if err == nil && len(key) > 0 && !isHolder {
			t.Errorf("%x is a holder", key)
		}
	})
}

// A client with a key may use tickets that are bound to nothing. A primary of an earlier release
// issued them before it was restarted.
func TestTicketOfAnEarlierPrimary(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		session := SessionID{3}
		claim := ticketClaim{scope: ticketScopePath, session: session, server: primaryID}
		now := time.Now()
		ticket := issueTicket(w.primary.ticketKeys()[0], claim, now, now.Add(ticketLife))
		p := w.fakeClient(w.primary, protocolClient)
		key := newSessionKey()
		p.hello(&kwikpb.Hello{
			Version: protocolVersion, SessionId: session[:], PathId: string(primaryID), Ticket: ticket,
			ProofKey: key.Public().(ed25519.PublicKey), Proof: p.proof(key),
		})
		if p.receive().GetWelcome().GetRole() != kwikpb.Role_ROLE_SECONDARY {
			t.Error("refused")
		}
	})
}
