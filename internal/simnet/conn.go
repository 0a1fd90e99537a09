package simnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// defaultReadBuffer is how many bytes wait for ReadFrom at most, before
// SetReadBuffer; it is what quic-go asks the kernel for.
const defaultReadBuffer = 7 << 20

// A Conn is a UDP socket of a host. Errors are *net.OpErrors as from package
// net, so errors.Is finds net.ErrClosed and os.ErrDeadlineExceeded in them.
type Conn struct {
	network *Network
	host    *host
	at      netip.AddrPort
	addr    *net.UDPAddr // at, handed out to receivers; never changed

	// Guarded by network.mu.
	closed        bool
	readable      sync.Cond // with network.mu: a packet arrived, the deadline or closed changed
	first, last   *packet   // the inbox
	buffered      int       // bytes in the inbox
	readBuffer    int       // most bytes in the inbox
	readDeadline  time.Time
	readTimer     *time.Timer // wakes readers at readDeadline; nil if there was none yet
	writeDeadline time.Time
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(n *Network, h *host, at netip.AddrPort) *Conn {
	c := &Conn{network: n, host: h, at: at, addr: net.UDPAddrFromAddrPort(at), readBuffer: defaultReadBuffer}
	c.readable.L = &n.mu
	return c
}

// receive puts p into the inbox; false if that is full. network.mu is held.
func (c *Conn) receive(p *packet) bool {
	if c.buffered+p.size > c.readBuffer {
		return false
	}
	c.buffered += p.size
	if c.first == nil {
		c.first = p
	} else {
		c.last.next = p
	}
	c.last = p
	c.readable.Signal()
	return true
}

// ReadFrom waits for a packet and copies it to b. Like a kernel it drops what
// b has no room for.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n := c.network
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if c.closed {
			return 0, nil, c.opError("read", net.ErrClosed)
		}
		if passed(c.readDeadline) {
			return 0, nil, c.opError("read", os.ErrDeadlineExceeded)
		}
		if c.first != nil {
			break
		}
		c.readable.Wait()
	}
	p := c.first
	c.first = p.next
	c.buffered -= p.size
	from := p.from.addr
	size := copy(b, p.data[:p.size])
	n.release(p)
	return size, from, nil
}

// WriteTo sends a packet. It never blocks: at a full queue the packet is lost,
// which is not an error.
func (c *Conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, c.opError("write", fmt.Errorf("simnet: %T is no *net.UDPAddr", addr))
	}
	to := udp.AddrPort()
	n := c.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return 0, c.opError("write", net.ErrClosed)
	}
	if passed(c.writeDeadline) {
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	}
	n.send(c, b, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	return len(b), nil
}

// Close closes the socket as the end of its process would. Packets already sent still
// arrive; packets to the closed socket are lost. Closing it again does nothing and is
// no error.
func (c *Conn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.close()
	return nil
}

// close is Close with network.mu held.
func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.network.conns, c.at)
	for p := c.first; p != nil; p = c.first {
		c.first = p.next
		c.network.release(p)
	}
	if c.readTimer != nil {
		c.readTimer.Stop()
	}
	c.readable.Broadcast()
}

// LocalAddr returns the *net.UDPAddr of the socket.
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline lets ReadFrom, also one that waits already, fail from t on;
// the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline = t
	switch {
	case t.IsZero():
		if c.readTimer != nil {
			c.readTimer.Stop()
		}
	case c.readTimer == nil:
		c.readTimer = time.AfterFunc(time.Until(t), c.wake)
	default:
		c.readTimer.Reset(time.Until(t))
	}
	return nil
}

// wake lets readers look at the deadline again. It takes the lock so that no
// reader can be between its look and its wait.
func (c *Conn) wake() {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.readable.Broadcast()
}

// SetWriteDeadline lets WriteTo fail from t on; the zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline = t
	return nil
}

// SetReadBuffer sets how many bytes wait for ReadFrom at most; more are
// dropped.
func (c *Conn) SetReadBuffer(bytes int) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.readBuffer = bytes
	return nil
}

// SetWriteBuffer does nothing, for the queue of the host's link is what
// buffers. It is here because quic-go warns about connections without it.
func (c *Conn) SetWriteBuffer(int) error { return nil }

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.addr, Err: err}
}

func passed(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}
