package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// A followTest is a followed directory with a file "name" whose content is its directory's name.
type followTest struct {
	*testing.T
	parent, path string
	dir          *FollowedDir
	reports      []string
}

func newFollowTest(t *testing.T, link bool) *followTest {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("an open directory cannot be moved there")
	}
	f := &followTest{T: t, parent: t.TempDir()}
	f.path = filepath.Join(f.parent, "root")
	f.make("first")
	var err error
	if link {
		err = os.Symlink("first", f.path)
	} else {
		err = os.Rename(filepath.Join(f.parent, "first"), f.path)
	}
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string) (TreeDir, error) { return OpenTree(path, false) }
	f.dir, err = Follow(f.path, open, func(r FollowReport) {
		what := "back"
		switch {
		case r.Gone != nil:
			what = "gone"
		case r.Replaced:
			what = "replaced"
		}
		f.reports = append(f.reports, what)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.dir.Close() })
	f.want("first")
	return f
}

// make makes a directory beside the root.
func (f *followTest) make(name string) {
	f.Helper()
	dir := filepath.Join(f.parent, name)
	err := os.Mkdir(dir, 0o777)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o666)); err != nil {
		f.Fatal(err)
	}
}

func (f *followTest) rename(old, new string) {
	f.Helper()
	if err := os.Rename(filepath.Join(f.parent, old), filepath.Join(f.parent, new)); err != nil {
		f.Fatal(err)
	}
}

// want fails the test unless the file has a content.
func (f *followTest) want(content string) {
	f.Helper()
	file, err := f.dir.Open("name")
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(content))
	if _, err := file.ReadAt(got, 0); err != nil || string(got) != content {
		f.Errorf("%q, %v, want %q", got, err, content)
	}
}

// wantGone fails the test unless each operation fails as one of a system that failed: a name that
// cannot be looked up is not missing.
func (f *followTest) wantGone(want error) {
	f.Helper()
	_, openErr := f.dir.Open("name")
	_, statErr := f.dir.Stat("missing")
	_, atErr := f.dir.At(".")
	_, namesErr := f.dir.Names(100)
	for _, err := range []error{openErr, statErr, atErr, namesErr} {
		if !errors.Is(err, want) || ClassOf(err) != CauseFailed {
			f.Errorf("%v, class %v", err, ClassOf(err))
		}
	}
}

func (f *followTest) wantReports(want ...string) {
	f.Helper()
	if fmt.Sprint(f.reports) != fmt.Sprint(want) {
		f.Errorf("reports %q, want %q", f.reports, want)
	}
}

func TestFollowMovedDirectory(t *testing.T) {
	f := newFollowTest(t, false)
	f.rename("root", "elsewhere")
	f.dir.Check()
	f.wantGone(ErrRemoved)
	f.wantGone(ErrRemoved)
	f.wantReports("gone")
	f.rename("elsewhere", "root")
	f.want("first")
	f.wantReports("gone", "back")
	f.rename("root", "elsewhere")
	f.make("second")
	f.rename("second", "root")
	f.dir.Check()
	f.want("second")
	f.wantReports("gone", "back", "replaced")
	if _, err := f.dir.Stat("missing"); ClassOf(err) != CauseAbsent {
		t.Errorf("a missing name: %v", err)
	}
	os.WriteFile(filepath.Join(f.parent, "file"), nil, 0o666)
	f.rename("root", "gone")
	f.rename("file", "root")
	f.dir.Check()
	f.wantGone(ErrRemoved)
}

func TestFollowSwitchedLink(t *testing.T) {
	f := newFollowTest(t, true)
	f.make("second")
	if err := os.Symlink("second", filepath.Join(f.parent, "next")); err != nil {
		t.Fatal(err)
	}
	f.rename("next", "root")
	f.dir.Check()
	f.want("second")
	os.Remove(f.path)
	os.Symlink("nowhere", f.path)
	f.dir.Check()
	f.wantGone(ErrRemoved)
	os.Remove(f.path)
	os.Symlink("root", f.path) // to itself
	f.dir.Check()
	f.wantGone(ErrRemoved)
	os.Remove(f.path)
	os.Symlink("second", f.path)
	f.want("second")
	f.wantReports("replaced", "gone", "back")
}

// TestFollowUnreadableDirectory checks that a new directory that cannot be opened is no reason to
// call names missing.
func TestFollowUnreadableDirectory(t *testing.T) {
	f := newFollowTest(t, false)
	refused := fs.ErrPermission
	f.dir.open = func(string) (TreeDir, error) { return nil, &fs.PathError{Op: "open", Path: "root", Err: refused} }
	f.rename("root", "elsewhere")
	f.make("root")
	f.dir.Check()
	f.wantGone(refused)
	f.wantReports("gone")
}

// TestFollowRemovedDirectory checks that no name is missing because the directory was just removed.
func TestFollowRemovedDirectory(t *testing.T) {
	f := newFollowTest(t, false)
	if err := os.RemoveAll(f.path); err != nil {
		t.Fatal(err)
	}
	f.wantGone(ErrRemoved) // without Check
	f.make("second")
	f.rename("second", "root")
	f.want("second")
	os.RemoveAll(f.path)
	f.make("third")
	f.rename("third", "root")
	f.want("third") // found by the operation that found nothing
	f.wantReports("gone", "replaced", "replaced")
}

// TestFollowUnmountedDirectory switches the directory to an empty one of another file system, as a
// mount point is, and then fills it.
func TestFollowUnmountedDirectory(t *testing.T) {
	f := newFollowTest(t, true)
	other, err := os.MkdirTemp("/dev/shm", "kwikcp")
	if err != nil {
		t.Skip("there is no other file system:", err)
	}
	defer os.RemoveAll(other)
	here, _ := os.Stat(f.parent)
	there, _ := os.Stat(other)
	if DeviceOf(here) == DeviceOf(there) {
		t.Skip("there is no other file system")
	}
	for _, entries := range [][]string{nil, {"lost+found"}} {
		for _, name := range entries {
			os.Mkdir(filepath.Join(other, name), 0o700)
		}
		os.Remove(f.path)
		os.Symlink(other, f.path)
		f.dir.Check()
		f.wantGone(ErrUnmounted)
	}
	os.WriteFile(filepath.Join(other, "name"), []byte("mounted"), 0o666)
	f.want("mounted")
	f.wantReports("gone", "replaced")
}

// TestFollowedDirStaysOpen checks that what was opened before the directory was replaced can still
// be used, and that all is closed in the end.
func TestFollowedDirStaysOpen(t *testing.T) {
	f := newFollowTest(t, true)
	file, err := f.dir.Open("name")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sub, err := f.dir.At(".")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	f.make("second")
	os.Remove(f.path)
	os.Symlink("second", f.path)
	f.dir.Check()
	f.want("second")
	if _, err := file.ReadAt(make([]byte, 5), 0); err != nil {
		t.Error(err)
	}
	if _, err := sub.Stat("name"); err != nil {
		t.Error(err)
	}
	f.dir.Close()
	if _, err := f.dir.Stat("name"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
