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

// A member is a secondary that joined this primary, or the primary itself. Guarded by the
// listener's lock.
type member struct {
	id          ServerID
	addr        netip.AddrPort // where clients reach it; invalid for the primary, which they know
	from        netip.Prefix   // of the address from which it joined
	pin         trust.Pin      // of the key that it showed when it was dialed back
	key         ticketKey
	conn        *quic.Conn     // the membership ends with it
	rejected    []rejectedUnit // units that clients could not prove and the member has to
	challenging bool           // challengeUntilProved runs
	suspended   bool           // it did not prove the first of them: clients are not told of it
}

// A memberKey identifies a secondary across memberships.
type memberKey struct {
	addr netip.AddrPort
	pin  trust.Pin
}

func (m *member) identity() memberKey { return memberKey{m.addr, m.pin} }

// members holds a primary's secondaries. Guarded by the listener's lock.
type members struct {
	byID map[ServerID]*member
	last int // newest number of an ID
	// unproved holds the unit that a member did not prove before it left, of at most maxMembers
	// members. Such a member has to prove it when it joins again before unprovedLife is over.
	unproved map[memberKey]unprovedUnit
	// self is the primary itself, for clients that want further paths to it: several at once,
	// or one after a restart. It is nil if the primary's key is not known.
	self *member
	// reach is what clients reported about their ways to the secondaries.
	reach reachability
}

// offerable returns the servers for which clients get tickets.
func (m *members) offerable() []*member {
	all := slices.DeleteFunc(slices.Collect(maps.Values(m.byID)), func(m *member) bool { return m.suspended })
	if m.self != nil {
		all = append(all, m.self)
	}
	return all
}

// newSelf returns the primary as a member, or nil if its key is not known.
func (l *Listener) newSelf() *member {
	cert, err := l.ownCertificate()
	if err != nil {
		return nil
	}
	pin, err := l.ownPin()
	if err != nil {
		return nil
	}
	if l.config.TicketKey != nil {
		return &member{id: primaryID, pin: pin, key: *l.config.TicketKey}
	}
	return &member{id: primaryID, pin: pin, key: trust.TicketKey(*cert)}
}

// CertificateChanged tells the listener that GetCertificate of its tls.Config returns another
// certificate now. If its key is another one, a primary tells its clients, whose further
// connections would not trust it otherwise. A secondary must join again, since its primary knows
// the old key. Sessions and connections stay.
func (l *Listener) CertificateChanged() {
	if l.config.Role != ServerRolePrimary {
		return
	}
	self := l.newSelf()
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.members.self
	if self == nil || old == nil || old.pin == self.pin {
		return
	}
	self.key = old.key // tickets under it stay valid
	l.members.self = self
	for s := range l.sessions {
		s.tellMember(self)
	}
}

// admit adds m as a member, gives it an ID and tells the clients. A secondary that was a member
// with the same key and address keeps its ID; its older connection is returned and obsolete.
func (l *Listener) admit(m *member) (obsolete *quic.Conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	where := m.identity()
	if owed, ok := l.members.unproved[where]; ok && time.Now().Before(owed.expires) {
		m.rejected, m.suspended = []rejectedUnit{owed.unit}, true
	}
	for _, old := range l.members.byID {
		if old.addr == m.addr && old.pin == m.pin {
			m.id, obsolete = old.id, old.conn
			m.rejected, m.suspended = old.rejected, old.suspended
		}
	}
	if obsolete == nil {
		if why := l.checkMembers(m); why != admitted {
			return nil, errorf(ErrServerBusy, "%s", string(why))
		}
		l.members.last++
		m.id = ServerID(fmt.Sprintf("s%d", l.members.last))
	}
	delete(l.members.unproved, where)
	l.members.byID[m.id] = m
	l.startChallenges(m)
	if !m.suspended {
		for s := range l.sessions {
			s.tellMember(m)
		}
	}
	return obsolete, nil
}

// checkMembers decides whether there is a place for one more member, in total and at its address.
// The caller holds l.mu.
func (l *Listener) checkMembers(m *member) refusal {
	atAddress := 0
	for _, other := range l.members.byID {
		if other.from == m.from {
			atAddress++
		}
	}
	switch {
	case atAddress >= l.config.maxMembersPerAddress:
		return refusedMemberOf
	case len(l.members.byID) >= l.config.maxMembers:
		return refusedMember
	}
	return admitted
}

// removeMember ends a membership and tells the clients. It returns false, and does nothing, if the
// secondary has joined again since.
func (l *Listener) removeMember(m *member, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.members.byID[m.id] != m {
		return false
	}
	delete(l.members.byID, m.id)
	if m.suspended {
		l.members.remember(m, time.Now(), l.config.maxMembers)
	}
	for s := range l.sessions {
		s.tellGone(m.id, reason)
	}
	return true
}

// remember records the unit that a suspended member owes, in place of the oldest such record if
// there are limit already.
func (m *members) remember(gone *member, now time.Time, limit int) {
	maps.DeleteFunc(m.unproved, func(_ memberKey, u unprovedUnit) bool { return !now.Before(u.expires) })
	if len(m.unproved) >= limit {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(m.unproved)), func(a, b memberKey) int {
			return m.unproved[a].expires.Compare(m.unproved[b].expires)
		})
		delete(m.unproved, oldest)
	}
	m.unproved[gone.identity()] = unprovedUnit{unit: gone.rejected[0], expires: now.Add(unprovedLife)}
}

// renewTickets sends the clients new tickets long before the old ones expire, so that a session may
// last. It ends with the listener.
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

// A memberInfo is a snapshot of a secondary of a primary.
type memberInfo struct {
	ID   ServerID
	Addr netip.AddrPort
	// KeyHash is the SHA-256 of its public key.
	KeyHash [32]byte
	// Suspended reports whether the secondary owes the primary a proof of bytes that clients
	// could not prove. Clients are not told of a suspended secondary.
	Suspended bool
}

// memberList returns a snapshot of a primary's secondaries, in no particular order.
func (l *Listener) memberList() []memberInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []memberInfo
	for _, m := range l.members.byID {
		all = append(all, memberInfo{ID: m.id, Addr: m.addr, KeyHash: m.pin, Suspended: m.suspended})
	}
	return all
}

// ticketKeys returns the keys under which this server accepts tickets: on a secondary those of
// its present and previous membership, on a primary its own.
func (l *Listener) ticketKeys() []ticketKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.members.self != nil {
		return []ticketKey{l.members.self.key}
	}
	return l.keys
}
