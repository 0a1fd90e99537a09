package transfer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// wantKind fails the test unless err is an *Error of a kind whose text says something.
func wantKind(t *testing.T, err error, kind Kind, says string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != kind {
		t.Fatalf("error %v (%T), want one of kind %v", err, err, kind)
	}
	if !strings.Contains(err.Error(), says) {
		t.Fatalf("the error %q does not say %q", err, says)
	}
}

// wantNames fails the test unless a directory holds exactly these names.
func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Fatalf("the directory holds %q, want %q", names, want)
	}
}

// wholeTree is the tree of a file that says "whole".
func wholeTree() *integrity.Tree { return treeOf([]byte("whole")) }

func treeOf(content []byte) *integrity.Tree {
	tree, err := integrity.Build(context.Background(), bytes.NewReader(content), int64(len(content)), integrity.DefaultGroupSize, nil)
	if err != nil {
		panic(err)
	}
	return tree
}

// receive writes "whole" to a target as a transfer does.
func receive(openDir func(string) (disk.Dir, error), path string) error {
	p, err := openPart(openDir, path, false)
	if err != nil {
		return err
	}
	defer p.leave()
	if err := p.prove(context.Background(), wholeTree(), nil); err != nil {
		return err
	}
	for i, c := range []byte("whole") {
		if _, err := p.WriteAt([]byte{c}, int64(i)); err != nil {
			return err
		}
	}
	return p.commit(0o640, transfertest.SomeTime)
}

