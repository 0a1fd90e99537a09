//go:build !linux

package udp

import "net"

func withOffload(conn *steadyConn) net.PacketConn { return conn }
