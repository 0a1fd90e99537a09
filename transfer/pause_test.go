package transfer

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/transfer/internal/transfertest"
)

// A lossyConn drops one incoming packet, and reports the one after it.
type lossyConn struct {
	net.PacketConn
	after func() // called once, when the packet behind the lost one is there

	mu   sync.Mutex
	n    int // packets so far
	lost int // the number of the one to lose; negative for none
}

func (c *lossyConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(p)
		if err != nil {
			return n, addr, err
		}
		c.mu.Lock()
		k, lost := c.n, c.lost
		c.n++
		c.mu.Unlock()
		if k == lost {
			continue
		}
		if k == lost+1 && lost >= 0 {
			c.after()
		}
		return n, addr, err
	}
}

// lose drops the k-th packet that arrives after the call.
func (c *lossyConn) lose(k int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = c.n + k
}

// TestPauseOfTheNetwork loses one packet in either direction. After the next packet the network
// is down for a while, as when a telephone changes cells. QUIC survives that at every packet. A
// get must survive it too, within its own limits.
func TestPauseOfTheNetwork(t *testing.T) {
	// A source may be silent for 10 s (kwik.ClientConfig.SourceTimeout). QUIC's probes double their
	// interval, so the first probe after the outage may follow after twice the outage and one probe
	// timeout. A longer outage depends on the phase of the probes: 6 s failed in one run of twenty.
	const pause = 4500 * time.Millisecond
	// So many packets are the handshake's in each direction: the server gives up one that takes
	// long.
	for up, handshake := range map[bool]int{false: 2, true: 5} {
		for _, first := range []bool{true, false} {
			for k := range 10 {
				if first && k < handshake {
					continue
				}
				onWire(t, func(w *testNet) { pauseAfter(w, pause, up, first, k) })
			}
		}
	}
}

// pauseAfter loses the k-th packet of a session, or of its second get, and then all for a while.
// up is true for the packets to the server.
func pauseAfter(w *testNet, pause time.Duration, up, first bool, k int) {
	lossy := &lossyConn{lost: -1, after: func() {
		time.AfterFunc(5*time.Millisecond, func() { w.Sim.Silence(transfertest.ServerAddr.Addr()) })
		time.AfterFunc(pause, func() { w.Sim.Heal(transfertest.ServerAddr.Addr()) })
	}}
	wrap := func(conn net.PacketConn) net.PacketConn {
		lossy.PacketConn = conn
		return lossy
	}
	if up {
		w.Wrap = wrap
	}
	w.Link = simnet.Link{Latency: 50 * time.Millisecond}
	want := theFile[:16<<10]
	w.serveFiles(map[string][]byte{"file": want})
	time.Sleep(time.Second)
	conf := w.Client()
	conf.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
		conn, err := w.Sim.Listen(transfertest.ClientHost, w.Link)
		if err != nil || up {
			return conn, err
		}
		return wrap(conn), nil
	}
	var pool Pool
	defer pool.Close()
	get := func() {
		w.T.Helper()
		got, took, err := w.get(func(o *GetOptions) { o.KWIK, o.Pool, o.ConnectTimeout = conf, &pool, 30*time.Second })
		if err != nil || !bytes.Equal(got, want) {
			w.T.Errorf("up %t, the first get %t, packet %d lost: %d bytes, %v after %v", up, first, k, len(got), err,
				took)
		}
	}
	if !first {
		get()
		time.Sleep(2 * time.Second) // nothing is under way any more
	}
	lossy.lose(k)
	get()
}
