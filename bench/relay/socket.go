package main

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"

	"kwikcp/internal/udp"
)

const (
	// socketBuffer is the buffer requested for each direction, in bytes; the system may give
	// less. 20 ms at 1.6 Gbit/s.
	socketBuffer = 4 << 20
	// oobSize is enough for a segment size and a count of unread datagrams, in bytes.
	oobSize = 128
)

// A socket is a UDP socket that moves up to batch datagrams in one call, and with receive
// offload where the system has it. One goroutine at a time may read, and one write. The opener
// closes it.
type socket struct {
	net.PacketConn
	in interface { // the socket itself, or a wrapper of it
		ReadBatch([]ipv4.Message, int) (int, error)
	}
	out *ipv4.PacketConn

	// Of the reader:
	arrived   []ipv4.Message
	datagrams []*datagram // whose data arrived reads into
	unread    uint32      // how many the system has dropped so far
}

func openSocket(addr netip.AddrPort) (*socket, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4" // never a socket for both: WriteBatch would need mapped addresses then
	}
	conn, err := udp.Listen(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	s := &socket{PacketConn: conn, out: ipv4.NewPacketConn(conn), arrived: make([]ipv4.Message, batch), datagrams: make([]*datagram, batch)}
	s.in = s.out
	if own, ok := conn.(interface {
		ReadBatch([]ipv4.Message, int) (int, error)
	}); ok {
		s.in = own
	}
	for i := range s.arrived {
		s.datagrams[i] = new(datagram)
		s.arrived[i].Buffers = make([][]byte, 1)
		s.arrived[i].OOB = make([]byte, oobSize)
	}
	if err := s.tune(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("socket %v: %w", addr, err)
	}
	return s, nil
}

func (s *socket) tune() error {
	conn := s.PacketConn.(interface {
		syscall.Conn
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	if err := conn.SetReadBuffer(socketBuffer); err != nil {
		return err
	}
	if err := conn.SetWriteBuffer(socketBuffer); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return reportUnread(raw)
}

func (s *socket) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

// read blocks until datagrams arrive and returns their number. Their data and sizes are in
// s.datagrams, which the caller may replace; sender returns their senders.
func (s *socket) read() (n int, newlyUnread int64, err error) {
	for i, d := range s.datagrams {
		s.arrived[i].Buffers[0] = d.data[:]
	}
	n, err = s.in.ReadBatch(s.arrived, 0)
	if err != nil || n == 0 {
		return 0, 0, err
	}
	for i := range n {
		s.datagrams[i].size = s.arrived[i].N
	}
	last := s.arrived[n-1]
	if total, ok := unread(last.OOB[:last.NN]); ok {
		newlyUnread = int64(total - s.unread) // modulo 2^32, like the system's count
		s.unread = total
	}
	return n, newlyUnread, nil
}

// sender returns who sent datagram i of the last read.
func (s *socket) sender(i int) netip.AddrPort {
	a := s.arrived[i].Addr.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// write sends ms and returns how many of them the system refused.
func (s *socket) write(ms []ipv4.Message) (unsent int64) {
	for len(ms) > 0 {
		n, err := s.out.WriteBatch(ms, 0)
		if err != nil || n == 0 { // it speaks of the first one
			unsent++
			n = 1
		}
		ms = ms[n:]
	}
	return unsent
}
