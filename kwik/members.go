package kwik

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

// A member is a secondary that joined this primary, or the primary itself.
type member struct {
	id        ServerID
	addr      netip.AddrPort // where clients reach it; invalid for the primary, which they know
	pin       trust.Pin      // of the key that it showed when it was dialled back
	key       ticketKey
	conn      *quic.Conn // the membership lasts as long as this
	charges   []charge   // what clients could not prove of it, and it has not proved since
	excuses   int        // times that it had another version than the one it was charged for
	examined  bool       // a goroutine has it prove its charges
	suspended bool       // it could not: clients are not told of it
}

// place is where a member is, and who: what stays when it joins again.
type place struct {
	addr netip.AddrPort
	pin  trust.Pin
}

// members are a primary's secondaries. Guarded by the listener.
type members struct {
	byID map[ServerID]*member
	last int // for ids
	// owed holds the charges of members that went while they were suspended, at most MaxMembers: who joins again owes them still.
	owed map[place][]charge
	// self is the primary, for clients that want further paths to it: several at once, or one after it was restarted. Nil if its
	// key is not known.
	self *member
}

// all returns everyone for whom clients get tickets.
func (m *members) all() []*member {
	all := slices.DeleteFunc(slices.Collect(maps.Values(m.byID)), func(m *member) bool { return m.suspended })
	if m.self != nil {
		all = append(all, m.self)
	}
	return all
}

// newSelf returns what a primary is to clients that want further paths to it.
func (l *Listener) newSelf() *member {
	pin, err := l.ownPin()
	if err != nil {
		return nil
	}
	return &member{id: primaryID, pin: pin, key: trust.TicketKey(l.tls.Certificates[0])}
}

// admit makes m a member, names it and tells the clients. A secondary that was a member under the same key and address
// keeps its name; the older connection is obsolete and returned.
func (l *Listener) admit(m *member) (obsolete *quic.Conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	where := place{m.addr, m.pin}
	if m.charges = l.members.owed[where]; m.charges != nil {
		m.suspended = true
		delete(l.members.owed, where)
	}
	for _, old := range l.members.byID {
		if old.addr == m.addr && old.pin == m.pin {
			m.id, obsolete = old.id, old.conn
			m.charges, m.suspended = old.charges, old.suspended
		}
	}
	if obsolete == nil {
		if len(l.members.byID) >= l.config.MaxMembers {
			return nil, errorf(ErrSecondaryStreamOverflow, "this primary has %d secondaries and takes no more", len(l.members.byID))
		}
		l.members.last++
		m.id = ServerID(fmt.Sprintf("s%d", l.members.last))
	}
	l.members.byID[m.id] = m
	l.examineCharged(m)
	if !m.suspended {
		for s := range l.sessions {
			s.tellMember(m)
		}
	}
	return obsolete, nil
}

// dismiss ends a membership and tells the clients. It does nothing and reports false if the secondary joined again since.
func (l *Listener) dismiss(m *member, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.members.byID[m.id] != m {
		return false
	}
	delete(l.members.byID, m.id)
	if m.suspended && len(m.charges) > 0 && len(l.members.owed) < l.config.MaxMembers {
		l.members.owed[place{m.addr, m.pin}] = m.charges
	}
	for s := range l.sessions {
		s.tellGone(m.id, reason)
	}
	return true
}

// renewTickets gives the clients new tickets long before theirs expire, so that a session may take all the time that it wants. It
// ends with the listener.
func (l *Listener) renewTickets() {
	ticker := time.NewTicker(ticketLife / 3)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
			l.mu.Lock()
			for s := range l.sessions {
				s.tellMembers()
			}
			l.mu.Unlock()
		}
	}
}

// A Member is a secondary of a primary, as Members returns it.
type Member struct {
	ID   ServerID
	Addr netip.AddrPort
	// KeyHash is the SHA-256 of its public key.
	KeyHash [32]byte
	// Suspended means that clients could not prove bytes of it and that it has not proved itself since: it is offered to nobody.
	Suspended bool
}

// Members returns a snapshot of a primary's secondaries, in no particular order.
func (l *Listener) Members() []Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Member
	for _, m := range l.members.byID {
		all = append(all, Member{ID: m.id, Addr: m.addr, KeyHash: m.pin, Suspended: m.suspended})
	}
	return all
}

// ticketKeys returns the keys under which this server honours tickets: a secondary's of its present and previous membership, and a
// primary's own.
func (l *Listener) ticketKeys() []ticketKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.members.self != nil {
		return []ticketKey{l.members.self.key}
	}
	return l.keys
}
