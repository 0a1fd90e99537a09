// Package udp opens UDP sockets for QUIC.
//
// Where the system can, they receive with offload (UDP_GRO, Linux 5.0): the kernel hands over up to 64 KiB of datagrams of one
// flow in one piece, and the socket deals them out one by one. That spares most system calls and most of the way through the
// kernel's network stack for each datagram. Elsewhere they are ordinary sockets.
package udp

import "net"

// Listen opens a UDP socket; network is udp, udp4 or udp6, and a nil address means any port of all addresses. The result
// is a *net.UDPConn or has its methods, and is what quic-go wants for its batches, ECN and segmentation offload.
func Listen(network string, addr *net.UDPAddr) (net.PacketConn, error) {
	conn, err := net.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	return withOffload(conn), nil
}
