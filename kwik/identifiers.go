package kwik

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/quic-go/quic-go"
)

// A StreamID names a KWIK stream. A plain stream's is its QUIC stream id; an aggregate stream's is
// [FirstAggregateStreamID] or above.
type StreamID int64

// FirstAggregateStreamID is 2^62: QUIC stream ids (RFC 9000 section 2.1) are smaller, so the two never meet.
const FirstAggregateStreamID StreamID = 1 << 62

// IsAggregate reports whether the id is an aggregate stream's.
func (id StreamID) IsAggregate() bool { return id >= FirstAggregateStreamID }

// A PathID names a path in a session. The first path to a server has the server's name, which is "primary" for the primary; what
// an application is told about is servers. Further paths to server s1 are s1+2, s1+3 and so on.
type PathID string

const primaryPathID PathID = "primary"

// valid reports whether a primary may give the id to a secondary: short, printable ASCII without "+", not the primary's.
func (id PathID) valid() bool {
	return id != "" && id != primaryPathID && len(id) <= maxPathIDLength &&
		!strings.ContainsFunc(string(id), func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '+' })
}

// further returns the id of the n-th path to a server, n >= 2.
func (id PathID) further(n int) PathID { return PathID(fmt.Sprintf("%s+%d", id, n)) }

// server returns the name of the server to which the path leads.
func (id PathID) server() PathID {
	name, _, _ := strings.Cut(string(id), "+")
	return PathID(name)
}

// A SessionID names a session on all its paths. The client chooses it at random.
type SessionID [16]byte

func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

func newSessionID() (id SessionID) {
	rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

// The codes of closed connections and reset streams, as in quic-go.
type (
	// An ApplicationErrorCode is what CloseWithError sends.
	ApplicationErrorCode = quic.ApplicationErrorCode
	// A StreamErrorCode is what CancelRead and CancelWrite send.
	StreamErrorCode = quic.StreamErrorCode
)
