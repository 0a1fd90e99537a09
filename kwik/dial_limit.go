package kwik

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// This file bounds what a primary can make a client send to addresses that have not answered. Any
// host may be at such an address, and it receives Initial packets of 1,200 bytes.
//
//   - At most 8 servers that have never been reached are dialed at a time (ClientSession.dialSlots).
//   - An address gets three tries, then one every 10 minutes. If the primary announces it again, it
//     gets one a minute after the last.
//   - All unanswered tries of a session together have a budget of bytes. It grows with the bytes
//     that the session receives: who aims a client pays 16 bytes for each.
//
// An address that has answered is dialed again without these limits.

const (
	// maxUnreached bounds the servers without an answer that are dialed at a time.
	maxUnreached = 8
	// maxAddressTries bounds the tries of an address, until unansweredPause has passed.
	maxAddressTries = 3
	unansweredPause = 10 * time.Minute
	// announcedPause is the pause of an address that was announced again since the last try.
	announcedPause = time.Minute
	// maxAddressesPerTry bounds the addresses without an answer in one try of a server.
	maxAddressesPerTry = 2
	// The budget of unanswered tries is unansweredBytes, and one byte for each earnedPart bytes
	// that the session has received.
	unansweredBytes = 92 << 10
	earnedPart      = 16
	// maxDialRecords bounds the addresses that a session remembers.
	maxDialRecords = 1024
	// minUnreachedTimeout bounds from below how long an address without an answer is waited for.
	minUnreachedTimeout = 3 * time.Second
)

var errUnanswered = errors.New("it has not answered, and is tried again later")

// A dialLimit decides which addresses a session may dial now. Time is an argument; the session's
// lock guards it. The zero value is ready.
type dialLimit struct {
	spent   int64 // bytes of tries without an answer
	records map[netip.AddrPort]*dialRecord
}

// A dialRecord is the history of an address.
type dialRecord struct {
	reached bool
	tries   int       // without an answer
	last    time.Time // the beginning of the last try
	// announced means that the primary has announced the address since then.
	announced bool
}

// announce records that the primary has announced an address.
func (l *dialLimit) announce(addr netip.AddrPort) {
	if record := l.records[addr]; record != nil {
		record.announced = true
	}
}

func (l *dialLimit) isReached(addr netip.AddrPort) bool {
	record := l.records[addr]
	return record != nil && record.reached
}

// waitFor returns how long an address must not be dialed; 0 means that it may be dialed now.
func (l *dialLimit) waitFor(addr netip.AddrPort, now time.Time) time.Duration {
	record := l.records[addr]
	if record == nil || record.reached || record.tries < maxAddressTries {
		return 0
	}
	pause := unansweredPause
	if record.announced {
		pause = announcedPause
	}
	return max(pause-now.Sub(record.last), 0)
}

// plan returns the addresses of a server to dial now, those first that have answered. unreached
// reports whether others are among them. If there are none, wait is how long that stays so.
func (l *dialLimit) plan(
	addrs []netip.AddrPort, now time.Time,
) (chosen []netip.AddrPort, unreached bool, wait time.Duration) {
	wait = unansweredPause
	var fresh []netip.AddrPort
	for _, addr := range addrs {
		switch pause := l.waitFor(addr, now); {
		case l.isReached(addr):
			chosen = append(chosen, addr)
		case pause > 0:
			wait = min(wait, pause)
		default:
			fresh = append(fresh, addr)
		}
	}
	slices.SortStableFunc(fresh, func(a, b netip.AddrPort) int { return l.triesOf(a) - l.triesOf(b) })
	fresh = fresh[:min(len(fresh), maxAddressesPerTry)]
	return append(chosen, fresh...), len(fresh) > 0, wait
}

func (l *dialLimit) triesOf(addr netip.AddrPort) int {
	if record := l.records[addr]; record != nil {
		return record.tries
	}
	return 0
}

// begin records a try that costs so many bytes, unless it is not allowed. received is the number
// of bytes that the session has received.
func (l *dialLimit) begin(addr netip.AddrPort, cost, received int64, now time.Time) (allowed bool) {
	if l.isReached(addr) {
		return true
	}
	record := l.records[addr]
	budget := unansweredBytes + received/earnedPart
	if record != nil && record.tries > 0 {
		budget /= 2 // the rest is for addresses that have had no try
	}
	if l.waitFor(addr, now) > 0 || l.spent+cost > budget {
		return false
	}
	if record == nil {
		record = l.newRecord(addr)
	}
	record.tries++
	record.last, record.announced = now, false
	l.spent += cost
	return true
}

// answered records that an address has answered a try.
func (l *dialLimit) answered(addr netip.AddrPort, cost int64) {
	record := l.records[addr]
	if record == nil { // forgotten meanwhile
		record = l.newRecord(addr)
	}
	if !record.reached {
		l.spent = max(l.spent-cost, 0)
	}
	*record = dialRecord{reached: true}
}

// newRecord adds an address. If there are too many, it forgets another.
func (l *dialLimit) newRecord(addr netip.AddrPort) *dialRecord {
	if l.records == nil {
		l.records = make(map[netip.AddrPort]*dialRecord)
	}
	if len(l.records) >= maxDialRecords {
		for other := range l.records {
			delete(l.records, other)
			break
		}
	}
	record := &dialRecord{}
	l.records[addr] = record
	return record
}

// tryCost returns the most bytes that a try sends that is not answered. QUIC sends the client's
// first flight of two packets, and again at each probe time-out: after 0.3 s, 0.9 s, 2.1 s and so
// on.
func tryCost(q *quic.Config) int64 {
	const flight, firstProbe = 2, 300 * time.Millisecond
	size := int64(q.InitialPacketSize)
	if size == 0 {
		size = smallPacket
	}
	flights := int64(1)
	for probe := firstProbe; probe < q.HandshakeIdleTimeout; probe = 2*probe + firstProbe {
		flights++
	}
	return flight * flights * size
}

// received returns how many bytes all paths have received. The caller holds s.mu.
func (s *ClientSession) received() (n int64) {
	for _, r := range s.paths {
		n += int64(r.pastWire.BytesReceived)
		if r.path != nil {
			n += int64(r.path.conn.ConnectionStats().BytesReceived)
		}
	}
	return n
}
