package partfile

import (
	"context"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// meta is the mode and time of a received file.
var meta = Metadata{Mode: 0o640, MTime: transfertest.SomeTime}

// open opens the part file of a target.
func open(openDir func(string) (disk.Dir, error), path string, o ...Options) (*PartFile, error) {
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	o = append(o, Options{SyncName: true})
	p, err := Place{Dir: dir, Name: filepath.Base(path)}.Open(o[0])
	if err != nil {
		dir.Close()
	}
	return p, err
}

// receive writes "whole" to a target as a transfer does.
func receive(openDir func(string) (disk.Dir, error), path string) error {
	p, err := open(openDir, path)
	if err != nil {
		return err
	}
	defer p.Leave()
	if err := p.Prove(context.Background(), transfertest.TreeOf([]byte("whole")), nil, nil); err != nil {
		return err
	}
	for i, c := range []byte("whole") {
		if _, err := p.WriteAt([]byte{c}, int64(i)); err != nil {
			return err
		}
	}
	return p.Commit(meta)
}

func TestPartFileIsPutInPlace(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, target string){
		"nothing there": func(*testing.T, string) {},
		"a file there":  func(t *testing.T, target string) { transfertest.Put(t, target, "longer than what comes") },
		"part file of a killed run": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), strings.Repeat("old", 100))
		},
		"read-only part file of a run killed before its rename": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), "old")
			if err := os.Chmod(part, 0o400); err != nil {
				t.Fatal(err)
			}
		},
		"part file that others may write": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), "whole")
			if err := os.Chmod(part, 0o666); err != nil {
				t.Fatal(err)
			}
		},
		"part file that is right, and longer": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), "whole, and more")
		},
		"empty part file": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), "")
		},
		"part file with another name": func(t *testing.T, target string) {
			victim := transfertest.Put(t, filepath.Join(t.TempDir(), "victim"), "untouched")
			if err := os.Link(victim, filepath.Join(filepath.Dir(target), PartName("out"))); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { transfertest.WantContent(t, victim, "untouched") })
		},
		"part file of another user": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), PartName("out")), "whole")
			if err := os.Chown(part, 65534, 65534); err != nil {
				t.Skip(err)
			}
		},
		"a FIFO in place of the part file": func(t *testing.T, target string) {
			if err := transfertest.Mkfifo(filepath.Join(filepath.Dir(target), PartName("out"))); err != nil {
				t.Fatal(err)
			}
		},
		"a directory in place of the part file": func(t *testing.T, target string) {
			if err := os.Mkdir(filepath.Join(filepath.Dir(target), PartName("out")), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a link in place of the part file": func(t *testing.T, target string) {
			victim := transfertest.Put(t, filepath.Join(t.TempDir(), "victim"), "untouched")
			if err := os.Symlink(victim, filepath.Join(filepath.Dir(target), PartName("out"))); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { transfertest.WantContent(t, victim, "untouched") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			prepare(t, target)
			if err := receive(disk.OpenDir, target); err != nil {
				t.Fatal(err)
			}
			transfertest.WantNames(t, filepath.Dir(target), "out")
			transfertest.WantContent(t, target, "whole")
			info, err := os.Stat(target)
			if err != nil || info.Mode() != 0o640&^disk.Umask || !info.ModTime().Equal(transfertest.SomeTime) {
				t.Fatalf("mode %v, time %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// TestPartFileIsApartUntilTheCommit checks that the final name does not change before the
// commit.
func TestPartFileIsApartUntilTheCommit(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	p.WriteAt([]byte("new"), 0)
	transfertest.WantContent(t, target, "before")
	transfertest.WantNames(t, filepath.Dir(target), "out", PartName("out"))
	info, err := os.Stat(filepath.Join(filepath.Dir(target), PartName("out")))
	if err != nil || info.Mode() != 0o600&^disk.Umask {
		t.Fatalf("the part file has mode %v, want 0600, for its final one is not known yet (%v)", info.Mode(), err)
	}
	p.Leave()
	transfertest.WantContent(t, target, "before")
}

func TestPartFileOfTheLongestName(t *testing.T) {
	target := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := receive(disk.OpenDir, target); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "whole")
}

// TestPartFileReplacesLinks checks that a commit replaces a link at the target and not the file
// that the link points to.
func TestPartFileReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	inside := transfertest.Put(t, filepath.Join(dir, "inside"), "untouched")
	outside := transfertest.Put(t, filepath.Join(t.TempDir(), "outside"), "untouched")
	for name, to := range map[string]string{"in": "inside", "out": outside, "dangling": "nowhere", "loop": "loop"} {
		link := filepath.Join(dir, name)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if err := receive(disk.OpenDir, link); err != nil {
			t.Fatalf("link to %s: %v", to, err)
		}
		if info, err := os.Lstat(link); err != nil || !info.Mode().IsRegular() {
			t.Fatalf("link to %s is still %v, %v", to, info.Mode(), err)
		}
	}
	transfertest.WantContent(t, inside, "untouched")
	transfertest.WantContent(t, outside, "untouched")
}
