package udp

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// pair returns a socket with offload and one that sends to it.
func pair(t *testing.T) (*groConn, *net.UDPConn) {
	t.Helper()
	conn, err := Listen("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, ok := conn.(*groConn)
	if !ok {
		t.Fatal("this kernel has no UDP_GRO (Linux 5.0 has)")
	}
	sender, err := net.DialUDP("udp4", nil, conn.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c, sender
}

// sendSegmented sends p as datagrams of the given size in one system call (UDP_SEGMENT), so
// that they arrive in one piece.
func sendSegmented(t *testing.T, sender *net.UDPConn, p []byte, size int) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	if _, _, err := sender.WriteMsgUDP(p, oob, nil); err != nil {
		t.Fatal(err)
	}
}

// receive reads n datagrams, at most batch at a time.
func receive(t *testing.T, c *groConn, n, batch int) (got [][]byte) {
	t.Helper()
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1500)}, make([]byte, oobSize)
	}
	for len(got) < n {
		k, err := c.ReadBatch(ms, 0)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		for _, m := range ms[:k] {
			if m.Addr == nil {
				t.Error("datagram without a sender")
			}
			got = append(got, bytes.Clone(m.Buffers[0][:m.N]))
		}
	}
	return got
}

func TestDatagramsAreDealtOutOneByOne(t *testing.T) {
	const size = 1200
	for _, length := range []int{1, size - 1, size, size + 1, 2 * size, 20*size + 7, 40 * size} {
		for _, batch := range []int{1, 7, 8, 64} {
			c, sender := pair(t)
			sent := make([]byte, length)
			for i := range sent {
				sent[i] = byte(i * 31 >> 3)
			}
			sendSegmented(t, sender, sent, size)
			got := receive(t, c, (length+size-1)/size, batch)
			for i, datagram := range got {
				if want := sent[i*size : min((i+1)*size, length)]; !bytes.Equal(datagram, want) {
					t.Fatalf("%d bytes in batches of %d: datagram %d has %d bytes, want %d, or other ones", length, batch, i, len(datagram), len(want))
				}
			}
		}
	}
}

func TestDatagramsOfManySendersAndAnEmptyOne(t *testing.T) {
	c, first := pair(t)
	second, err := net.DialUDP("udp4", nil, c.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, send := range []struct {
		from *net.UDPConn
		text string
	}{{first, "one"}, {second, "two"}, {first, ""}, {second, "four"}} {
		if _, err := send.from.Write([]byte(send.text)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	for _, datagram := range receive(t, c, 4, 8) {
		seen[string(datagram)]++
	}
	for _, text := range []string{"one", "two", "", "four"} {
		if seen[text] != 1 {
			t.Errorf("%q came %d times", text, seen[text])
		}
	}
}

func TestReadEndsWithClose(t *testing.T) {
	c, _ := pair(t)
	ended := make(chan error)
	go func() {
		ms := []ipv4.Message{{Buffers: [][]byte{make([]byte, 1500)}, OOB: make([]byte, oobSize)}}
		_, err := c.ReadBatch(ms, 0)
		ended <- err
	}()
	c.Close()
	if err := <-ended; err == nil {
		t.Error("no error after Close")
	}
}
