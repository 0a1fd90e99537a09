package transfer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/internal/simnet"
)

// The number of round trips of a get, from its first packet to the last verified byte, on a link that
// has only a delay. The server has the file's tree. The exchange:
//
//	1  QUIC and TLS handshake
//	2  Hello, Request                -> Welcome, offer, Manifest, Tree, head start
//	3  attachment, grants            -> the rest, as fast as QUIC's congestion window opens
func TestRoundTrips(t *testing.T) {
	const rtt = time.Second
	withHash := func(_ *testNet, o *GetOptions, want []byte) {
		root := integrity.Root(blake3.Sum256(want))
		o.URL.Root = &root
	}
	toFile := func(w *testNet, o *GetOptions, _ []byte) {
		o.Output, o.Target = nil, filepath.Join(w.T.TempDir(), "out")
	}
	ontoFile := func(w *testNet, o *GetOptions, want []byte) {
		toFile(w, o, want)
		if err := os.WriteFile(o.Target, []byte("another"), 0o666); err != nil {
			w.T.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		size   int
		change func(w *testNet, o *GetOptions, want []byte)
		trips  int
	}{
		{"an empty file", 0, nil, 2},
		{"one byte", 1, nil, 2},
		{"a small file", 16 << 10, nil, 2},
		{"to a file", 16 << 10, toFile, 2},
		{"with a hash", 16 << 10, withHash, 2},
		{"something is there", 16 << 10, ontoFile, 3},
		{"a range", 16 << 10, func(_ *testNet, o *GetOptions, _ []byte) { o.Range = &ByteRange{First: 0, Last: 99} },
			3},
		{"more than a congestion window", 64 << 10, nil, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.Link = simnet.Link{Latency: rtt / 4}
				want := bytes.Repeat([]byte("kwikcp"), c.size/6+1)[:c.size]
				w.serveFiles(map[string][]byte{"file": want})
				_, took, err := w.get(func(o *GetOptions) {
					if c.change != nil {
						c.change(w, o, want)
					}
				})
				if err != nil {
					w.T.Fatal(err)
				}
				// QUIC spreads the first window over a part of a round trip.
				if trips := took.Seconds() / rtt.Seconds(); trips < float64(c.trips) || trips > float64(c.trips)+0.4 {
					w.T.Errorf("%.3f round trips, want %d", trips, c.trips)
				}
			})
		})
	}
}
