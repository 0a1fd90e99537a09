package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"
)

// ErrName is the error of a name that the file system cannot hold.
var ErrName = errors.New("the file system cannot hold the name")

// A NameError reports that a file system cannot hold a name. It is ErrName to errors.Is. It is not
// the system's error, which may be ENOENT and would mean that a file is missing.
type NameError struct {
	Name  string
	Cause error // the system's
}

func (e *NameError) Error() string {
	return fmt.Sprintf("this file system cannot hold the name %q (%v)", e.Name, e.Cause)
}

// Is reports whether target is ErrName.
func (e *NameError) Is(target error) bool { return target == ErrName }

// special are the bytes that the names of FAT, exFAT, NTFS and SMB cannot have, besides control
// characters.
const special = `<>:"\|?*`

// devices are the names that Windows keeps for devices, with any extension.
var devices = []string{"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$",
	"COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8", "COM9",
	"LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9"}

// isSpecial reports whether some file systems have no names with a byte.
func isSpecial(b byte) bool { return b < ' ' || b == 0x7f || strings.IndexByte(special, b) >= 0 }

// isOdd reports whether some file system cannot hold a name, or changes it.
func isOdd(name string) bool {
	base, _, _ := strings.Cut(name, ".")
	isDevice := slices.Contains(devices, strings.ToUpper(strings.TrimRight(base, " ")))
	isCut := strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ")
	hasSpecial := slices.ContainsFunc([]byte(name), isSpecial)
	return isDevice || isCut || hasSpecial || !utf8.ValidString(name)
}

// asNameError returns a NameError if err tells that a file system cannot hold a name. For that
// systems use ENOENT and EINVAL, too, which have other meanings for other names.
func asNameError(op, name string, err error) error {
	base := Base(name)
	isVague := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL)
	if errors.Is(err, syscall.EILSEQ) || isVague && isOdd(base) {
		return &fs.PathError{Op: op, Path: name, Err: &NameError{base, errnoOf(err)}}
	}
	return err
}

// errnoOf returns the system's error in err.
func errnoOf(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// errAltered is why Windows holds no odd names.
var errAltered = errors.New("on Windows it would get another name")

// checkName refuses the names that Windows changes without an error: "a." becomes "a", and "a:b" a
// stream of "a".
func checkName(op, name string) error {
	base := Base(name)
	if runtime.GOOS != "windows" || base == "." || !isOdd(base) {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: &NameError{base, errAltered}}
}

// oddities returns a short text with the oddities of a name. A file system that cannot hold the
// text cannot hold the name. Names of devices have none here.
func oddities(name string) string {
	var odd []byte
	isInvalid := false
	for i, r := range name {
		_, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1 && !isInvalid: // several of them may be a valid character
			isInvalid = true
			odd = append(odd, name[i])
		case isSpecial(name[i]) && !slices.Contains(odd, name[i]):
			odd = append(odd, name[i])
		}
	}
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		odd = append(odd, name[len(name)-1])
	}
	return string(odd)
}

// probeName returns a name that no other file has. It is that of a temporary file, with a suffix.
func probeName(suffix string) string {
	return ".kwikcp-probe-" + strings.ToLower(rand.Text()[:12]) + ".new" + suffix
}

// tryCreate creates a file with a name and removes it.
func tryCreate(d Dir, name string) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	f.Close()
	return d.Remove(name)
}

// checkHolds returns a NameError if the file system of a directory is known to hold no such name,
// which has oddities.
func checkHolds(d Dir, name string) error {
	odd := oddities(name)
	_, err := d.Lstat(name)
	switch {
	case errors.Is(err, ErrName):
		return err
	case !errors.Is(err, fs.ErrNotExist):
		return nil
	}
	err = tryCreate(d, probeName(odd))
	if !errors.Is(err, ErrName) {
		return nil
	}
	refusal, _ := errors.AsType[*NameError](err)
	return &fs.PathError{Op: "create", Path: name, Err: &NameError{name, refusal.Cause}}
}
