package attack

import (
	"net"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// Somebody on the path records all packets of a client and sends them again, from the client's
// address and from another one. The server serves no request twice, and sends less than it receives
// (reliability, row D9).
func TestAttackReplayedSession(t *testing.T) {
	s := newServer(t)
	s.fill("f", 1<<20)
	s.start("")
	s.mustGet("f")
	h := newHost(t, "127.0.5.2")
	h.socket.record.Store(true)
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.request(&transferpb.Request{Path: []byte("nothing-of-this-name")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	const line = "nothing-of-this-name"
	s.awaitLog(line)
	c.conn.CloseWithError(0, "")
	recorded := h.socket.recorded()
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 5, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	sent := 0
	for range 20 {
		for _, packet := range recorded {
			h.socket.udp.WriteTo(packet, net.UDPAddrFromAddrPort(s.addr))
			other.WriteTo(packet, net.UDPAddrFromAddrPort(s.addr))
			sent += len(packet)
		}
	}
	received := 0
	buf := make([]byte, 64<<10)
	other.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, err := other.Read(buf)
		if err != nil {
			break
		}
		received += n
	}
	t.Logf("%d packets were sent again 20 times: %d bytes, answered by %d", len(recorded), sent, received)
	if n := s.countLog(line); n != 1 {
		t.Errorf("the request was served %d times", n)
	}
	if received > 3*sent {
		t.Errorf("%d bytes were answered by %d", sent, received)
	}
	s.mustGet("f")
}
