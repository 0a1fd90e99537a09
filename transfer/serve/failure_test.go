package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A sickTree is a tree in which operations fail. failing returns the error of an operation; nil for
// success. The operations are those of the interface, and fstat and read of a file.
type sickTree struct {
	disk.TreeDir
	failing func(op, name string) error
}

func (d sickTree) fail(op, name string) error {
	if err := d.failing(op, name); err != nil {
		return &fs.PathError{Op: op, Path: "/the/servers/own/path/" + name, Err: err}
	}
	return nil
}

func (d sickTree) Open(name string) (disk.File, error) {
	if err := d.fail("open", name); err != nil {
		return nil, err
	}
	f, err := d.TreeDir.Open(name)
	if err != nil {
		return nil, err
	}
	return sickFile{f, d, name}, nil
}

func (d sickTree) Stat(name string) (fs.FileInfo, error) {
	if err := d.fail("stat", name); err != nil {
		return nil, err
	}
	return d.TreeDir.Stat(name)
}

func (d sickTree) Lstat(name string) (fs.FileInfo, error) {
	if err := d.fail("lstat", name); err != nil {
		return nil, err
	}
	return d.TreeDir.Lstat(name)
}

func (d sickTree) Readlink(name string) (string, error) {
	if err := d.fail("readlink", name); err != nil {
		return "", err
	}
	return d.TreeDir.Readlink(name)
}

func (d sickTree) Names(limit int) ([]string, error) {
	if err := d.fail("names", "."); err != nil {
		return nil, err
	}
	return d.TreeDir.Names(limit)
}

func (d sickTree) Sub(name string) (disk.TreeDir, error) { return d.under("sub", name, d.TreeDir.Sub) }
func (d sickTree) At(name string) (disk.TreeDir, error)  { return d.under("at", name, d.TreeDir.At) }

func (d sickTree) under(op, name string, open func(string) (disk.TreeDir, error)) (disk.TreeDir, error) {
	if err := d.fail(op, name); err != nil {
		return nil, err
	}
	sub, err := open(name)
	if err != nil {
		return nil, err
	}
	return sickTree{sub, d.failing}, nil
}

type sickFile struct {
	disk.File
	dir  sickTree
	name string
}

