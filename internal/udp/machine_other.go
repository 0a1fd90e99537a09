//go:build !linux

package udp

import "net"

const cure = "see how this system's limits for socket buffers are raised"

// inspect knows nothing of systems other than Linux: what they grant cannot be asked in one way.
func inspect(*net.UDPConn) (Machine, error) { return Machine{}, nil }
