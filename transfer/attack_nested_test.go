package transfer

import (
	"fmt"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestAttackNestedMirrors runs a second transfer while a first one has temporary files, in each
// order of a mirror into DEST, one into DEST/sub and a get to DEST/sub/00. Neither may fail, and the
// result is the source. Small files have temporary names, large ones part files.
func TestAttackNestedMirrors(t *testing.T) {
	source := t.TempDir()
	for i := range 20 {
		putAll(t, source, fmt.Sprintf("sub/%02d", i), fmt.Sprintf("sub/deep/%02d", i))
	}
	for i := range 2 {
		large := strings.Repeat(fmt.Sprint("large", i), 1<<16)
		transfertest.Put(t, filepath.Join(source, "sub", fmt.Sprint("large", i)), large)
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	total, failed := 0, 0
	defer func() {
		if failed > 0 {
			t.Errorf("%d of %d entries failed", failed, total)
		}
	}()
	for _, c := range []struct {
		first, second string // the paths of the source; "get" for a get
		delete        bool
		extra         bool // the first has no sub: to it, the target of the second is extra
	}{
		{first: "", second: "sub"}, {first: "sub", second: ""}, {first: "sub", second: "", delete: true},
		{first: "", second: "sub", delete: true}, {first: "", second: "sub/deep", delete: true},
		{first: "sub/deep", second: "", delete: true}, {first: "sub", second: "", delete: true, extra: true},
		{first: "", second: "get"}, {first: "sub", second: "get"},
	} {
		top := t.TempDir()
		var mu sync.Mutex
		isDone := false
		second := func() {
			switch {
			case c.second == "get":
				o := GetOptions{URL: URL{Host: s.Addr, Path: "sub/00"}, Target: filepath.Join(top, "sub", "00"),
					TLS: trust.PinnedClientConfig(nil, s.Pin)}
				if _, err := Get(t.Context(), o, nil); err != nil {
					t.Errorf("%+v: get: %v", c, err)
				}
				return
			case c.extra: // another source, without sub
				other := t.TempDir()
				putAll(t, other, "a")
				s := ServeTree(t, kwik.ServerRolePrimary, other, nil)
				if _, _, err := s.mirror(t.Context(), top, deleting); err != nil {
					t.Errorf("%+v: %v", c, err)
				}
				return
			}
			result, _, err := s.mirror(t.Context(), filepath.Join(top, c.second), nestedOptions(c.second, c.delete))
			if total, failed = total+int(result.Files), failed+int(result.Failed); err != nil {
				t.Errorf("%+v: the second: %v", c, err)
			}
		}
		if err := os.MkdirAll(filepath.Join(top, "sub", "deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		result, _, err := s.mirror(t.Context(), filepath.Join(top, c.first), nestedOptions(c.first, c.delete),
			spied(&spy{step: func(op, path string) error {
				mu.Lock()
				defer mu.Unlock()
				if op == "rename" && !isDone {
					isDone = true
					second()
				}
				return nil
			}}))
		if total, failed = total+int(result.Files), failed+int(result.Failed); err != nil {
			t.Errorf("%+v: the first: %v", c, err)
		}
		want, got := snapshot(t, filepath.Join(source, c.first)), snapshot(t, filepath.Join(top, c.first))
		for p, w := range want {
			if got[p].content != w.content {
				t.Errorf("%+v: %q is wrong or missing", c, p)
			}
		}
		for p := range got {
			if strings.Contains(p, ".kwikcp-") {
				t.Errorf("%+v: %q is left", c, p)
			}
		}
	}
}

func nestedOptions(path string, isDeleting bool) func(*MirrorOptions) {
	return func(o *MirrorOptions) {
		if o.URL.Path = path; isDeleting {
			deleting(o)
		}
	}
}
