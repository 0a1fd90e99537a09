package kwik

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"lukechampine.com/blake3"
)

var (
	ticketTime = time.Unix(1_700_000_000, 999)
	testClaim  = ticketClaim{scope: ticketScopeStream, session: SessionID{1, 2}, server: "s1", content: contentID{9}}
	pathClaim  = ticketClaim{scope: ticketScopePath, session: SessionID{1, 2}, server: "s1"}
)

// The layout of docs/PROTOCOL.md section 8, computed with another BLAKE3.
func TestTicketLayout(t *testing.T) {
	key := ticketKey{7}
	notBefore := uint64(ticketTime.Unix())
	want := binary.LittleEndian.AppendUint64([]byte{1, 1}, notBefore)
	want = binary.LittleEndian.AppendUint64(want, notBefore+12*3600)
	h := blake3.New(32, key[:])
	h.Write([]byte("kwik ticket\x01\x01"))
	h.Write(testClaim.session[:])
	h.Write(want[2:18])
	h.Write([]byte("\x02\x00\x00\x00\x00\x00\x00\x00s1"))
	h.Write(testClaim.content[:])
	if got := issueTicket(key, testClaim, ticketTime, ticketTime.Add(ticketLife)); !slices.Equal(got, h.Sum(want)) || len(got) != 50 {
		t.Errorf("ticket % x", got)
	}
}

func TestContentIDLayout(t *testing.T) {
	u, err := newUnits(10, 4, []uint64{3, 7})
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("kwik content")
	for _, v := range []uint64{10, 4, 2, 3, 7, 5} {
		want = binary.LittleEndian.AppendUint64(want, v)
	}
	if got := newContentID(u, 4, []byte("which"), false); got != blake3.Sum256(append(want, "which"...)) {
		t.Errorf("content id % x", got)
	}
	// Every part of a content makes a difference.
	seen := make(map[contentID]string)
	other, _ := newUnits(11, 4, nil)
	oneSegment, _ := newUnits(10, 4, nil)
	for name, id := range map[string]contentID{
		"this":               newContentID(u, 4, []byte("which"), false),
		"another size":       newContentID(other, 4, []byte("which"), false),
		"another alignment":  newContentID(u, 5, []byte("which"), false),
		"one segment":        newContentID(oneSegment, 4, []byte("which"), false),
		"another descriptor": newContentID(u, 4, []byte("whicH"), false),
		"no descriptor":      newContentID(u, 4, nil, false),
		"the same, pushed":   newContentID(u, 4, []byte("which"), true),
	} {
		if same, twice := seen[id]; twice {
			t.Errorf("%s and %s have one id", name, same)
		}
		seen[id] = name
	}
}

func TestTicketOfSomethingElse(t *testing.T) {
	key, older, stranger := ticketKey{7}, ticketKey{8}, ticketKey{9}
	ticket := issueTicket(key, testClaim, ticketTime, ticketTime.Add(ticketLife))
	change := func(f func(c *ticketClaim)) ticketClaim {
		c := testClaim
		f(&c)
		return c
	}
	for _, tt := range []struct {
		name   string
		keys   []ticketKey
		claim  ticketClaim
		ticket []byte
		ok     bool
	}{
		{"right", []ticketKey{key}, testClaim, ticket, true},
		{"right with the previous key", []ticketKey{older, key}, testClaim, ticket, true},
		{"right with the present key", []ticketKey{key, older}, testClaim, ticket, true},
		{"no key", nil, testClaim, ticket, false},
		{"other keys", []ticketKey{older, stranger}, testClaim, ticket, false},
		{"another session", []ticketKey{key}, change(func(c *ticketClaim) { c.session[15] = 1 }), ticket, false},
		{"another path", []ticketKey{key}, change(func(c *ticketClaim) { c.server = "s2" }), ticket, false},
		{"a path that is longer", []ticketKey{key}, change(func(c *ticketClaim) { c.server = "s1\x00" }), ticket, false},
		{"another content", []ticketKey{key}, change(func(c *ticketClaim) { c.content[31] = 1 }), ticket, false},
		{"another scope", []ticketKey{key}, change(func(c *ticketClaim) { c.scope = ticketScopePath }), ticket, false},
		{"a stream ticket to come in", []ticketKey{key}, pathClaim, ticket, false},
		{"a path ticket to read", []ticketKey{key}, testClaim, issueTicket(key, pathClaim, ticketTime, ticketTime.Add(ticketLife)), false},
		{"no ticket", []ticketKey{key}, testClaim, nil, false},
		{"one byte less", []ticketKey{key}, testClaim, ticket[:ticketSize-1], false},
		{"one byte more", []ticketKey{key}, testClaim, append(slices.Clone(ticket), 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkTicket(tt.keys, tt.claim, tt.ticket, ticketTime)
			if (err == nil) != tt.ok || (err != nil && !errors.Is(err, ErrAccessRefused)) {
				t.Errorf("error %v", err)
			}
		})
	}
	for bit := range 8 * ticketSize {
		broken := slices.Clone(ticket)
		broken[bit/8] ^= 1 << (bit % 8)
		if err := checkTicket([]ticketKey{key}, testClaim, broken, ticketTime); !errors.Is(err, ErrAccessRefused) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	}
}

func TestTicketDates(t *testing.T) {
	key := ticketKey{7}
	ticket := issueTicket(key, testClaim, ticketTime, ticketTime.Add(ticketLife))
	issued := ticketTime.Truncate(time.Second)
	for _, tt := range []struct {
		name string
		at   time.Time
		ok   bool
	}{
		{"when issued", ticketTime, true},
		{"before the skew", issued.Add(-ticketSkew - time.Second), false},
		{"at the skew", issued.Add(-ticketSkew), true},
		{"after the skew", issued.Add(-ticketSkew + time.Second), true},
		{"a second before the end", issued.Add(ticketLife + ticketSkew - time.Second), true},
		{"at the end", issued.Add(ticketLife + ticketSkew), false},
		{"after the end", issued.Add(ticketLife + ticketSkew + time.Second), false},
		{"before the epoch", time.Unix(-1, 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := checkTicket([]ticketKey{key}, testClaim, ticket, tt.at); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}
