package transfer

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// A lossyConn loses one packet that comes in, and reports the one after it.
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

// lose has the k-th of the packets that come from now on lost.
func (c *lossyConn) lose(k int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = c.n + k
}

// One packet is lost, and just after the one behind it the network is gone for a while, as a telephone's is between two cells: whatever that
// keeps apart which belongs together, QUIC survives it, and so does a get, within its own limits.
func TestPauseOfTheNetwork(t *testing.T) {
	const pause = 6 * time.Second // QUIC's next probe comes up to twice as late, and a source may be silent for 10 s
	for _, first := range []bool{true, false} {
		for k := range 9 {
			if first && k < 2 {
				continue // a handshake that takes long is given up by the server
			}
			onWire(t, func(w *wire) {
				w.link = simnet.Link{Latency: 50 * time.Millisecond}
				root := t.TempDir()
				want := theFile[:16<<10]
				if err := os.WriteFile(filepath.Join(root, "file"), want, 0o600); err != nil {
					t.Fatal(err)
				}
				dir, err := OpenDir(root)
				if err != nil {
					t.Fatal(err)
				}
				defer dir.Close()
				w.serve(dir)
				w.get() // so that the file is hashed
				var conn *lossyConn
				conf := w.client()
				conf.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
					socket, err := w.net.Listen(clientHost, w.link)
					conn = &lossyConn{PacketConn: socket, lost: -1, after: func() {
						time.AfterFunc(5*time.Millisecond, func() { w.net.Silence(serverAddr.Addr()) })
						time.AfterFunc(pause, func() { w.net.Heal(serverAddr.Addr()) })
					}}
					if first {
						conn.lose(k)
					}
					return conn, err
				}
				var pool Pool
				defer pool.Close()
				get := func() {
					t.Helper()
					got, took, err := w.get(func(o *GetOptions) { o.KWIK, o.Pool, o.ConnectTimeout = conf, &pool, 30*time.Second })
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("the first get %t, packet %d lost: %d bytes, %v after %v", first, k, len(got), err, took)
					}
				}
				if get(); !first {
					time.Sleep(2 * time.Second) // nothing is under way any more
					conn.lose(k)
					get()
				}
			})
		}
	}
}
