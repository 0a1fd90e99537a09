package serve

import (
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAttackTreesOfOneSession requests 90 files in one session and keeps their streams. Their
// trees are charged to the session, and those beyond its memory wait. Another client is not
// affected.
func TestAttackTreesOfOneSession(t *testing.T) {
	const (
		limit = 16 << 20
		size  = 64 << 20
		tree  = cvSize * size / (64 << 10)
		files = 90
	)
	root := t.TempDir()
	sparse(t, filepath.Join(root, "file"), size)
	for i := range files {
		name := filepath.Join(root, fmt.Sprint("file", i))
		if err := os.Link(filepath.Join(root, "file"), name); err != nil {
			t.Fatal(err)
		}
	}
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := NewServer(source.Local(meter(t, root, 0)), w.Logger())
		l := w.Start(&kwik.ServerConfig{OpenContent: s.OpenContent, MemoryLimit: limit})
		w.Go(func() {
			s.Serve(w.Ctx, l)
			s.Close()
		})
		serving := func() int { return strings.Count(w.Log.String(), "msg=serving") }
		c := w.Dial()
		idle, _ := l.Memory()
		for i := range files {
			ask(w, c, transfertest.Request(wire.ProtocolVersion, fmt.Sprint("file", i)))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		used, _ := l.Memory()
		served := serving()
		w.T.Logf("%d of %d files served, %d KiB charged", served, files, (used-idle)>>10)
		if used-idle < int64(served)*tree || used > limit/8+1<<20 {
			w.T.Errorf("%d bytes are charged for %d trees of %d", used-idle, served, tree)
		}
		if served == 0 || served >= files {
			w.T.Errorf("%d of %d files are served", served, files)
		}
		other := w.Dial()
		defer other.CloseWithError(0, "")
		ask(w, other, transfertest.Request(wire.ProtocolVersion, "file"))
		time.Sleep(time.Second)
		if n := serving(); n != served+1 {
			w.T.Errorf("another client: %d files are served, before %d", n, served)
		}
		c.CloseWithError(0, "")
		time.Sleep(time.Second)
		synctest.Wait()
		if used, _ := l.Memory(); used > idle+4*tree {
			w.T.Errorf("%d bytes stay charged after the session", used-idle)
		}
	})
}
