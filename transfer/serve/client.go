package serve

import (
	"kwikcp/kwik"
	"net/netip"
)

// A client is one for whom a server works. Sessions of one prefix share what the prefix gets. The
// zero client is the server itself.
type client struct {
	prefix  netip.Prefix
	session *kwik.ServerSession
}

// clientOf returns the client of a session; nil is the server itself.
func clientOf(session *kwik.ServerSession) client {
	if session == nil {
		return client{}
	}
	return client{session.ClientPrefix(), session}
}
