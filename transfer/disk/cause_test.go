package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestClassOf(t *testing.T) {
	type class = CauseClass
	for errno, want := range map[syscall.Errno]class{
		syscall.ENOENT: CauseAbsent, syscall.EACCES: CauseAbsent, syscall.EPERM: CauseAbsent,
		syscall.ENOTDIR: CauseAbsent, syscall.ELOOP: CauseAbsent, syscall.ENAMETOOLONG: CauseAbsent,
		syscall.EILSEQ: CauseAbsent, syscall.EISDIR: CauseAbsent, syscall.EINVAL: CauseAbsent,
		syscall.ENXIO: CauseAbsent,

		syscall.EMFILE: CauseBusy, syscall.ENFILE: CauseBusy, syscall.ENOMEM: CauseBusy, syscall.ENOBUFS: CauseBusy,
		syscall.EAGAIN: CauseBusy, syscall.EINTR: CauseBusy, syscall.EBUSY: CauseBusy, syscall.ETIMEDOUT: CauseBusy,
		syscall.ENOLCK: CauseBusy, syscall.ETXTBSY: CauseBusy, syscall.EUSERS: CauseBusy, syscall.EDEADLK: CauseBusy,

		syscall.EIO: CauseFailed, syscall.ESTALE: CauseFailed, syscall.ENODEV: CauseFailed,
		syscall.ENOTCONN:  CauseFailed,
		syscall.EOVERFLOW: CauseFailed, syscall.ENOSPC: CauseFailed, syscall.EDQUOT: CauseFailed,
		syscall.ECONNREFUSED: CauseFailed, syscall.EHOSTDOWN: CauseFailed, syscall.EREMOTE: CauseFailed,
		syscall.ENOSYS: CauseFailed, syscall.EROFS: CauseFailed, syscall.EFBIG: CauseFailed, syscall.EBADF: CauseFailed,
	} {
		for _, err := range []error{
			&fs.PathError{Op: "openat", Path: "x", Err: errno},
			fmt.Errorf("wrapped: %w", &fs.PathError{Op: "stat", Path: "x", Err: os.NewSyscallError("stat", errno)}),
		} {
			if got := ClassOf(err); got != want {
				t.Errorf("%v is of class %d, want %d", err, got, want)
			}
		}
	}
	read := func(errno syscall.Errno) error { return &fs.PathError{Op: "read", Path: "x", Err: errno} }
	for err, want := range map[error]class{
		read(syscall.EINVAL): CauseFailed, read(syscall.ENXIO): CauseFailed, read(syscall.EIO): CauseFailed,
		syscall.EMFILE: CauseBusy, syscall.EINVAL: CauseFailed, syscall.EIO: CauseFailed,
		fs.ErrNotExist: CauseAbsent, fs.ErrPermission: CauseAbsent, ErrNotADirectory: CauseAbsent,
		ErrReplaced: CauseBusy, fs.ErrClosed: CauseFailed, errors.New("of another kind"): CauseFailed,
		&fs.PathError{Op: "open", Path: "x", Err: errors.New("of another kind")}: CauseFailed,
	} {
		if got := ClassOf(err); got != want {
			t.Errorf("%v is of class %d, want %d", err, got, want)
		}
	}
}

// TestClassOfRootErrors checks names that os.Root refuses. Its error of a name that leads outside
// is known by its text alone.
func TestClassOfRootErrors(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		for link, target := range map[string]string{"out": "../x", "abs": "/etc/passwd", "loop": "loop"} {
			if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names := []string{"missing", "", "..", "../x", "out", "abs", "loop", "a\x00b", strings.Repeat("n", 300)}
	for _, name := range names {
		_, openErr := d.Open(name)
		_, atErr := d.At(name)
		_, statErr := d.Stat(name)
		for _, err := range []error{openErr, atErr, statErr} {
			if err == nil || ClassOf(err) != CauseAbsent {
				t.Errorf("%.20q: %v is of class %d, want %d", name, err, ClassOf(err), CauseAbsent)
			}
		}
	}
}
