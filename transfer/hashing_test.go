package transfer

import (
	"errors"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestServerSaysThatItIsHashing checks that a waiting client gets a message at least once a
// second.
func TestServerSaysThatItIsHashing(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	if err := os.Truncate(transfertest.Put(t, filepath.Join(root, "big"), ""), 20<<20); err != nil {
		t.Fatal(err)
	}
	onWire(t, func(w *testNet) {
		w.serve(transfertest.SlowDir{TreeDir: d, Delay: 700 * time.Millisecond})
		var heard hashingLog
		start := time.Now()
		o := GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "big"}, TLS: w.TLS(),
			Output: brokenWriter{errors.New("enough")}, KWIK: w.Client()}
		_, err := getWhole(w.T, w.Ctx, o, &heard)
		wantKind(w.T, err, KindLocal, "enough")
		if len(heard.at) < 4 {
			w.T.Fatalf("heard %d times", len(heard.at))
		}
		last, bytes := start, int64(0)
		for i, at := range heard.at {
			if at.Sub(last) > time.Second {
				w.T.Errorf("heard nothing for %v", at.Sub(last))
			}
			if heard.bytes[i] < bytes || heard.bytes[i] > 20<<20 || heard.total != 20<<20 {
				w.T.Errorf("%d after %d of %d", heard.bytes[i], bytes, heard.total)
			}
			last, bytes = at, heard.bytes[i]
		}
	})
}

type hashingLog struct {
	NoReport
	at    []time.Time
	bytes []int64
	total int64
}

func (h *hashingLog) Hashing(bytes, total int64) {
	h.at, h.bytes, h.total = append(h.at, time.Now()), append(h.bytes, bytes), total
}

// TestServerClosesWhileItHashes closes a server while it hashes. The server ends at once, and the
// waiting client when it is not restarted soon.
func TestServerClosesWhileItHashes(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	if err := os.Truncate(transfertest.Put(t, filepath.Join(root, "big"), ""), 512<<20); err != nil {
		t.Fatal(err)
	}
	onWire(t, func(w *testNet) {
		w.serve(transfertest.SlowDir{TreeDir: d, Delay: time.Second})
		time.AfterFunc(5*time.Second, func() { w.Listener.Close() })
		_, took, err := w.get(func(o *GetOptions) { o.URL.Path = "big" })
		wantKind(w.T, err, KindNetwork, "10.0.0.1:4433")
		if took > 5*time.Second+restartTime+time.Second {
			w.T.Errorf("the client noticed after %v", took)
		}
	})
}
