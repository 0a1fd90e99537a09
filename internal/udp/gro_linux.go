package udp

import (
	"encoding/binary"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// groBuffer is the most that the kernel hands over at once, in bytes.
	groBuffer = 64 << 10
	// groBatch is how many such pieces one system call may return. More would only cost
	// memory: a busy flow fills them.
	groBatch = 4
	// oobSize is enough for packet info, ECN and the segment size, in bytes.
	oobSize = 128
)

// A groConn is a UDP socket with receive offload. quic-go reads from a connection through its
// ReadBatch if it has one, always from one goroutine; the other methods are the socket's own.
type groConn struct {
	*steadyConn
	batch   *ipv4.PacketConn
	pieces  []ipv4.Message // as the kernel filled them
	full    int            // how many of them hold something
	next    int            // the one that is dealt out
	off     int            // how much of it was dealt out, in bytes
	segment int            // bytes of a datagram in it; the last may be shorter
}

// withOffload turns on receive offload, or returns the socket as it is where the kernel has none.
func withOffload(conn *steadyConn) net.PacketConn {
	raw, err := conn.SyscallConn()
	if err != nil {
		return conn
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
	if err != nil || refused != nil {
		return conn
	}
	c := &groConn{steadyConn: conn, batch: ipv4.NewPacketConn(conn), pieces: make([]ipv4.Message, groBatch)}
	for i := range c.pieces {
		c.pieces[i].Buffers = [][]byte{make([]byte, groBuffer)}
		c.pieces[i].OOB = make([]byte, oobSize)
	}
	return c
}

// ReadBatch fills ms with one datagram each and returns how many. It waits only while nothing
// is left of the last pieces.
func (c *groConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if c.next == c.full {
		n, err := c.batch.ReadBatch(c.pieces, flags)
		if err != nil {
			return 0, err
		}
		c.next, c.full = 0, n
		c.begin()
	}
	n := 0
	for n < len(ms) && c.next < c.full {
		piece := &c.pieces[c.next]
		end := min(piece.N, c.off+c.segment)
		m := &ms[n]
		m.N = copy(m.Buffers[0], piece.Buffers[0][c.off:end])
		m.NN = copy(m.OOB, piece.OOB[:piece.NN])
		m.Addr, m.Flags = piece.Addr, piece.Flags
		n++
		if c.off = end; c.off >= piece.N {
			c.next++
			c.begin()
		}
	}
	return n, nil
}

// begin looks up how large the datagrams of the next piece are.
func (c *groConn) begin() {
	if c.next == c.full {
		return
	}
	piece := &c.pieces[c.next]
	c.off, c.segment = 0, max(piece.N, 1) // one datagram, unless the kernel says otherwise; it may be empty
	for rest := piece.OOB[:piece.NN]; len(rest) > 0; {
		header, body, remainder, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return
		}
		if header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(body) >= 4 {
			if size := int(int32(binary.NativeEndian.Uint32(body))); size > 0 {
				c.segment = size
			}
		}
		rest = remainder
	}
}
