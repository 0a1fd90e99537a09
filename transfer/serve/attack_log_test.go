package serve

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/transfer/internal/transfertest"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestAttackServerLog sends thousands of requests that cost a client ten bytes, or that have long
// paths of control characters. The log stays small: malformed requests and resets are no lines, a
// line has a bounded length, and a client a bounded number of them.
func TestAttackServerLog(t *testing.T) {
	const requests = 2000
	control := strings.Repeat("\x1b\u0085\u202e\xff", 600)
	for name, raw := range map[string][]byte{
		"malformed":         []byte("\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"missing files":     transfertest.Request(1, "x"),
		"long paths":        transfertest.Request(1, control),
		"malformed batches": encoded(&transferpb.Request{Path: []byte(control), Batch: &transferpb.BatchRequest{}}),
		"listings":          encoded(&transferpb.Request{Path: []byte(control), List: &transferpb.ListRequest{}}),
	} {
		t.Run(name, func(t *testing.T) {
			tree, _ := sickTreeOf(t)
			transfertest.OnNet(t, func(w *transfertest.Net) {
				serveOn(w, tree)
				session := w.Dial()
				defer session.CloseWithError(0, "")
				start := time.Now()
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() {
						for range requests / 50 {
							w.Ask(session, raw, true)
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				seconds := int(time.Since(start).Seconds()) + 1
				log := []byte(w.Log.String())
				lines := bytes.Count(log, []byte("\n"))
				w.T.Logf("%d requests in %d s: %d lines, %d bytes", requests, seconds, lines, len(log))
				if most := 110 + 10*seconds; lines > most || lines < 50 {
					w.T.Errorf("%d lines, at most %d are allowed", lines, most)
				}
				for line := range bytes.Lines(log) {
					if len(line) > 3<<10 {
						w.T.Fatalf("a line of %d bytes: %.100q", len(line), line)
					}
				}
			})
		})
	}
}
