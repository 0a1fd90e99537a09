package attack

import (
	"bytes"
	"testing"

	"github.com/quic-go/quic-go"
)

// Initials are long-header packets of type Initial, of at least 1,200 bytes, each with its own
// connection ID.
func TestInitials(t *testing.T) {
	packets, err := Initials(5, "x")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		if len(p) < 1200 || p[0]&0xf0 != 0xc0 || !bytes.Equal(p[1:5], []byte{0, 0, 0, byte(quic.Version1)}) {
			t.Errorf("packet %d: %d bytes, %x", i, len(p), p[:8])
		}
		for _, q := range packets[:i] {
			if bytes.Equal(p[5:20], q[5:20]) {
				t.Error("two packets of one connection")
			}
		}
	}
}
