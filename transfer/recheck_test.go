package transfer

import (
	"bytes"
	"errors"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAttackMappedWriter stores to a file between two gets without a new version. The get that
// notices fails; the next one succeeds, from the same server and after a restart.
func TestAttackMappedWriter(t *testing.T) {
	for _, offset := range []int64{0, 1 << 20, 3<<20 - 1} {
		onWire(t, func(w *testNet) {
			root := w.T.TempDir()
			content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
			path := filepath.Join(root, "file")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				w.T.Fatal(err)
			}
			dir, err := disk.OpenTree(root, false)
			if err != nil {
				w.T.Fatal(err)
			}
			defer dir.Close()
			w.serve(transfertest.MappedDir{TreeDir: dir})
			if got, _, err := w.get(); err != nil || !bytes.Equal(got, content) {
				w.T.Fatal(err)
			}
			content[offset] ^= 1
			if err := os.WriteFile(path, content, 0o600); err != nil {
				w.T.Fatal(err)
			}
			failed := 0
			for range 5 {
				got, _, err := w.get()
				if err == nil && bytes.Equal(got, content) {
					break
				}
				failed++
				if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindIntegrity {
					w.T.Errorf("offset %d: %v", offset, err)
				}
				time.Sleep(100 * time.Millisecond) // of virtual time: the server looks at its disk
			}
			if failed != 1 {
				w.T.Errorf("offset %d: %d gets failed, want 1", offset, failed)
			}
			if n := strings.Count(w.Log.String(), "differs from its hash tree"); n != 1 {
				w.T.Errorf("offset %d: logged %d times", offset, n)
			}
		})
	}
}

// TestAttackMappedWriterOfMirror is TestAttackMappedWriter for a file in a batch of a mirror.
func TestAttackMappedWriterOfMirror(t *testing.T) {
	onWire(t, func(w *testNet) {
		root, target := w.T.TempDir(), filepath.Join(w.T.TempDir(), "copy")
		content := bytes.Repeat([]byte("0123456789abcdef"), 2<<16)
		for _, name := range []string{"a", "b", "c"} {
			if err := os.WriteFile(filepath.Join(root, name), content, 0o600); err != nil {
				w.T.Fatal(err)
			}
		}
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			w.T.Fatal(err)
		}
		defer dir.Close()
		w.serve(transfertest.MappedDir{TreeDir: dir})
		source := MirrorSource{URL: URL{Host: transfertest.ServerAddr.String()}, TLS: w.TLS(), KWIK: w.Client()}
		mirror := func() error {
			os.RemoveAll(target)
			_, err := Mirror(w.Ctx, MirrorOptions{MirrorSource: source, Target: target}, &mirrorReports{})
			return err
		}
		if err := mirror(); err != nil {
			w.T.Fatal(err)
		}
		content[1<<20+5] ^= 1
		if err := os.WriteFile(filepath.Join(root, "b"), content, 0o600); err != nil {
			w.T.Fatal(err)
		}
		failed := 0
		for ; failed < 5 && mirror() != nil; failed++ {
			time.Sleep(100 * time.Millisecond)
		}
		got, err := os.ReadFile(filepath.Join(target, "b"))
		if failed > 1 || err != nil || !bytes.Equal(got, content) {
			w.T.Errorf("%d rounds failed, want at most 1: %v", failed, err)
		}
		if n := strings.Count(w.Log.String(), "differs from its hash tree"); n != 1 {
			w.T.Errorf("logged %d times", n)
		}
	})
}
