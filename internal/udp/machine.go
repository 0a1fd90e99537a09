package udp

import (
	"fmt"
	"net"
	"os"
)

// DesiredBuffer is the size that QUIC needs for a socket's buffers, in bytes as the system
// counts them. Datagrams that arrive faster than they are read wait there. They are dropped
// when the buffer is full.
const DesiredBuffer = 7 << 20

// A Machine describes what the system's UDP sockets can do.
type Machine struct {
	// ReceiveBuffer and SendBuffer are the sizes that QUIC gets, in bytes as the system counts
	// them; 0 if that cannot be found out.
	ReceiveBuffer, SendBuffer int
	// Known reports whether the offloads and ECN below are known; only Linux reports them.
	Known bool
	GRO   bool // datagrams are received in large pieces
	GSO   bool // datagrams are sent in large pieces
	ECN   bool // marks of congestion are received
}

// Inspect opens one of the system's sockets and inspects it.
func Inspect() (Machine, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return Machine{}, err
	}
	defer conn.Close()
	return inspect(conn)
}

// Advice returns how to enlarge buffers that are too small. It is empty if they are large
// enough or unknown.
func (m Machine) Advice() string {
	receive, send := m.ReceiveBuffer > 0 && m.ReceiveBuffer < DesiredBuffer, m.SendBuffer > 0 && m.SendBuffer < DesiredBuffer
	if !receive && !send {
		return ""
	}
	kib := func(n int) string {
		if n == 0 {
			return "unknown"
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("the system allows UDP buffers of %s to receive and %s to send, fast transfers want %s; cure: %s",
		kib(m.ReceiveBuffer), kib(m.SendBuffer), kib(DesiredBuffer), cure)
}

// allowed reports whether an environment variable of quic-go leaves something on.
func allowed(disable string) bool { return os.Getenv(disable) == "" || os.Getenv(disable) == "false" }