func TestPartFileIsPutInPlace(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, target string){
		"nothing there": func(*testing.T, string) {},
		"a file there":  func(t *testing.T, target string) { transfertest.Put(t, target, "longer than what comes") },
		"part file of a killed run": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), strings.Repeat("old", 100))
		},
		"read-only part file of a run killed before its rename": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "old")
			if err := os.Chmod(part, 0o400); err != nil {
				t.Fatal(err)
			}
		},
		"part file that others may write": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "whole")
			if err := os.Chmod(part, 0o666); err != nil {
				t.Fatal(err)
			}
		},
		"part file that is right, and longer": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "whole, and more")
		},
		"empty part file": func(t *testing.T, target string) {
			transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "")
		},
		"part file with another name": func(t *testing.T, target string) {
			victim := transfertest.Put(t, filepath.Join(t.TempDir(), "victim"), "untouched")
			if err := os.Link(victim, filepath.Join(filepath.Dir(target), partName("out"))); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { transfertest.WantContent(t, victim, "untouched") })
		},
		"part file of another user": func(t *testing.T, target string) {
			part := transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), "whole")
			if err := os.Chown(part, 65534, 65534); err != nil {
				t.Skip(err)
			}
		},
		"a FIFO in place of the part file": func(t *testing.T, target string) {
			if err := transfertest.Mkfifo(filepath.Join(filepath.Dir(target), partName("out"))); err != nil {
				t.Fatal(err)
			}
		},
		"a directory in place of the part file": func(t *testing.T, target string) {
			if err := os.Mkdir(filepath.Join(filepath.Dir(target), partName("out")), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a link in place of the part file": func(t *testing.T, target string) {
			victim := transfertest.Put(t, filepath.Join(t.TempDir(), "victim"), "untouched")
			if err := os.Symlink(victim, filepath.Join(filepath.Dir(target), partName("out"))); err != nil {
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
			wantNames(t, filepath.Dir(target), "out")
			transfertest.WantContent(t, target, "whole")
			info, err := os.Stat(target)
			if err != nil || info.Mode() != 0o640&^disk.Umask || !info.ModTime().Equal(transfertest.SomeTime) {
				t.Fatalf("mode %v, time %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// Nothing is under the final name before the commit, and what stands there stays.
func TestPartFileIsApartUntilTheCommit(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	p, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	p.WriteAt([]byte("new"), 0)
	transfertest.WantContent(t, target, "before")
	wantNames(t, filepath.Dir(target), "out", partName("out"))
	info, err := os.Stat(filepath.Join(filepath.Dir(target), partName("out")))
	if err != nil || info.Mode() != 0o600&^disk.Umask {
		t.Fatalf("the part file has mode %v, want 0600, for its final one is not known yet (%v)", info.Mode(), err)
	}
	p.leave()
	transfertest.WantContent(t, target, "before")
}

func TestPartFileInTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := receive(disk.OpenDir, "out"); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, "out", "whole")
}

func TestPartFileOfTheLongestName(t *testing.T) {
	target := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := receive(disk.OpenDir, target); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "whole")
}

// A link at the target is replaced itself; what it points to is left alone.
func TestPartFileReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	inside, outside := transfertest.Put(t, filepath.Join(dir, "inside"), "untouched"), transfertest.Put(t, filepath.Join(t.TempDir(), "outside"), "untouched")
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

// Tests run as root here and there, whom no permission stops; so a parent that cannot be written is one that is a file.
func TestPartFileRefusesTargets(t *testing.T) {
	dir := t.TempDir()
	transfertest.Put(t, filepath.Join(dir, "file"), "")
	if err := os.MkdirAll(filepath.Join(dir, "dir", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dir", filepath.Join(dir, "dirlink")); err != nil {
		t.Fatal(err)
	}
	if err := transfertest.Mkfifo(filepath.Join(dir, "fifo")); err != nil {
		t.Fatal(err)
	}
	for target, says := range map[string]string{
		"dir":                     "it is a directory",
		"dir/":                    "it is a directory",
		"dirlink":                 "it is a directory",
		"dir/.":                   "it is a directory",
		"dir/..":                  "it is a directory",
		"fifo":                    "not a regular file",
		"missing/out":             "no such file or directory",
		"file/out":                "not a directory",
		strings.Repeat("n", 256):  "name too long",
		"dir/" + "nul\x00in name": "invalid argument",
	} {
		path := dir + "/" + target
		err := receive(disk.OpenDir, path)
		wantKind(t, err, KindLocal, says)
		if !strings.Contains(err.Error(), `"`) || strings.Contains(err.Error(), "\x00") {
			t.Errorf("the error %q does not quote the path", err)
		}
	}
	wantNames(t, dir, "dir", "dirlink", "fifo", "file")
	wantNames(t, filepath.Join(dir, "dir"), "full")
}

// What cannot be removed is named, for it is in nobody's sight.
func TestPartFileInTheWay(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	part := filepath.Join(filepath.Dir(target), partName("out"))
	if err := os.MkdirAll(filepath.Join(part, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := receive(disk.OpenDir, target)
	wantKind(t, err, KindLocal, `"`+partName("out")+`" is in the way and cannot be removed: directory not empty`)
}

func TestPartFileOfALiveTransferIsBusy(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	first, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	first.WriteAt([]byte("first"), 0)
	_, err = openPart(disk.OpenDir, target, false)
	wantKind(t, err, KindBusy, "another kwikcp")
	if err := first.commit(0o600, transfertest.SomeTime); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "first")
	wantNames(t, filepath.Dir(target), "out")
}

// Two transfers that start at the same time: whoever comes second finds the part file of the first before its lock and takes it
// for that of one that ended. The first must notice, or both would write to it.
func TestPartFileTakenBetweenCreationAndLock(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	var second *partFile
	x := &faults{}
	x.after = func(op string) {
		if op == "create" && second == nil {
			var err error
			if second, err = openPart(disk.OpenDir, target, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := openPart(x.opener(), target, false)
	wantKind(t, err, KindBusy, "another kwikcp")
	transfertest.WantContent(t, target, "before")
	second.WriteAt([]byte("second"), 0)
	if err := second.commit(0o600, transfertest.SomeTime); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "second")
	wantNames(t, filepath.Dir(target), "out")
}

// The same, seen from the one who comes second: between its opening of the part file and its lock the first is done with it.
// What it holds then is no part file any more, and must not be written to.
func TestPartFileEndsWhileItIsAdopted(t *testing.T) {
	for name, end := range map[string]func(p *partFile) error{
		"put in place": func(p *partFile) error { return p.commit(0o600, transfertest.SomeTime) },
		"removed":      func(p *partFile) error { p.had = rangeset.Set{}; p.tree = wholeTree(); p.leave(); return nil },
		"removed, and anew": func(p *partFile) error {
			p.had = rangeset.Set{}
			p.tree = wholeTree()
			p.leave()
			return receive(disk.OpenDir, p.path)
		},
		"put in place twice": func(p *partFile) error {
			return errors.Join(p.commit(0o600, transfertest.SomeTime), receive(disk.OpenDir, p.path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			first, err := openPart(disk.OpenDir, target, false)
			if err != nil {
				t.Fatal(err)
			}
			first.WriteAt([]byte("first"), 0)
			x := &faults{}
			x.after = func(op string) {
				if op == "openpart" && first != nil {
					p := first
					first = nil
					if err := end(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, err = openPart(x.opener(), target, false)
			wantKind(t, err, KindBusy, "another kwikcp")
		})
	}
}

// A part file that somebody put another in place of is not what is renamed.
func TestPartFileThatWasReplaced(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	part := filepath.Join(filepath.Dir(target), partName("out"))
	p, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	p.WriteAt([]byte("whole"), 0)
	if err := errors.Join(os.Remove(part), os.WriteFile(part, []byte("somebody's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, p.commit(0o600, transfertest.SomeTime), KindBusy, "another kwikcp")
	p.leave()
	transfertest.WantContent(t, target, "before")
	transfertest.WantContent(t, part, "somebody's")
}

// Nor is one renamed that somebody removed, alone or with its directory; and nobody is told to go on with it.
func TestPartFileThatWasRemoved(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"alone":              func(dir string) error { return os.Remove(filepath.Join(dir, partName("out"))) },
		"with its directory": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p, err := openPart(disk.OpenDir, filepath.Join(dir, "out"), false)
			if err != nil {
				t.Fatal(err)
			}
			defer p.leave()
			p.WriteAt([]byte("whole"), 0)
			if err := remove(dir); err != nil {
				t.Skip(err) // this system keeps what is open
			}
			wantKind(t, p.commit(0o600, transfertest.SomeTime), KindLocal, `write "`+filepath.Join(dir, "out")+`": what was received of it was removed`)
			if p.leave() {
				t.Error("there is said to be a part file")
			}
			if _, err := os.Lstat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is in place: %v", err)
			}
		})
	}
}

// Whatever operation fails: the target is as before or whole, and nothing else is left but the part file. A part file that is left
// is not trusted with more than its bytes: the next transfer ends well.
func TestPartFileWhenOperationsFail(t *testing.T) {
	for name, with := range map[string]error{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EDQUOT": syscall.EDQUOT} {
		for _, stale := range []string{"", "stale", "whole", "whole and more"} {
			t.Run(name+" after "+stale, func(t *testing.T) {
				everyFault(t, with, func(t *testing.T, x *faults) {
					target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
					part := filepath.Join(filepath.Dir(target), partName("out"))
					if stale != "" {
						transfertest.Put(t, part, stale)
					}
					err := receive(x.opener(), target)
					failed := x.failed()
					t.Logf("%q failed: %v", failed, err)
					switch {
					case err != nil && with == syscall.EIO:
						wantKind(t, err, KindLocal, "input/output error")
					case err != nil:
						wantKind(t, err, KindNoSpace, target)
					}
					renamed := slices.Contains(x.ops, "rename") && failed != "rename"
					if renamed {
						transfertest.WantContent(t, target, "whole")
					} else {
						transfertest.WantContent(t, target, "before")
					}
					if err == nil != renamed && failed != "syncdir" && failed != "close" && failed != "closedir" {
						t.Errorf("error %v, but renamed is %t", err, renamed)
					}
					info, statErr := os.Lstat(part)
					switch {
					case statErr != nil:
						wantNames(t, filepath.Dir(target), "out")
					case renamed || failed == "sync":
						t.Errorf("there is a part file after %q", x.ops)
					case info.Mode().Perm() != partMode&^disk.Umask && stale == "":
						t.Errorf("the part file is left with mode %v", info.Mode())
					}
					if x.open != 0 {
						t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
					}
					if err := receive(disk.OpenDir, target); err != nil {
						t.Errorf("the next one: %v", err)
					}
					transfertest.WantContent(t, target, "whole")
					wantNames(t, filepath.Dir(target), "out")
				})
			})
		}
	}
}

// What follows a failed write is never a commit.
func TestPartFileSaysWhichFileCouldNotBeWritten(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	p, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	p.file.Close()
	_, err = p.WriteAt([]byte("x"), 0)
	wantKind(t, err, KindLocal, target)
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the cause of %v is lost", err)
	}
}
