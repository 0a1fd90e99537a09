//go:build !linux

package udp

import "net"

func withOffload(conn *net.UDPConn) net.PacketConn { return conn }
