package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/transfertest/disktest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Short names of what many tests use.
var (
	openFile  = disktest.OpenFile
	treeOf    = transfertest.TreeOf
	wantNames = transfertest.WantNames
	partName  = partfile.PartName
)

// partMode is the mode of a part file.
const partMode fs.FileMode = 0o600

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

// wantEqual fails the test, and continues it, unless got is want.
func wantEqual[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// wholeMeta is the mode and time of a received file.
var wholeMeta = partfile.Metadata{Mode: 0o640, MTime: transfertest.SomeTime}

// A receiver is a part file as a get uses it: its errors name the target.
type receiver struct {
	*partfile.PartFile
	path string
}

// open opens the part file of a target.
func open(openDir func(string) (disk.Dir, error), path string) (receiver, error) {
	g := &get{GetOptions: GetOptions{OpenDir: openDir}, path: path}
	p, err := g.openPart()
	return receiver{p, path}, err
}

// prove makes the part file one for a content.
func (r receiver) prove(content string) error {
	if err := r.Prove(context.Background(), treeOf([]byte(content)), nil, nil); err != nil {
		return targetError(r.path, err)
	}
	return nil
}

// write makes the part file one for a content, and writes it byte by byte.
func (r receiver) write(content string) error {
	if err := r.prove(content); err != nil {
		return err
	}
	for i, c := range []byte(content) {
		if _, err := (targetWriter{r.PartFile, r.path}).WriteAt([]byte{c}, int64(i)); err != nil {
			return err
		}
	}
	return nil
}

func (r receiver) commit() error {
	if err := r.Commit(wholeMeta); err != nil {
		return targetError(r.path, err)
	}
	return nil
}

// receive writes "whole" to a target as a transfer does.
func receive(openDir func(string) (disk.Dir, error), path string) error {
	r, err := open(openDir, path)
	if err != nil {
		return err
	}
	defer r.Leave()
	if err := r.write("whole"); err != nil {
		return err
	}
	return r.commit()
}

func TestPartFileInTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := receive(disk.OpenDir, "out"); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, "out", "whole")
}

// TestPartFileRefusesTargets checks unusable targets. Permissions do not stop tests that run as
// root, so the unwritable parent is a file.
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

// TestPartFileInTheWay checks that the error names an obstacle that the client cannot remove,
// because a listing may hide it.
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
	first, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	first.write("first")
	_, err = open(disk.OpenDir, target)
	wantKind(t, err, KindBusy, "another kwikcp")
	if err := first.commit(); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "first")
	wantNames(t, filepath.Dir(target), "out")
}

