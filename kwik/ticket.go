package kwik

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/internal/trust"
	"kwikcp/kwik/internal/sched"
)

const (
	ticketVersion      = 1 // of a ticket without a holder
	boundTicketVersion = 2 // of a ticket with one
	ticketSize         = 1 + 1 + 8 + 8 + 32
	// ticketSkew is how far the clocks of a primary and a secondary may differ.
	ticketSkew = 5 * time.Minute
	// ticketLife is how long a ticket can open a path or attach a stream. A running transfer
	// needs no ticket.
	ticketLife = 12 * time.Hour
)

// A ticketScope is what a ticket lets a session do.
type ticketScope byte

const (
	ticketScopePath   ticketScope = 0 // open a path
	ticketScopeStream ticketScope = 1 // read one content
)

// A ticketKey authenticates the tickets of one secondary. The primary creates it at the join. Only
// the two servers know it.
type ticketKey [32]byte

// newMemberKey returns the key for the tickets of a secondary whose public key has the given hash.
// A primary with a known key derives it, so that tickets survive the restart of either server.
func (l *Listener) newMemberKey(pin trust.Pin) (key ticketKey) {
	l.mu.Lock()
	self := l.members.self
	l.mu.Unlock()
	if self == nil {
		rand.Read(key[:])
		return key
	}
	h := blake3.NewDeriveKey("kwikcp 2026-11-27 ticket key of a member")
	h.Write(self.key[:])
	h.Write(pin[:])
	h.Sum(key[:0])
	return key
}

// A ticketClaim is the content of a ticket that its MAC covers, without the dates
// (docs/PROTOCOL.md, section 8).
type ticketClaim struct {
	scope   ticketScope
	session SessionID
	server  ServerID
	content contentID // zero for a path ticket
	holder  ticketHolder
}

// version returns the version of tickets for the claim.
func (c ticketClaim) version() byte {
	if c.holder == (ticketHolder{}) {
		return ticketVersion
	}
	return boundTicketVersion
}

// A contentID identifies the content of an aggregate stream and its units: BLAKE3 over size, units
// and descriptor.
type contentID [32]byte

func newContentID(u sched.Units, alignment uint64, descriptor []byte, pushed bool) (id contentID) {
	h := blake3.New()
	if pushed {
		h.WriteString("kwik pushed content")
	} else {
		h.WriteString("kwik content")
	}
	segments := u.Segments()
	buf := make([]byte, 0, 8*(4+len(segments)))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(u.Total()))
	buf = binary.LittleEndian.AppendUint64(buf, alignment)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(len(segments)))
	for _, n := range segments {
		buf = binary.LittleEndian.AppendUint64(buf, n)
	}
	buf = binary.LittleEndian.AppendUint64(buf, uint64(len(descriptor)))
	h.Write(buf)
	h.Write(descriptor)
	h.Sum(id[:0])
	return id
}

// mac computes the MAC of a ticket with these dates, in seconds since the Unix epoch.
func (c ticketClaim) mac(key ticketKey, notBefore, notAfter uint64) (mac [32]byte) {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("kwik: internal error: " + err.Error()) // only a key that is not 32 bytes long
	}
	buf := make([]byte, 0, 160)
	buf = append(buf, "kwik ticket"...)
	buf = append(buf, c.version(), byte(c.scope))
	buf = append(buf, c.session[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, notBefore)
	buf = binary.LittleEndian.AppendUint64(buf, notAfter)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(len(c.server)))
	buf = append(buf, c.server...)
	buf = append(buf, c.content[:]...)
	if c.version() == boundTicketVersion {
		buf = append(buf, c.holder[:]...)
	}
	h.Write(buf)
	h.Sum(mac[:0])
	return mac
}

// issueTicket returns a ticket for c that is valid from now until a time.
func issueTicket(key ticketKey, c ticketClaim, now, until time.Time) []byte {
	notBefore, notAfter := uint64(now.Unix()), uint64(until.Unix())
	mac := c.mac(key, notBefore, notAfter)
	t := make([]byte, 0, ticketSize)
	t = append(t, c.version(), byte(c.scope))
	t = binary.LittleEndian.AppendUint64(t, notBefore)
	t = binary.LittleEndian.AppendUint64(t, notAfter)
	return append(t, mac[:]...)
}

// checkTicket returns nil if t is a ticket for c under one of keys, valid at now. The error, of
// code ErrAccessRefused, distinguishes a wrong clock from a wrong ticket, and nothing else.
func checkTicket(keys []ticketKey, c ticketClaim, t []byte, now time.Time) error {
	if len(t) != ticketSize || t[0] != c.version() || t[1] != byte(c.scope) {
		return errorf(ErrAccessRefused, "no ticket for this")
	}
	notBefore, notAfter := binary.LittleEndian.Uint64(t[2:]), binary.LittleEndian.Uint64(t[10:])
	right := 0
	for _, key := range keys {
		mac := c.mac(key, notBefore, notAfter)
		right |= subtle.ConstantTimeCompare(mac[:], t[18:])
	}
	if right == 0 {
		return errorf(ErrAccessRefused, "no ticket for this")
	}
	// The MAC vouches for the dates, so they are the primary's and small.
	const skew = int64(ticketSkew / time.Second)
	if at := now.Unix(); at < int64(notBefore)-skew || at >= int64(notAfter)+skew {
		return errorf(ErrAccessRefused, "ticket is not valid now: are the servers' clocks right?")
	}
	return nil
}
