package kwik

import (
	"strings"
	"sync"

	"kwikcp/internal/udp"
	kwikpb "kwikcp/kwik/proto"
)

// maxSoftware bounds what is believed of a server's name for its software, in bytes.
const maxSoftware = 64

// inspectMachine finds out once what the sockets of this machine can do. It opens one, which a client must not be able to cause again and again.
var inspectMachine = sync.OnceValues(udp.Inspect)

// host says what a server says of itself.
func (c *Config) host() *kwikpb.Host {
	h := &kwikpb.Host{Software: strings.ToValidUTF8(c.Software[:min(len(c.Software), maxSoftware)], ""), TimeMs: c.Now().UnixMilli()}
	if m, err := inspectMachine(); err == nil {
		h.ReceiveBuffer, h.SendBuffer = uint32(m.ReceiveBuffer), uint32(m.SendBuffer)
		h.OffloadsKnown, h.Gro, h.Gso, h.Ecn = m.Known, m.GRO, m.GSO, m.ECN
	}
	return h
}