func (f sickFile) Stat() (fs.FileInfo, error) {
	if err := f.dir.fail("fstat", f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f sickFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.dir.fail("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// absentErrnos are the errors of a name by which a client must not learn whether it is missing,
// forbidden or outside the directory.
var absentErrnos = []syscall.Errno{
	syscall.ENOENT, syscall.EACCES, syscall.EPERM, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EILSEQ,
	syscall.EISDIR, syscall.EINVAL, syscall.ENXIO, syscall.EOPNOTSUPP,
}

// faultErrnos returns all errors of the system that are not about a name.
func faultErrnos() (errnos []syscall.Errno) {
	for errno := syscall.Errno(1); errno < 134; errno++ {
		isKnown := !strings.HasPrefix(errno.Error(), "errno ")
		if isKnown && !slices.Contains(absentErrnos, errno) {
			errnos = append(errnos, errno)
		}
	}
	return errnos
}

// encoded returns a request as it is sent.
func encoded(r *transferpb.Request) []byte {
	r.Version = wire.ProtocolVersion
	var b bytes.Buffer
	wire.WriteMessage(&b, r)
	return b.Bytes()
}

// failuresOf returns the codes and the messages of all failures in a response: of the whole, of
// files and of entries.
func failuresOf(replies []*transferpb.Reply) (codes []transferpb.Failure_Code, messages string) {
	for _, r := range replies {
		for _, f := range []*transferpb.Failure{r.GetFailure(), r.GetBatchFile().GetFailure()} {
			if f != nil {
				codes = append(codes, f.GetCode())
				messages += f.GetMessage() + "\n"
			}
		}
		for _, e := range r.GetListing().GetEntries() {
			if e.GetError() != "" {
				codes = append(codes, e.GetCode())
				messages += e.GetError() + "\n"
			}
		}
	}
	return codes, messages
}

// sickTreeOf returns a tree with a small file, a large one, a link and a directory. *failing is
// what fails.
func sickTreeOf(t *testing.T) (tree disk.TreeDir, failing *func(op, name string) error) {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	transfertest.Put(t, filepath.Join(root, "dir", "inner"), "content")
	transfertest.Put(t, filepath.Join(root, "file"), strings.Repeat("x", 100_000))
	transfertest.Put(t, filepath.Join(root, "large"), strings.Repeat("x", tinyFile+1))
	if err := os.Symlink("file", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	d, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	none := func(op, name string) error { return nil }
	failing = &none
	return sickTree{d, func(op, name string) error { return (*failing)(op, name) }}, failing
}

// TestFaultsAreNotMissingFiles checks every error of the system in every operation of every
// request. A file that the server could not open or read is never called missing. The server's
// log has the cause, and the client does not see the server's paths.
func TestFaultsAreNotMissingFiles(t *testing.T) {
	tree, failing := sickTreeOf(t)
	batch := func(path string) *transferpb.Request {
		return &transferpb.Request{Batch: &transferpb.BatchRequest{Paths: wire.AppendPath(nil, "", path)}}
	}
	list := &transferpb.Request{List: &transferpb.ListRequest{}}
	for _, c := range []struct {
		op, name string
		request  *transferpb.Request
	}{
		{"open", "file", &transferpb.Request{Path: []byte("file")}},
		{"fstat", "file", &transferpb.Request{Path: []byte("file")}},
		{"read", "file", &transferpb.Request{Path: []byte("file")}},
		{"read", "file", &transferpb.Request{Path: []byte("file"), Range: &transferpb.ByteRange{End: 10}}},
		{"open", "large", batch("large")}, {"fstat", "large", batch("large")}, {"read", "large", batch("large")},
		{"open", "file", batch("file")}, {"read", "file", batch("file")},
		{"at", ".", list}, {"names", ".", list}, {"lstat", "file", list}, {"readlink", "link", list},
		{"sub", "dir", list},
		{"open", "file", &transferpb.Request{Path: []byte("file"), List: &transferpb.ListRequest{}}},
	} {
		t.Run(fmt.Sprintf("%s %s %.20v", c.op, c.name, c.request), func(t *testing.T) {
			transfertest.OnNet(t, func(w *transfertest.Net) {
				serveOn(w, tree)
				session := w.Dial()
				defer session.CloseWithError(0, "")
				for _, errno := range append(faultErrnos(), absentErrnos...) {
					*failing = func(op, name string) error {
						if op == c.op && name == c.name {
							return errno
						}
						return nil
					}
					time.Sleep(time.Second) // the lines of a client are limited
					w.Log.Reset()
					replies, err := w.Ask(session, encoded(c.request), true)
					codes, text := failuresOf(replies)
					isRemoved := errno == syscall.ENOENT && (c.op == "lstat" || c.op == "readlink")
					if isRemoved && len(codes) == 0 {
						continue // the entry was removed while it was listed
					}
					if err != nil || len(codes) == 0 {
						w.T.Errorf("%v: no failure in %v, %v", errno, replies, err)
						continue
					}
					if strings.Contains(text, "/the/servers") {
						w.T.Errorf("%v: the client is told %q", errno, text)
					}
					isAbsent := slices.Contains(absentErrnos, errno)
					isNotFound := slices.Contains(codes, transferpb.Failure_NOT_FOUND)
					if isNotFound && !isAbsent {
						w.T.Errorf("%v is called a missing file: %v", errno, codes)
					}
					isName := errors.Is(errno, fs.ErrNotExist) || errors.Is(errno, fs.ErrPermission)
					if isName && c.op != "read" && !isNotFound {
						w.T.Errorf("%v is not called a missing file: %v", errno, codes)
					}
					if !isAbsent && !strings.Contains(w.Log.String(), errno.Error()) {
						w.T.Errorf("%v is not in the log: %s", errno, w.Log.String())
					}
				}
				*failing = func(op, name string) error { return nil }
			})
		})
	}
}

// TestFaultsAreNotMissingCopies is the same for the content of a stream. A secondary whose disk
// failed does not call its copy another version.
func TestFaultsAreNotMissingCopies(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 100_000)
	tree, failing := sickTreeOf(t)
	info, err := tree.Stat("file")
	if err != nil {
		t.Fatal(err)
	}
	var files []byte
	files = wire.AppendFile(files, wire.BatchFile{}, wire.BatchFile{
		Path: "file", Size: int64(len(content)), MTime: info.ModTime().UnixNano(),
	})
	d, err := proto.Marshal(&transferpb.FileDescriptor{Batch: &transferpb.BatchDescriptor{Files: files}})
	if err != nil {
		t.Fatal(err)
	}
	batch := kwik.ContentRequest{Descriptor: d, Size: int64(len(content))}
	single := wantedAt("file", content, info.ModTime())
	read := func(c kwik.Content, err error) error {
		if err != nil {
			return err
		}
		defer c.Close()
		if p, ok := c.(kwik.PartialContent); ok && len(p.Missing()) > 0 {
			return p.Missing()[0].Err
		}
		_, err = c.ReadAt(make([]byte, len(content)), 0)
		return err
	}
	for _, c := range []struct {
		op      string
		request kwik.ContentRequest
	}{
		{"open", single}, {"fstat", single}, {"read", single},
		{"stat", batch}, {"open", batch}, {"read", batch}, {"fstat", batch},
	} {
		t.Run(fmt.Sprintf("%s %.10x", c.op, c.request.Descriptor), func(t *testing.T) {
			var log bytes.Buffer
			for _, errno := range faultErrnos() {
				s := NewServer(source.Local(tree), slog.New(slog.NewTextHandler(&log, nil)))
				log.Reset()
				*failing = func(op, name string) error {
					if op == c.op {
						return errno
					}
					return nil
				}
				err := read(s.OpenContent(t.Context(), c.request))
				s.Close()
				*failing = func(op, name string) error { return nil }
				if err == nil || errors.Is(err, errNoContent) || errors.Is(err, kwik.ErrContentChanged) {
					t.Errorf("%v: %v", errno, err)
					continue
				}
				isBusy := disk.ClassOf(errno) == disk.CauseBusy
				if want := "the server failed"; !isBusy && !strings.Contains(err.Error(), want) {
					t.Errorf("%v: %v, want %q", errno, err, want)
				}
				if isBusy != errors.Is(err, kwik.ErrServerBusy) || strings.Contains(err.Error(), "/the/servers") {
					t.Errorf("%v: %v", errno, err)
				}
				if !strings.Contains(log.String(), errno.Error()) {
					t.Errorf("%v is not in the log: %s", errno, log.String())
				}
			}
		})
	}
}

// TestBusyServerRecovers checks that a file which could not be hashed for want of descriptors is
// hashed when it is requested again.
func TestBusyServerRecovers(t *testing.T) {
	tree, failing := sickTreeOf(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, tree)
		session := w.Dial()
		defer session.CloseWithError(0, "")
		*failing = func(op, name string) error { return syscall.EMFILE }
		replies, err := w.Ask(session, transfertest.Request(1, "file"), true)
		if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BUSY {
			w.T.Errorf("without descriptors: %v", f)
		}
		*failing = func(op, name string) error { return nil }
		time.Sleep(time.Second)
		replies, err = w.Ask(session, transfertest.Request(1, "file"), true)
		if codes, _ := failuresOf(replies); err != nil || len(codes) > 0 {
			w.T.Errorf("with descriptors: %v, %v", replies, err)
		}
	})
}

// TestNoListing checks that a client learns that a web server lists no files. It is an error of the
// operator's to see, and no missing file.
func TestNoListing(t *testing.T) {
	err := &fs.PathError{Op: "list", Path: "/the/servers/own/path", Err: source.ErrNoListing}
	failure := failureOf(err)
	l := &lister{}
	entry := &transferpb.Entry{Path: []byte("d")}
	l.setError(entry, err)
	if failure.GetMessage() != messageNoListing || entry.GetError() != messageNoListing {
		t.Errorf("%q, %q", failure.GetMessage(), entry.GetError())
	}
	if failure.GetCode() != transferpb.Failure_OTHER || entry.GetCode() != failure.GetCode() || l.faults.count != 1 {
		t.Errorf("%v, %v, %d faults", failure.GetCode(), entry.GetCode(), l.faults.count)
	}
}
