package serve

import (
	"bufio"
	"fmt"
	"io"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestAttackTreesBeyondLimit requests trees and listings from a server with a rate limit, from many
// streams at once. All replies together keep to the limit, and no client waits long for a message.
func TestAttackTreesBeyondLimit(t *testing.T) {
	const (
		rate    = 100 << 10
		streams = 20
	)
	root := t.TempDir()
	large := filepath.Join(root, "large")
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 128<<20); err != nil { // 64 KiB of chaining values
		t.Fatal(err)
	}
	for i := range 300 {
		transfertest.Put(t, filepath.Join(root, fmt.Sprintf("a name of some length %03d", i)), "")
	}
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := NewServer(source.Local(tree), w.Logger())
		l := w.Start(&kwik.ServerConfig{
			Config: kwik.Config{RateLimit: kwik.NewRateLimit(rate)}, OpenContent: s.OpenContent,
		})
		w.Go(func() {
			s.Serve(w.Ctx, l)
			s.Close()
		})
		session := w.Dial()
		defer session.CloseWithError(0, "")
		w.Ask(session, transfertest.Request(1, "large"), true) // the file is hashed
		start, before := time.Now(), session.Stats().Wire.BytesReceived
		var wg sync.WaitGroup
		for i := range streams {
			request := transfertest.Request(1, "large")
			if i < maxListings {
				request = encoded(&transferpb.Request{List: &transferpb.ListRequest{}})
			}
			wg.Go(func() {
				if longest, err := longestWait(w, session, request); err != nil || longest > 5*time.Second {
					w.T.Errorf("a message took %v, %v", longest, err)
				}
			})
		}
		wg.Wait()
		seconds := time.Since(start).Seconds()
		used := float64(session.Stats().Wire.BytesReceived-before) / seconds / rate
		w.T.Logf("%.3f of the limit on the wire in %.1f s", used, seconds)
		if used > 1.08 || seconds < 5 {
			w.T.Errorf("%.3f of the limit on the wire in %.1f s", used, seconds)
		}
	})
}

// longestWait sends a request and returns the longest time between two messages of the response.
func longestWait(w *transfertest.Net, session *kwik.ClientSession, request []byte) (longest time.Duration, err error) {
	stream, err := session.OpenStreamSync(w.Ctx)
	if err != nil {
		return 0, err
	}
	if _, err := stream.Write(request); err != nil {
		return 0, err
	}
	stream.Close()
	r := bufio.NewReader(stream)
	for last := time.Now(); ; last = time.Now() {
		if err := wire.ReadMessage(r, &transferpb.Reply{}); err == io.EOF {
			return longest, nil
		} else if err != nil {
			return longest, err
		}
		longest = max(longest, time.Since(last))
	}
}
