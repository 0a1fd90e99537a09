package transfer

import (
	"bytes"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// wantDressed fails the test unless a file has the mode and time that fetch's server has for
// theFile.
func wantDressed(t *testing.T, path string) {
	t.Helper()
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o644&^disk.Umask ||
		!info.ModTime().Equal(transfertest.SomeTime) {
		t.Errorf("%v, %v", info, err)
	}
}

// TestUpToDate checks that the client keeps a target with the same content and fetches no byte.
// It replaces any other target.
func TestUpToDate(t *testing.T) {
	flipped := bytes.Clone(theFile)
	flipped[len(flipped)-1]++
	for name, x := range map[string]struct {
		target func(t *testing.T, path string)
		is     bool
	}{
		"the same": {func(t *testing.T, path string) { transfertest.Put(t, path, string(theFile)) }, true},
		"the same, read-only": {func(t *testing.T, path string) {
			transfertest.Put(t, path, string(theFile))
			os.Chmod(path, 0o400)
		}, true},
		"the last byte differs": {func(t *testing.T, path string) { transfertest.Put(t, path, string(flipped)) },
			false},
		"a byte more": {func(t *testing.T, path string) { transfertest.Put(t, path, string(theFile)+"x") },
			false},
		"a byte less": {func(t *testing.T, path string) {
			transfertest.Put(t, path, string(theFile[:len(theFile)-1]))
		}, false},
		"nothing": {func(*testing.T, string) {}, false},
		"a link to the same": {func(t *testing.T, path string) {
			transfertest.Put(t, path+".other", string(theFile))
			if err := os.Symlink("out.other", path); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				target := filepath.Join(t.TempDir(), "out")
				x.target(t, target)
				// The client never leaves this old part file.
				transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "an old part")
				before, _ := os.Lstat(target)
				r, heard, err := fetch(t, target, func(o *GetOptions) { o.NoPreserve = plain })
				if err != nil {
					t.Fatal(err)
				}
				transfertest.WantContent(t, target, string(theFile))
				after, _ := os.Lstat(target)
				delivered := int64(0)
				for _, s := range r.Servers {
					delivered += s.Bytes
				}
				n := int64(len(theFile))
				resumed := int64(0)
				if x.is {
					resumed = n
				}
				wantEqual(t, "up to date", r.UpToDate, x.is)
				wantEqual(t, "bytes", r.Bytes, n)
				wantEqual(t, "bytes resumed", r.Resumed, resumed)
				wantEqual(t, "bytes delivered", delivered, n-resumed)
				wantEqual(t, "bytes wasted", r.Wasted, 0)
				wantEqual(t, "part file kept", r.Kept, false)
				wantEqual(t, "path", r.Path, target)
				wantEqual(t, "bytes resumed, as reported", heard.resumed, resumed)
				switch {
				case x.is && !os.SameFile(before, after):
					t.Error("it was replaced")
				case !plain:
					wantDressed(t, target)
				case x.is && (after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime())):
					t.Error("its mode or time was changed")
				case !x.is && (after.Mode() != 0o666&^disk.Umask || after.ModTime().Equal(transfertest.SomeTime)):
					t.Errorf("mode %v, time %v", after.Mode(), after.ModTime())
				}
				if name != "a link to the same" {
					wantNames(t, filepath.Dir(target), "out")
				}
			})
		}
	}
}

// TestUpToDateWhenOperationsFail makes each operation fail. The content of the target does not
// change. Only its mode and time may differ from the source's.
func TestUpToDateWhenOperationsFail(t *testing.T) {
	everyFault(t, syscall.EIO, func(t *testing.T, x *faults) {
		target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), string(theFile))
		if err := os.Chmod(target, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := fetch(t, target, func(o *GetOptions) { o.OpenDir = x.opener() })
		t.Logf("%q failed: %v", x.failed(), err)
		transfertest.WantContent(t, target, string(theFile))
		if err == nil {
			wantDressed(t, target)
		} else {
			wantKind(t, err, KindLocal, "input/output error")
		}
		if x.failed() == "" {
			wantNames(t, filepath.Dir(target), "out")
		}
		if x.open != 0 {
			t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
		}
	})
}

// TestNoClobber checks that NoClobber replaces no file. The file may be there at first or
// appear during the transfer.
func TestNoClobber(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	keep := func(o *GetOptions) { o.NoClobber = true }
	// No server is there, and the client contacts none.
	o := GetOptions{Target: target, URL: URL{Host: "192.0.2.1:1"}, NoClobber: true}
	_, err := getWhole(t, t.Context(), o, NoReport{})
	wantKind(t, err, KindExists, "there is a file of that name")
	wantNames(t, filepath.Dir(target), "out")
	os.Remove(target)
	if r, _, err := fetch(t, target, keep); err != nil || r.UpToDate {
		t.Fatal(r, err)
	}
	transfertest.WantContent(t, target, string(theFile))
	wantDressed(t, target)
	wantNames(t, filepath.Dir(target), "out")
	os.Remove(target)
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) {
			transfertest.Put(t, target, "meanwhile")
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		})
		r, err := Get(w.Ctx, GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(),
			Target: target, KWIK: w.Client(), NoClobber: true}, NoReport{})
		wantKind(w.T, err, KindExists, "there is a file of that name")
		if !r.Kept || r.Bytes != int64(len(theFile)) {
			t.Errorf("%+v", r)
		}
	})
	transfertest.WantContent(t, target, "meanwhile")
}

// TestNoClobberWhenOperationsFail makes each operation fail. The target is then absent or
// whole.
func TestNoClobberWhenOperationsFail(t *testing.T) {
	everyFault(t, syscall.EIO, func(t *testing.T, x *faults) {
		target := filepath.Join(t.TempDir(), "out")
		_, _, err := fetch(t, target, func(o *GetOptions) { o.NoClobber, o.OpenDir = true, x.opener() })
		t.Logf("%q failed: %v", x.failed(), err)
		if err != nil {
			wantKind(t, err, KindLocal, "input/output error")
		}
		if renamed := slices.Contains(x.ops, "renamenew") && x.failed() != "renamenew"; renamed {
			transfertest.WantContent(t, target, string(theFile))
		} else if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("there is a target: %v", err)
		}
		if x.open != 0 {
			t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
		}
	})
}

// TestUpToDateIsAskedOnce checks that a retry does not hash the target again, unless the target
// is another file by then.
func TestUpToDateIsAskedOnce(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), string(bytes.Repeat([]byte{1}, len(theFile))))
	x := &faults{}
	onWire(t, func(w *testNet) {
		w.hostile(lacking(0), func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		})
		o := GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target,
			KWIK: w.Client(), OpenDir: x.opener(), Retries: 3, RetryDelay: time.Second}
		_, err := getWhole(w.T, w.Ctx, o, NoReport{})
		wantKind(w.T, err, KindNetwork, "")
	})
	opened := 0
	for _, op := range x.ops {
		if op == "open" {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("it was opened %d times", opened)
	}
}

func TestRenameNew(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	for _, name := range []string{"sub", "inside", "dangling", "outside", "fifo"} {
		if err := d.RenameNew("file", name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("to %s: %v", name, err)
		}
	}
	if err := d.RenameNew("file", "../escaped"); err == nil {
		t.Error("it led outside")
	}
	if err := d.RenameNew("missing", "new"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	transfertest.WantContent(t, filepath.Join(root, "file"), "content")
	if err := d.RenameNew("file", "new"); err != nil {
		t.Error(err)
	}
	transfertest.WantContent(t, filepath.Join(root, "new"), "content")
	if _, err := d.Lstat("file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
}
