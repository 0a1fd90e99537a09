package udp

import (
	"net"

	"golang.org/x/sys/unix"
)

const cure = "sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000, as root"

// inspect does to a socket what quic-go does and looks at what became of it.
func inspect(conn *net.UDPConn) (m Machine, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return m, err
	}
	conn.SetReadBuffer(DesiredBuffer)  // as much as is allowed; the size is looked up below
	conn.SetWriteBuffer(DesiredBuffer) // likewise
	err = raw.Control(func(fd uintptr) {
		size := func(name, force int) int {
			n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, name)
			if err == nil && n < DesiredBuffer && unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, DesiredBuffer) == nil {
				n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, name)
			}
			if err != nil {
				return 0
			}
			return n
		}
		m.ReceiveBuffer = size(unix.SO_RCVBUF, unix.SO_RCVBUFFORCE)
		m.SendBuffer = size(unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
		m.Known = true
		m.GRO = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
		_, noGSO := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		m.GSO = noGSO == nil && allowed("QUIC_GO_DISABLE_GSO")
		canECN := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) == nil
		m.ECN = canECN && allowed("QUIC_GO_DISABLE_ECN")
	})
	return m, err
}
