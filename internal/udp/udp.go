// Package udp opens UDP sockets for QUIC.
//
// Where the system can, they receive with offload (UDP_GRO, Linux 5.0). The kernel delivers up
// to 64 KiB of datagrams of one flow in one piece, and the socket returns them one by one.
// That saves most system calls and most of the way through the kernel's network stack for each
// datagram. Elsewhere they are ordinary sockets.
package udp

import "net"

// Listen opens a UDP socket; network is udp, udp4 or udp6, and a nil address means any port of
// all addresses. The result has the methods of a *net.UDPConn, as quic-go needs for batches, ECN
// and segmentation offload.
func Listen(network string, addr *net.UDPAddr) (net.PacketConn, error) {
	conn, err := net.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	return withOffload(&steadyConn{UDPConn: conn}), nil
}
