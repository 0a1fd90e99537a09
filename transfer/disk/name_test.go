package disk

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestOddNames checks which names some file systems cannot hold, and that the probe of each has the
// same oddities.
func TestOddNames(t *testing.T) {
	for name, probe := range map[string]string{
		"plain": "", "a.b": "", "\u00e4": "", ".hidden": "", "console": "", "COM10": "", "a b": "", "\ufffd": "",
		"a:b": ":", "a?b?*": "?*", "dot.": ".", "space ": " ", `back\slash`: `\`, "ctl\x01": "\x01", "bad\xff": "\xff",
		"q?.": "?.", "CON": "", "con.txt": "", "Lpt1.a.b": "", "nul .x": "", "\x7f": "\x7f",
	} {
		isDevice := slices.Contains([]string{"CON", "con.txt", "Lpt1.a.b", "nul .x"}, name)
		if want := probe != "" || isDevice; isOdd(name) != want {
			t.Errorf("%q is odd: %t", name, !want)
		}
		if got := oddities(name); got != probe {
			t.Errorf("%q has the oddities %q", name, got)
		}
	}
}

func FuzzOddNames(f *testing.F) {
	f.Add("a:b. ")
	f.Add("\xff\ufffd\x00")
	f.Fuzz(func(t *testing.T, name string) {
		odd := oddities(name)
		isMade := odd != "" && (!isOdd(name) || !isOdd("x"+odd))
		if isMade || len(odd) > 256+1 {
			t.Errorf("%q has the oddities %q", name, odd)
		}
	})
}

func TestNameErrors(t *testing.T) {
	for _, x := range []struct {
		name    string
		err     error
		isAbout bool
	}{
		{"a:b", syscall.ENOENT, true}, {"d/a:b", syscall.EINVAL, true}, {"plain", syscall.EILSEQ, true},
		{"plain", syscall.ENOENT, false}, {"plain", syscall.EINVAL, false}, {"a:b/plain", syscall.ENOENT, false},
		{"a:b", syscall.EIO, false}, {"a:b", syscall.EEXIST, false}, {"a:b", syscall.ENOSPC, false},
		{"a:b", syscall.EACCES, false}, {"a:b", syscall.EXDEV, false},
	} {
		err := asNameError("create", x.name, &fs.PathError{Op: "openat", Path: x.name, Err: x.err})
		if errors.Is(err, ErrName) != x.isAbout || errors.Is(err, x.err) == x.isAbout {
			t.Errorf("%q: %v is %v", x.name, x.err, err)
		}
	}
}

// A pickyDir holds no name that has an oddity.
type pickyDir struct {
	Dir
	err error
}

func (d pickyDir) Create(name string) (File, error) {
	if isOdd(name) {
		return nil, asNameError("create", name, &fs.PathError{Op: "openat", Path: name, Err: d.err})
	}
	return d.Dir.Create(name)
}

func (d pickyDir) checkReplaceable(string) error { return nil }
func (d pickyDir) mayCreate() error              { return syscall.EACCES }
func (d pickyDir) holdsAnyName() bool            { return false }

// TestNamesThatCannotBeHeld checks that such a name is known before a file is written, and that
// nothing is left of the look. A file system that is wrongly told to be read-only is used.
func TestNamesThatCannotBeHeld(t *testing.T) {
	for _, errno := range []error{syscall.ENOENT, syscall.EINVAL, syscall.EILSEQ, nil} {
		system, err := OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var d Dir = pickyDir{system, errno}
		if errno == nil {
			d = system // it holds all names
		}
		for _, name := range []string{"a:b", "dot.", "space ", "bad\xff", "plain", "\u00e4"} {
			err := CheckReplaceable(d, name)
			if isRefused := errors.Is(err, ErrName); isRefused != (errno != nil && isOdd(name)) {
				t.Errorf("%v: %q: %v", errno, name, err)
			}
			if err != nil && !strings.Contains(err.Error(), "cannot hold the name") {
				t.Error(err)
			}
		}
		if err := CheckWritable(d); err != nil {
			t.Error(err)
		}
		if names, _ := system.(TreeDir).Names(10); len(names) > 0 {
			t.Errorf("%v is left", names)
		}
	}
}
