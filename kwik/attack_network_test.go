package kwik

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The tests of this file are attacks of the network on a client's paths, and of a primary on its
// decoder.

// A forgingConn is a client's socket. It answers the first packet that the client sends with
// forged ones, before the server can, and drops packets by a rule.
type forgingConn struct {
	net.PacketConn
	forge func(initial []byte) [][]byte // nil forges nothing
	drops func(n, size int) bool        // of received packet n; nil drops none

	mu       sync.Mutex
	forged   [][]byte
	from     net.Addr
	sent     bool
	received int
}

func (c *forgingConn) WriteTo(p []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	if isFirst := !c.sent && c.forge != nil; isFirst {
		c.forged, c.from = c.forge(p), to
	}
	c.sent = true
	c.mu.Unlock()
	return c.PacketConn.WriteTo(p, to)
}

func (c *forgingConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(p)
		if err != nil {
			return n, from, err
		}
		c.mu.Lock()
		if len(c.forged) > 0 { // in place of the server's packet, which is lost
			n, from = copy(p, c.forged[0]), c.from
			c.forged = c.forged[1:]
			c.mu.Unlock()
			return n, from, nil
		}
		number := c.received
		c.received++
		c.mu.Unlock()
		if c.drops != nil && c.drops(number, n) {
			continue
		}
		return n, from, nil
	}
}

// longHeader returns a packet with a long header in answer to a client's Initial: its connection
// IDs are swapped.
func longHeader(initial []byte, first byte, version uint32, rest ...[]byte) []byte {
	destination := initial[6 : 6+int(initial[5])]
	after := initial[6+len(destination):]
	source := after[1 : 1+int(after[0])]
	packet := binary.BigEndian.AppendUint32([]byte{first}, version)
	packet = append(append(packet, byte(len(source))), source...)
	packet = append(append(packet, byte(len(destination))), destination...)
	return append(packet, bytes.Join(rest, nil)...)
}

// TestAttackForgedHandshake forges the packets that a client takes before the handshake is
// authenticated. At worst one dial of the secondary fails, and the next succeeds.
func TestAttackForgedHandshake(t *testing.T) {
	for name, forge := range map[string]func(initial []byte) [][]byte{
		"version negotiation": func(i []byte) [][]byte {
			return [][]byte{longHeader(i, 0x80, 0, []byte{0x1a, 0x2a, 0x3a, 0x4a})}
		},
		"version negotiation to version 1": func(i []byte) [][]byte {
			return [][]byte{longHeader(i, 0x80, 0, []byte{0, 0, 0, 1})}
		},
		"Retry": func(i []byte) [][]byte { return [][]byte{longHeader(i, 0xf0, 1, make([]byte, 40))} },
		"Initial": func(i []byte) [][]byte {
			return [][]byte{longHeader(i, 0xc0, 1, []byte{0, 0x44, 0x00}, make([]byte, 1024))}
		},
		"Handshake": func(i []byte) [][]byte {
			return [][]byte{longHeader(i, 0xe0, 1, []byte{0x44, 0x00}, make([]byte, 1024))}
		},
		"stateless reset":    func([]byte) [][]byte { return [][]byte{bytes.Repeat([]byte{0x41}, 40)} },
		"nothing, ten times": func([]byte) [][]byte { return make([][]byte, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 1, lan, func(w *world) {
				dials := 0
				conf := &ClientConfig{ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
					conn, _ := w.listen()
					if dials++; dials > 1 {
						return conn, nil
					}
					return &forgingConn{PacketConn: conn, forge: forge}, nil
				}}
				client, server := w.dial(conf)
				id := w.secondaries[0].member.ID()
				took := w.within(20*time.Second, func() bool { return w.path(client, id).State == PathActive })
				t.Logf("the secondary was reached after %v, %d dials", took, dials)
				w.copy(w.offer(client, server, unit, w.prove)).wantAll()
			})
		})
	}
}

// TestAttackBlackHole loses the packets of one direction, or the long ones, in the middle of a
// transfer. Another server delivers the rest.
func TestAttackBlackHole(t *testing.T) {
	for name, drops := range map[string]func(n, size int) bool{
		"all from the server":  func(n, _ int) bool { return n > 100 },
		"long from the server": func(n, size int) bool { return n > 100 && size > 1290 },
		"long from the start":  func(n, size int) bool { return size > 1290 },
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, 8<<20, 1, lan, func(w *world) {
				conf := &ClientConfig{ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
					conn, _ := w.listen()
					return &forgingConn{PacketConn: conn, drops: drops}, nil
				}}
				client, server := w.dial(conf)
				w.wantState(client, w.secondaries[0].member.ID(), PathActive)
				start := time.Now()
				w.copy(w.offer(client, server, unit, w.prove)).wantAll()
				took := time.Since(start)
				t.Logf("the transfer took %v", took)
				if took > 30*time.Second {
					t.Errorf("the transfer took %v", took)
				}
			})
		})
	}
}

// TestAttackFrames checks what control frames of the largest size cost a client's decoder.
func TestAttackFrames(t *testing.T) {
	const size = maxControlFrame - 16
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	nested := make([]byte, 0, 16<<10)
	for range 2000 {
		nested = field(6, nested)
	}
	for name, c := range map[string]struct {
		frame   []byte
		allowed bool
	}{
		"nested messages":     {nested, false},
		"nested groups":       {bytes.Repeat(protowire.AppendTag(nil, 99, protowire.StartGroupType), size/2), false},
		"unknown fields":      {bytes.Repeat([]byte{0x98, 0x06, 1}, size/3), true},
		"a field twice":       {bytes.Repeat([]byte{0x22, 0}, 2), false},
		"long varints":        {append([]byte{0x98, 0x06}, bytes.Repeat([]byte{0xff}, 100)...), false},
		"2 GiB of descriptor": {field(6, append([]byte{0x22}, protowire.AppendVarint(nil, 2<<30)...)), false},
	} {
		t.Run(name, func(t *testing.T) {
			inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
				raw := protowire.AppendBytes(nil, c.frame)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				p.control.Write(raw)
				if c.allowed {
					p.wantOpen()
				} else {
					p.wantClosed(ErrMetadataProtocolViolation)
				}
				runtime.ReadMemStats(&after)
				took := after.TotalAlloc - before.TotalAlloc
				t.Logf("%d bytes took %d KiB", len(raw), took>>10)
				if took > 12<<20 {
					t.Errorf("%d bytes took %d", len(raw), took)
				}
			})
		})
	}
}
