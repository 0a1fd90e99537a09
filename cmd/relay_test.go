package cmd

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// newNoise returns an endless stream of pseudo-random bytes.
func newNoise(seed byte) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte{seed})) }

// A relay passes UDP packets between clients and a server. After a number of bytes to clients it
// drops everything until it is released. So a test can stop a transfer at will and be sure that
// it is not over.
type relay struct {
	front  *net.UDPConn
	target netip.AddrPort
	budget atomic.Int64  // bytes to clients that are still let through
	held   chan struct{} // closed when the budget is used up
	once   sync.Once
	open   atomic.Bool // released
	wg     sync.WaitGroup
}

func newRelay(target netip.AddrPort, budget int64) (*relay, error) {
	front, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, err
	}
	r := &relay{front: front, target: target, held: make(chan struct{})}
	r.budget.Store(budget)
	r.wg.Go(r.run)
	return r, nil
}

func (r *relay) addr() string { return r.front.LocalAddr().String() }

func (r *relay) release() { r.open.Store(true) }

// close ends the relay and waits for its goroutines.
func (r *relay) close() {
	r.front.Close()
	r.wg.Wait()
}

// run passes packets to the server, through a socket for each client.
func (r *relay) run() {
	backs := make(map[netip.AddrPort]*net.UDPConn)
	defer func() {
		for _, back := range backs {
			back.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, client, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if r.holds() {
			continue
		}
		back := backs[client]
		if back == nil {
			if back, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.target)); err != nil {
				return
			}
			backs[client] = back
			r.wg.Go(func() { r.answer(back, client) })
		}
		back.Write(buf[:n])
	}
}

func (r *relay) holds() bool { return r.budget.Load() <= 0 && !r.open.Load() }

// answer passes packets to a client.
func (r *relay) answer(back *net.UDPConn, client netip.AddrPort) {
	buf := make([]byte, 64<<10)
	for {
		n, err := back.Read(buf)
		if n > 0 {
			if r.budget.Add(-int64(n)) <= 0 {
				r.once.Do(func() { close(r.held) })
			}
			if !r.holds() {
				r.front.WriteToUDPAddrPort(buf[:n], client)
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) { // after a refused packet the next may pass
			return
		}
	}
}
