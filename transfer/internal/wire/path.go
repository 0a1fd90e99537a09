package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// This file is about the paths of a tree: which are sound, in which order they come, and how many of them travel at once (docs/PROTOCOL.md
// section 13).

const (
	// MaxPath bounds the path of a file on a server, in bytes.
	MaxPath = 4096
	// MaxTreePath bounds a path below a directory that is mirrored, in bytes.
	MaxTreePath = 32 << 10
	// MaxName bounds one component, in bytes, as file systems do.
	MaxName = 255
)

// CheckPath checks a path as it travels in requests and descriptors (docs/PROTOCOL.md section 12): relative,
// slash-separated, no component that is empty, "." or "..", no NUL and no backslash, at most 4096 bytes.
func CheckPath(p string) error {
	switch {
	case p == "":
		return errors.New("it is empty")
	case len(p) > MaxPath:
		return fmt.Errorf("it is longer than %d bytes", MaxPath)
	case strings.ContainsRune(p, 0):
		return errors.New("it has a NUL byte")
	case strings.ContainsRune(p, '\\'):
		return errors.New("it has a backslash")
	}
	for component := range strings.SplitSeq(p, "/") {
		switch component {
		case "":
			return errors.New("it has an empty component")
		case ".", "..":
			return fmt.Errorf("it has the component %q", component)
		}
	}
	return nil
}

// CheckTreePath checks a path below a directory: relative, slash-separated, no component that is empty, "." or "..", no NUL. A backslash is
// a character like others, but on a system where it, or anything else in a name, could lead elsewhere.
func CheckTreePath(p string) error {
	switch {
	case p == "":
		return errors.New("it is empty")
	case len(p) > MaxTreePath:
		return fmt.Errorf("it is longer than %d bytes", MaxTreePath)
	case strings.ContainsRune(p, 0):
		return errors.New("it has a NUL byte")
	}
	for component := range strings.SplitSeq(p, "/") {
		switch {
		case component == "":
			return errors.New("it has an empty component")
		case component == "." || component == "..":
			return fmt.Errorf("it has the component %q", component)
		case len(component) > MaxName:
			return fmt.Errorf("a name in it is longer than %d bytes", MaxName)
		}
	}
	if os.PathSeparator != '/' && (strings.ContainsAny(p, `\:`) || !filepath.IsLocal(filepath.FromSlash(p))) {
		return errors.New("no file can have such a name on this system")
	}
	return nil
}

// CompareTree orders paths as a tree is walked: a directory before what is in it, and all of that before what comes after the directory.
func CompareTree(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		}
		return cmp.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}

// AppendPath appends a path, of which only what differs from the path before it is written.
func AppendPath(dst []byte, before, p string) []byte {
	shared := 0
	for shared < len(p) && shared < len(before) && p[shared] == before[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(p)-shared))
	return append(dst, p[shared:]...)
}

// A PathReader reads what AppendPath and AppendFile wrote.
type PathReader struct {
	Rest []byte
	last string
	read int // bytes of all paths
}

var errPaths = errors.New("paths not understood")

func (r *PathReader) More() bool { return len(r.Rest) > 0 }

func (r *PathReader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 {
		return 0, errPaths
	}
	r.Rest = r.Rest[n:]
	return v, nil
}

// path reads a path, which has to be a sound one.
func (r *PathReader) Path() (string, error) {
	shared, err := r.uvarint()
	if err != nil {
		return "", err
	}
	n, err := r.uvarint()
	if err != nil || shared > uint64(len(r.last)) || n > uint64(len(r.Rest)) || shared+n > MaxTreePath {
		return "", errPaths
	}
	if r.read += int(shared + n); r.read > MaxBatchPaths {
		return "", errPaths
	}
	r.last = r.last[:shared] + string(r.Rest[:n])
	r.Rest = r.Rest[n:]
	return r.last, CheckTreePath(r.last)
}
