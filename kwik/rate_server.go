package kwik

import (
	"net/netip"
	"sync"
)

// This file is a server's use of its RateLimit.

// rateShares are the shares of a server's clients: one for each address, and in it one for each
// session. All paths of a session from one address share. An entry lasts as long as a path that
// uses it.
type rateShares struct {
	limit *RateLimit // nil for none

	mu      sync.Mutex
	clients map[netip.Prefix]*clientShare
}

type clientShare struct {
	share    rateShare
	sessions map[SessionID]*sessionShare
}

type sessionShare struct {
	share rateShare
	paths int
}

func newRateShares(limit *RateLimit) *rateShares {
	return &rateShares{limit: limit, clients: make(map[netip.Prefix]*clientShare)}
}

// acquire returns the share of a session for one more path. The caller calls release when the
// path has ended.
func (r *rateShares) acquire(client netip.Prefix, id SessionID) (share rateShare, release func()) {
	if r.limit == nil {
		return rateShare{}, func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[client]
	if c == nil {
		c = &clientShare{share: r.limit.share(), sessions: make(map[SessionID]*sessionShare)}
		r.clients[client] = c
	}
	s := c.sessions[id]
	if s == nil {
		s = &sessionShare{share: c.share.share()}
		c.sessions[id] = s
	}
	s.paths++
	return s.share, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s.paths--; s.paths > 0 {
			return
		}
		if delete(c.sessions, id); len(c.sessions) == 0 {
			delete(r.clients, client)
		}
	}
}

// ClientPrefix returns the addresses that count as this client's: an IPv4 address, or the /64 of an
// IPv6 address. It is invalid if the client has no IP address.
func (s *ServerSession) ClientPrefix() netip.Prefix { return clientPrefix(s.conn.RemoteAddr()) }

const (
	// minMessage and maxMessage bound MessageSize, in bytes.
	minMessage = 1 << 10
	maxMessage = 64 << 10
)

// MessageSize returns the maximum size that a message on a plain stream should have, in bytes.
// Without a RateLimit it is 64 KiB. With one it is the bytes of a sixteenth of a second of the
// stream's share, but at least 1 KiB. So the client does not wait long for it.
func (s *ServerSession) MessageSize() int {
	limit := s.listener.config.RateLimit
	if limit == nil {
		return maxMessage
	}
	s.listener.mu.Lock()
	sessions := len(s.listener.sessions)
	s.listener.mu.Unlock()
	s.mu.Lock()
	streams := s.plain
	s.mu.Unlock()
	return int(min(max(limit.rate/16/int64(max(sessions, 1))/int64(max(streams, 1)), minMessage), maxMessage))
}
