package kwik

import (
	"strings"
	"sync"

	"kwikcp/internal/udp"
	kwikpb "kwikcp/kwik/proto"
)

// maxSoftware bounds each text of a server about itself, in bytes.
const maxSoftware = 64

// inspectMachine examines the sockets of this machine. It opens a socket, so it runs once: a client
// must not be able to cause that repeatedly.
var inspectMachine = sync.OnceValues(udp.Inspect)

// host returns the server's description of itself.
func (c *ServerConfig) host() *kwikpb.Host {
	text := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxSoftware)], "") }
	h := &kwikpb.Host{Software: text(c.Software), Access: text(c.Access), TimeMs: c.now().UnixMilli()}
	if m, err := inspectMachine(); err == nil {
		h.ReceiveBuffer, h.SendBuffer = uint32(m.ReceiveBuffer), uint32(m.SendBuffer)
		h.OffloadsKnown, h.Gro, h.Gso, h.Ecn = m.Known, m.GRO, m.GSO, m.ECN
	}
	return h
}
