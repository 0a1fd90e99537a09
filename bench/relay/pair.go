package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

// A pair relays between an address where it listens and a target. All clients of a pair share
// its two lines.
//
// Its goroutines are: a reader of front, a runner of each line, and a reader for each session.
// close ends all and waits.
type pair struct {
	front  *socket
	target netip.AddrPort
	up     *line // from clients to the target
	down   *line // from the target to clients

	maxSessions int
	idle        time.Duration        // after which a session without packets from either side is dropped
	now         func() time.Duration // since the start of the relay
	failed      func(error)          // told that the pair cannot go on; may be called more than once

	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	sessions map[netip.AddrPort]*session
}

// A session is a client's address with its own socket towards the target, so that the
// target can tell clients apart.
type session struct {
	client netip.AddrPort
	reply  *net.UDPAddr  // client
	back   *socket       // closed by its reader, forward
	used   atomic.Int64  // time of the last datagram from either side, since the start of the relay
	done   chan struct{} // closed when the session is forgotten
}

// start begins to relay, from a socket that now belongs to the pair.
func (p *pair) start() {
	p.stop, p.sessions = make(chan struct{}), make(map[netip.AddrPort]*session)
	p.wg.Go(p.readFront)
	p.wg.Go(func() { p.up.run(p.now, p.sendUp(), p.stop) })
	p.wg.Go(func() { p.down.run(p.now, p.sendDown(), p.stop) })
}

// close drops the datagrams in both lines, and waits for all goroutines.
func (p *pair) close() {
	p.mu.Lock()
	p.closed = true
	for _, s := range p.sessions {
		s.back.Close()
	}
	p.mu.Unlock()
	close(p.stop)
	p.front.Close()
	p.wg.Wait()
}

// readFront puts what clients send into the line up, until the socket is closed.
func (p *pair) readFront() {
	for {
		n, unread, err := p.front.read()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.failed(err)
			return
		}
		now := p.now()
		for from := 0; from < n; {
			client := p.front.sender(from)
			to := from + 1
			for to < n && p.front.sender(to) == client {
				to++
			}
			if s := p.session(client, now); s != nil {
				p.up.put(now, s, p.front.datagrams[from:to])
			} else {
				p.up.count(func(c *counts) { c.refused += int64(to - from) })
			}
			from = to
		}
		if unread > 0 {
			p.up.count(func(c *counts) { c.unread += unread })
		}
	}
}

// session returns the session of a client, a new one if need be, or nil if there are too many.
func (p *pair) session(client netip.AddrPort, now time.Duration) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[client]
	if s == nil {
		if p.closed || len(p.sessions) >= p.maxSessions {
			return nil
		}
		// The socket is not connected, so an ICMP error of the target does not become an
		// error of the socket.
		own := netip.IPv6Unspecified()
		if p.target.Addr().Is4() {
			own = netip.IPv4Unspecified()
		}
		back, err := openSocket(netip.AddrPortFrom(own, 0))
		if err != nil {
			p.failed(err)
			return nil
		}
		s = &session{client: client, reply: net.UDPAddrFromAddrPort(client), back: back, done: make(chan struct{})}
		p.sessions[client] = s
		p.wg.Go(func() { p.forward(s) })
	}
	s.used.Store(int64(now))
	return s
}

// forward puts what the target sends to a client into the line down, until the session is idle
// or the pair is closed.
func (p *pair) forward(s *session) {
	defer func() {
		p.mu.Lock()
		delete(p.sessions, s.client)
		p.mu.Unlock()
		s.back.Close()
		close(s.done)
	}()
	rest := p.idle
	for {
		if rest > 0 {
			if s.back.SetReadDeadline(time.Now().Add(rest)) != nil {
				return // it is closed
			}
			rest = 0
		}
		n, unread, err := s.back.read()
		now := p.now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if rest = s.left(now, p.idle); rest <= 0 {
				return
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.failed(err)
			return
		}
		s.used.Store(int64(now))
		for from := 0; from < n; {
			to := from
			for to < n && s.back.sender(to) == p.target {
				to++
			}
			p.down.put(now, s, s.back.datagrams[from:to])
			from = to + 1 // to is from a stranger, or n
		}
		if unread > 0 {
			p.down.count(func(c *counts) { c.unread += unread })
		}
	}
}

// left returns how long the session lives on without packets.
func (s *session) left(now, idle time.Duration) time.Duration {
	return time.Duration(s.used.Load()) + idle - now
}

// sendUp returns the line up's way out.
func (p *pair) sendUp() func([]*datagram) {
	target := net.UDPAddrFromAddrPort(p.target)
	var ms messages
	return func(ds []*datagram) {
		var unsent int64
		for from := 0; from < len(ds); {
			s := ds[from].of
			to := from
			for ; to < len(ds) && ds[to].of == s; to++ {
				ms.set(to-from, ds[to], target)
			}
			unsent += s.back.write(ms[:to-from])
			from = to
		}
		if unsent > 0 {
			p.up.count(func(c *counts) { c.unsent += unsent })
		}
	}
}

// sendDown returns the line down's way out.
func (p *pair) sendDown() func([]*datagram) {
	var ms messages
	return func(ds []*datagram) {
		for i, d := range ds {
			ms.set(i, d, d.of.reply)
		}
		if unsent := p.front.write(ms[:len(ds)]); unsent > 0 {
			p.down.count(func(c *counts) { c.unsent += unsent })
		}
	}
}

// messages are room for what one system call sends; each line's runner has its own.
type messages [batch]ipv4.Message

func (ms *messages) set(i int, d *datagram, to net.Addr) {
	m := &ms[i]
	if m.Buffers == nil {
		m.Buffers = make([][]byte, 1)
	}
	m.Buffers[0], m.Addr = d.data[:d.size], to
}