// TestPartFileTakenBetweenCreationAndLock starts two transfers at the same time. The second
// opens the part file of the first before the first has its lock. It mistakes the file for that
// of a transfer that ended. The first must notice, or both would write to the file.
func TestPartFileTakenBetweenCreationAndLock(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	var second receiver
	x := &faults{}
	x.after = func(op string) {
		if op == "create" && second.PartFile == nil {
			var err error
			if second, err = open(disk.OpenDir, target); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := open(x.opener(), target)
	wantKind(t, err, KindBusy, "another kwikcp")
	transfertest.WantContent(t, target, "before")
	second.write("second")
	if err := second.commit(); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, target, "second")
	wantNames(t, filepath.Dir(target), "out")
}

// TestPartFileEndsWhileItIsAdopted is the same case from the side of the second transfer. The
// first transfer ends between the second's open and lock of the part file. The file that the
// second holds is then no part file any more, and the second must not write to it.
func TestPartFileEndsWhileItIsAdopted(t *testing.T) {
	for name, end := range map[string]func(p receiver) error{
		"put in place": func(p receiver) error { return p.commit() },
		"removed":      func(p receiver) error { p.Discard(); return nil },
		"removed, and anew": func(p receiver) error {
			p.Discard()
			return receive(disk.OpenDir, p.path)
		},
		"put in place twice": func(p receiver) error {
			return errors.Join(p.commit(), receive(disk.OpenDir, p.path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			first, err := open(disk.OpenDir, target)
			if err != nil {
				t.Fatal(err)
			}
			first.write("first")
			x := &faults{}
			x.after = func(op string) {
				if op == "openpart" && first.PartFile != nil {
					p := first
					first.PartFile = nil
					if err := end(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, err = open(x.opener(), target)
			wantKind(t, err, KindBusy, "another kwikcp")
		})
	}
}

// TestPartFileThatWasReplaced checks that the client does not rename a file that took the place
// of its part file.
func TestPartFileThatWasReplaced(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	part := filepath.Join(filepath.Dir(target), partName("out"))
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	p.write("whole")
	if err := errors.Join(os.Remove(part), os.WriteFile(part, []byte("somebody's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, p.commit(), KindBusy, "another kwikcp")
	p.Leave()
	transfertest.WantContent(t, target, "before")
	transfertest.WantContent(t, part, "somebody's")
}

// TestPartFileThatWasRemoved checks that the client renames no part file that was removed,
// alone or with its directory. The client does not offer to resume it.
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
			p, err := open(disk.OpenDir, filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Leave()
			p.write("whole")
			if err := remove(dir); err != nil {
				t.Skip(err) // this system keeps what is open
			}
			wantKind(t, p.commit(), KindLocal,
				`write "`+filepath.Join(dir, "out")+`": the part file or its directory was removed`)
			if p.Leave() {
				t.Error("the transfer reports a part file")
			}
			if _, err := os.Lstat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is in place: %v", err)
			}
		})
	}
}

// TestPartFileWhenOperationsFail makes each operation fail. The target is the old file or the
// new one, and only the part file may be left. The next transfer verifies its bytes and
// succeeds.
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
					isAfterRename := failed == "syncdir" || failed == "close" || failed == "closedir"
					if err == nil != renamed && !isAfterRename {
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

// TestPartFileSaysWhichFileCouldNotBeWritten checks that no commit follows a failed write.
func TestPartFileSaysWhichFileCouldNotBeWritten(t *testing.T) {
	target := filepath.Join(t.TempDir(), "out")
	x := &faults{only: []string{"write"}, fail: 1, with: fs.ErrClosed}
	p, err := open(x.opener(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	err = p.write("x")
	wantKind(t, err, KindLocal, target)
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the cause of %v is lost", err)
	}
}

// TestReserveWhenOperationsFail makes each operation of a reservation fail. Only a lack of
// space ends the transfer. In each case, only the part file may be left.
func TestReserveWhenOperationsFail(t *testing.T) {
	const lastGroup = 16<<20 + 5*65536 // of a file that is large enough for a reservation
	content := make([]byte, lastGroup+100)
	rand.NewChaCha8([32]byte{16}).Read(content)
	tree := treeOf(content)
	for name, with := range map[string]error{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n += faultStep {
				x := &faults{fail: n, with: with}
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				err := func() error {
					p, err := open(x.opener(), target)
					if err != nil {
						return err
					}
					defer p.Leave()
					if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
						return err
					}
					for _, r := range []rangeset.Range{{Start: lastGroup, End: tree.Size()},
						{Start: 0, End: lastGroup}} {
						if _, err := p.WriteAt(content[r.Start:r.End], r.Start); err != nil {
							return err
						}
					}
					return p.commit()
				}()
				if x.failed() == "" {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if reserving := x.failed() == "allocate" || x.failed() == "free"; reserving &&
					(err != nil) != (with == syscall.ENOSPC && x.failed() == "allocate") {
					t.Errorf("%q failed: %v", x.ops, err)
				}
				if x.open != 0 {
					t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
				}
				if got, readErr := os.ReadFile(target); readErr != nil || len(got) != len("before") &&
					len(got) != len(content) {
					t.Errorf("%d bytes are in place after %q, %v", len(got), x.ops, readErr)
				}
			}
		})
	}
}

// TestCheckpointThatFails checks that a part file with a failed checkpoint is neither renamed
// nor resumed. A read may return bytes that are not on disk.
func TestCheckpointThatFails(t *testing.T) {
	for _, op := range []string{"checkpoint", "syncdir"} {
		target := filepath.Join(t.TempDir(), "out")
		disk := &faults{only: []string{op}, fail: 1, with: syscall.EIO}
		p, err := open(disk.opener(), target)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Forget(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err = (targetWriter{p.PartFile, target}).WriteAt(make([]byte, 1<<20), 0); err != nil {
				break
			}
		}
		wantKind(t, err, KindLocal, target)
		if p.Leave() {
			t.Error("it is kept")
		}
		wantNames(t, filepath.Dir(target))
	}
}

// TestSpaceErrorKinds checks that a full disk and a quota have one kind, and a limit of the
// file size has another.
func TestSpaceErrorKinds(t *testing.T) {
	for _, x := range []struct {
		cause error
		kind  Kind
	}{{syscall.ENOSPC, KindNoSpace}, {disk.ErrQuota, KindNoSpace}, {syscall.EFBIG, KindLocal}} {
		err := targetError("out", &SpaceError{Needed: 2, Free: 1, Err: x.cause})
		wantKind(t, err, x.kind, "2 more bytes are needed, 1 are free")
		if !errors.Is(err, x.cause) {
			t.Errorf("the cause of %v is lost", err)
		}
	}
}
