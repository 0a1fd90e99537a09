package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// asStranger calls f with the rights of a user who owns nothing, if the test runs as root.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread() // the rights are those of the thread
	defer runtime.UnlockOSThread()
	syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
	defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	f()
}

// TestDirectoryThatCannotBeSearched opens a directory that may be read, but not searched. The error
// is about this user's rights. It does not ask for another attempt: that would end a whole listing.
func TestDirectoryThatCannotBeSearched(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "sub"), 0o744); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(filepath.Join(root, "sub"), 0o400); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(filepath.Join(root, "sub"), 0o700)
	}
	d, err := OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	asStranger(t, func() {
		sub, err := d.Sub("sub")
		if err == nil {
			sub.Close()
		}
		if !errors.Is(err, fs.ErrPermission) || ClassOf(err) != CauseAbsent {
			t.Errorf("opened with the error %v of class %d", err, ClassOf(err))
		}
	})
}
