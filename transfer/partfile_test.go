package transfer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var someTime = time.Date(2001, 2, 3, 4, 5, 6, 789000, time.UTC)

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

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Fatalf("%s holds %q (%v), want %q", path, got, err, want)
	}
}

func put(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// receive writes "whole" to a target as a transfer does.
func receive(openDir func(string) (Dir, error), path string) error {
	p, err := openPart(openDir, path)
	if err != nil {
		return err
	}
	defer p.discard()
	for i, c := range []byte("whole") {
		if _, err := p.WriteAt([]byte{c}, int64(i)); err != nil {
			return err
		}
	}
	return p.commit(0o640, someTime)
}

func TestPartFileIsPutInPlace(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, target string){
		"nothing there": func(*testing.T, string) {},
		"a file there":  func(t *testing.T, target string) { put(t, target, "longer than what comes") },
		"part file of a killed run": func(t *testing.T, target string) {
			put(t, filepath.Join(filepath.Dir(target), partName("out")), strings.Repeat("old", 100))
		},
		"read-only part file of a run killed before its rename": func(t *testing.T, target string) {
			part := put(t, filepath.Join(filepath.Dir(target), partName("out")), "old")
			if err := os.Chmod(part, 0o400); err != nil {
				t.Fatal(err)
			}
		},
		"a link in place of the part file": func(t *testing.T, target string) {
			victim := put(t, filepath.Join(t.TempDir(), "victim"), "untouched")
			if err := os.Symlink(victim, filepath.Join(filepath.Dir(target), partName("out"))); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { wantContent(t, victim, "untouched") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			prepare(t, target)
			if err := receive(OpenDir, target); err != nil {
				t.Fatal(err)
			}
			wantNames(t, filepath.Dir(target), "out")
			wantContent(t, target, "whole")
			info, err := os.Stat(target)
			if err != nil || info.Mode() != 0o640&^umask || !info.ModTime().Equal(someTime) {
				t.Fatalf("mode %v, time %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// Nothing is under the final name before the commit, and what stands there stays.
func TestPartFileIsApartUntilTheCommit(t *testing.T) {
	target := put(t, filepath.Join(t.TempDir(), "out"), "before")
	p, err := openPart(OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	p.WriteAt([]byte("new"), 0)
	wantContent(t, target, "before")
	wantNames(t, filepath.Dir(target), "out", partName("out"))
	info, err := os.Stat(filepath.Join(filepath.Dir(target), partName("out")))
	if err != nil || info.Mode() != 0o600&^umask {
		t.Fatalf("the part file has mode %v, want 0600, for its final one is not known yet (%v)", info.Mode(), err)
	}
	p.discard()
	wantContent(t, target, "before")
	wantNames(t, filepath.Dir(target), "out")
}

func TestPartFileInTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := receive(OpenDir, "out"); err != nil {
		t.Fatal(err)
	}
	wantContent(t, "out", "whole")
}

func TestPartFileOfTheLongestName(t *testing.T) {
	target := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := receive(OpenDir, target); err != nil {
		t.Fatal(err)
	}
	wantContent(t, target, "whole")
}

// A link at the target is replaced itself; what it points to is left alone.
func TestPartFileReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	inside, outside := put(t, filepath.Join(dir, "inside"), "untouched"), put(t, filepath.Join(t.TempDir(), "outside"), "untouched")
	for name, to := range map[string]string{"in": "inside", "out": outside, "dangling": "nowhere", "loop": "loop"} {
		link := filepath.Join(dir, name)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if err := receive(OpenDir, link); err != nil {
			t.Fatalf("link to %s: %v", to, err)
		}
		if info, err := os.Lstat(link); err != nil || !info.Mode().IsRegular() {
			t.Fatalf("link to %s is still %v, %v", to, info.Mode(), err)
		}
	}
	wantContent(t, inside, "untouched")
	wantContent(t, outside, "untouched")
}

// Tests run as root here and there, whom no permission stops; so a parent that cannot be written is one that is a file.
func TestPartFileRefusesTargets(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "file"), "")
	if err := os.MkdirAll(filepath.Join(dir, "dir", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dir", filepath.Join(dir, "dirlink")); err != nil {
		t.Fatal(err)
	}
	if err := mkfifo(filepath.Join(dir, "fifo")); err != nil {
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
		err := receive(OpenDir, path)
		wantKind(t, err, KindLocal, says)
		if !strings.Contains(err.Error(), `"`) || strings.Contains(err.Error(), "\x00") {
			t.Errorf("the error %q does not quote the path", err)
		}
	}
	wantNames(t, dir, "dir", "dirlink", "fifo", "file")
	wantNames(t, filepath.Join(dir, "dir"), "full")
}

func TestPartFileOfALiveTransferIsBusy(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	first, err := openPart(OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	first.WriteAt([]byte("first"), 0)
	_, err = openPart(OpenDir, target)
	wantKind(t, err, KindBusy, "another kwikcp")
	if err := first.commit(0o600, someTime); err != nil {
		t.Fatal(err)
	}
	wantContent(t, target, "first")
	wantNames(t, filepath.Dir(target), "out")
}

// Two transfers that start at the same time: whoever comes second finds the part file of the first before its lock, takes it
// for that of a killed run and removes it. The first must notice, or it would put the other's unfinished file in place.
func TestPartFileTakenBetweenCreationAndLock(t *testing.T) {
	target := put(t, filepath.Join(t.TempDir(), "out"), "before")
	var second *partFile
	x := &faults{}
	x.after = func(op string) {
		if op == "create" && second == nil {
			var err error
			if second, err = openPart(OpenDir, target); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := openPart(x.opener(), target)
	wantKind(t, err, KindBusy, "another kwikcp")
	wantContent(t, target, "before")
	second.WriteAt([]byte("second"), 0)
	if err := second.commit(0o600, someTime); err != nil {
		t.Fatal(err)
	}
	wantContent(t, target, "second")
	wantNames(t, filepath.Dir(target), "out")
}

// The same, seen from the one who removes: between its opening of a stale part file and its lock somebody else has
// removed that and begun anew. The live part file is not the stale one.
func TestPartFileReplacedWhileItIsRemoved(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	put(t, filepath.Join(filepath.Dir(target), partName("out")), "stale")
	var other *partFile
	x := &faults{}
	x.after = func(op string) {
		if op == "openpart" && other == nil {
			var err error
			if other, err = openPart(OpenDir, target); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := openPart(x.opener(), target)
	wantKind(t, err, KindBusy, "another kwikcp")
	other.WriteAt([]byte("other"), 0)
	if err := other.commit(0o600, someTime); err != nil {
		t.Fatal(err)
	}
	wantContent(t, target, "other")
}

// Whatever operation fails: the target is as before or whole, and nothing else is left but what could not be removed.
func TestPartFileWhenOperationsFail(t *testing.T) {
	for name, with := range map[string]error{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EDQUOT": syscall.EDQUOT} {
		for _, stale := range []bool{false, true} {
			title := name
			if stale {
				title += " after a killed run"
			}
			t.Run(title, func(t *testing.T) {
				everyFault(t, with, func(t *testing.T, x *faults) {
					target := put(t, filepath.Join(t.TempDir(), "out"), "before")
					part := filepath.Join(filepath.Dir(target), partName("out"))
					if stale {
						put(t, part, "stale")
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
						wantContent(t, target, "whole")
					} else {
						wantContent(t, target, "before")
					}
					if err == nil != renamed && failed != "syncdir" && failed != "close" && failed != "closedir" {
						t.Errorf("error %v, but renamed is %t", err, renamed)
					}
					switch failed {
					case "remove":
					case "opendir", "openpart", "lstat", "lock", "fstat", "close": // a stale one may have to stay
						if !stale {
							wantNames(t, filepath.Dir(target), "out")
						}
					default:
						if !stale || slices.Contains(x.ops, "write") {
							wantNames(t, filepath.Dir(target), "out")
						}
					}
					if x.open != 0 {
						t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
					}
				})
			})
		}
	}
}

// What follows a failed write is never a commit.
func TestPartFileSaysWhichFileCouldNotBeWritten(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	p, err := openPart(OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.discard()
	p.file.Close()
	_, err = p.WriteAt([]byte("x"), 0)
	wantKind(t, err, KindLocal, target)
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the cause of %v is lost", err)
	}
}
