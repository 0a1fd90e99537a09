package main

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A streamPair relays TCP connections between an address where it listens and a target. Each
// direction of each connection has the delay and the rate of the pair to itself, as distant
// servers give it. Nothing is lost.
//
// Its goroutines are one that accepts, one for each connection, and two for each of its directions.
// close ends all and waits.
type streamPair struct {
	at, target netip.AddrPort
	listener   net.Listener  // at at
	delay      time.Duration // one way
	rate       float64       // bits a second; 0 is unlimited
	sessions   int           // connections at a time; others are refused

	wg   sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool // nil once the pair is closed
}

const (
	// streamChunk is how many bytes are read at once.
	streamChunk = 64 << 10
	// maxChunks bounds the chunks under way in one direction, and so its memory: 64 MiB. At 30 ms
	// that is 2 GB/s.
	maxChunks = 1024
)

// start begins to relay.
func (p *streamPair) start() error {
	var err error
	if p.listener, err = net.Listen("tcp", p.at.String()); err != nil {
		return err
	}
	p.open = make(map[net.Conn]bool)
	p.wg.Go(p.accept)
	return nil
}

// close ends all connections.
func (p *streamPair) close() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.open {
		c.Close()
	}
	p.open = nil
	p.mu.Unlock()
	p.wg.Wait()
}

// keep records a connection, so that close ends it. It closes the connection if the pair is closed
// or has too many.
func (p *streamPair) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil || len(p.open) >= 2*p.sessions {
		c.Close()
		return false
	}
	p.open[c] = true
	return true
}

func (p *streamPair) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

func (p *streamPair) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			continue
		}
		p.wg.Go(func() { p.relay(client) })
	}
}

// relay relays one connection until both directions have ended.
func (p *streamPair) relay(client net.Conn) {
	defer p.drop(client)
	time.Sleep(2 * p.delay) // the handshake of a distant server
	server, err := net.Dial("tcp", p.target.String())
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.carry(server, client) })
	both.Go(func() { p.carry(client, server) })
	both.Wait()
}

// A chunk is bytes under way.
type chunk struct {
	due  time.Time
	data []byte
}

// carry passes what from sends on to to, each chunk when it is due.
func (p *streamPair) carry(to, from net.Conn) {
	under := make(chan chunk, maxChunks)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(under)
		free := time.Now() // when the line has sent what was read before
		for {
			b := make([]byte, streamChunk)
			n, err := from.Read(b)
			if n > 0 {
				now := time.Now()
				if free.Before(now) {
					free = now
				}
				if p.rate > 0 {
					free = free.Add(time.Duration(float64(n) * 8 / p.rate * float64(time.Second)))
				}
				time.Sleep(time.Until(free) - 10*time.Millisecond) // a sender must feel the rate
				under <- chunk{free.Add(p.delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	var failed error
	for c := range under {
		if failed != nil {
			continue
		}
		time.Sleep(time.Until(c.due))
		if _, failed = to.Write(c.data); failed != nil {
			from.Close() // ends the reader
		}
	}
	reader.Wait()
	if t, ok := to.(*net.TCPConn); ok && failed == nil {
		t.CloseWrite() // the other direction may go on
	}
}
