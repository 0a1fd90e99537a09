package kwik

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/quic-go/quic-go"
)

// A StreamID names a KWIK stream. A plain stream's is its QUIC stream ID; an aggregate stream's
// is 2^62 or above.
type StreamID int64

// firstAggregateStreamID is larger than every QUIC stream ID (RFC 9000 section 2.1).
const firstAggregateStreamID StreamID = 1 << 62

// isAggregate reports whether the ID is an aggregate stream's.
func (id StreamID) isAggregate() bool { return id >= firstAggregateStreamID }

// A ServerID names a server in a session: "primary", or the name that the primary gave a
// secondary when it joined.
type ServerID string

const primaryID ServerID = "primary"

// valid reports whether a primary may give the ID to a secondary.
func (id ServerID) valid() bool {
	return id.isWellFormed() && id != primaryID && !strings.HasPrefix(string(id), ExternalPrefix)
}

// isExternal reports whether the ID is one of an external source.
func (id ServerID) isExternal() bool {
	name, ok := strings.CutPrefix(string(id), ExternalPrefix)
	return ok && name != ""
}

// isWellFormed reports whether the ID is short, printable ASCII without "+".
func (id ServerID) isWellFormed() bool {
	return id != "" && len(id) <= maxServerIDLength &&
		!strings.ContainsFunc(string(id), func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '+' })
}

// path returns the ID of the n-th path to the server, n >= 1. The first has the server's name.
func (id ServerID) path(n int) PathID {
	if n == 1 {
		return PathID(id)
	}
	return PathID(fmt.Sprintf("%s+%d", id, n))
}

// A PathID names a path in a session, which is one connection to one server. The paths to server
// s1 are s1, s1+2, s1+3 and so on.
type PathID string

const primaryPathID = PathID(primaryID)

// server returns the server to which the path leads.
func (id PathID) server() ServerID {
	name, _, _ := strings.Cut(string(id), "+")
	return ServerID(name)
}

// isFurther reports whether the path is not the first one to its server.
func (id PathID) isFurther() bool { return strings.Contains(string(id), "+") }

// A SessionID names a session on all its paths. The client chooses it at random.
type SessionID [16]byte

func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

func newSessionID() (id SessionID) {
	rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

// The codes of closed connections and reset streams are quic-go's.
type (
	// An ApplicationErrorCode is sent by CloseWithError.
	ApplicationErrorCode = quic.ApplicationErrorCode
	// A StreamErrorCode is sent by CancelRead and CancelWrite.
	StreamErrorCode = quic.StreamErrorCode
)
