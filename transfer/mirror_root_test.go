package transfer

import (
	"errors"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAttackMirrorTargetReplaced takes the target away from a mirror at work, and puts nothing,
// another directory or a link in its place. The mirror ends at once with an error that names it,
// and writes nothing into the new one.
func TestAttackMirrorTargetReplaced(t *testing.T) {
	source := t.TempDir()
	putAll(t, source, numbered("%02d", 20)...)
	transfertest.Put(t, filepath.Join(source, "large"), strings.Repeat("x", 4<<20))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for i, c := range []struct {
		replace func(target string) error
		want    error
	}{
		{func(string) error { return nil }, disk.ErrRemoved},
		{func(target string) error { return os.Mkdir(target, 0o755) }, disk.ErrMoved},
		{func(target string) error {
			return errors.Join(os.Mkdir(target+".other", 0o755), os.Symlink("copy.other", target))
		}, disk.ErrMoved},
	} {
		target := filepath.Join(t.TempDir(), "copy")
		var once sync.Once
		start := time.Now()
		_, _, err := s.mirror(t.Context(), target, spied(&spy{write: func(int) {
			once.Do(func() {
				if err := errors.Join(os.Rename(target, target+".away"), c.replace(target)); err != nil {
					t.Error(err)
				}
			})
		}}), func(o *MirrorOptions) {
			if i == 0 { // 40 s, unless the loss is noticed
				o.KWIK = &kwik.ClientConfig{Config: kwik.Config{RateLimit: kwik.NewRateLimit(100 << 10)}}
			}
		})
		wantKind(t, err, KindLocal, fmt.Sprintf("mirror into %q", target))
		if !errors.Is(err, c.want) {
			t.Errorf("%d: %v, want %v", i, err, c.want)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%d: noticed after %v", i, took)
		}
		if names, err := os.ReadDir(target); err == nil && len(names) > 0 {
			t.Errorf("%d: there are %v", i, names)
		}
	}
}
