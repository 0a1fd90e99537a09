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

const (
	// MaxPath bounds the path of a file on a server, in bytes.
	MaxPath = 4096
	// MaxTreePath bounds a path below a listed directory, in bytes.
	MaxTreePath = 32 << 10
	// MaxName bounds one component of a path, in bytes, as file systems do.
	MaxName = 255
)

// CheckPath returns an error unless p may be in a request or a descriptor (docs/PROTOCOL.md
// section 12). p must be slash-separated and relative, of at most MaxPath bytes. It must not have
// a NUL, or a component that is empty, "." or "..". Where the system's separator is not the slash,
// it must not have a backslash or a colon, or anything else that would lead elsewhere.
func CheckPath(p string) error { return checkPath(p, MaxPath, MaxPath) }

// CheckTreePath returns an error unless p may be the path of an entry below a directory
// (docs/PROTOCOL.md section 13). It has the rules of CheckPath, but for at most MaxTreePath bytes,
// and MaxName bytes in a component.
func CheckTreePath(p string) error { return checkPath(p, MaxTreePath, MaxName) }

func checkPath(p string, most, mostOfName int) error {
	switch {
	case p == "":
		return errors.New("it is empty")
	case len(p) > most:
		return fmt.Errorf("it is longer than %d bytes", most)
	case strings.ContainsRune(p, 0):
		return errors.New("it has a NUL byte")
	}
	for component := range strings.SplitSeq(p, "/") {
		switch {
		case component == "":
			return errors.New("it has an empty component")
		case component == "." || component == "..":
			return fmt.Errorf("it has the component %q", component)
		case len(component) > mostOfName:
			return fmt.Errorf("a name in it is longer than %d bytes", mostOfName)
		}
	}
	if os.PathSeparator == '/' {
		return nil
	}
	if strings.ContainsAny(p, `\:`) || !filepath.IsLocal(filepath.FromSlash(p)) {
		return errors.New("no file can have such a name on this system")
	}
	return nil
}

// CompareTree compares two paths in tree order, and returns a number as [cmp.Compare] does. In
// tree order a directory precedes its entries, and they precede whatever follows the directory.
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

// AppendPath appends path p to dst, encoded as the difference from the path before it.
func AppendPath(dst []byte, before, p string) []byte {
	shared := 0
	for shared < len(p) && shared < len(before) && p[shared] == before[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(p)-shared))
	return append(dst, p[shared:]...)
}

// A PathReader reads paths that [AppendPath] wrote.
type PathReader struct {
	Rest    []byte // not yet read
	Ordered bool   // whether paths must be distinct and in tree order
	last    string // the path that was read last; "" before the first
	read    int    // bytes of all paths
}

var errMalformed = errors.New("malformed paths")

// More reports whether there are bytes left to read.
func (r *PathReader) More() bool { return len(r.Rest) > 0 }

func (r *PathReader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 {
		return 0, errMalformed
	}
	r.Rest = r.Rest[n:]
	return v, nil
}

// Path reads the next path. It is an error if the path is not one that [CheckTreePath] accepts, or
// if it is out of order. All paths together have at most MaxBatchPaths bytes.
func (r *PathReader) Path() (string, error) {
	shared, err := r.uvarint()
	if err != nil {
		return "", err
	}
	n, err := r.uvarint()
	if err != nil {
		return "", err
	}
	isInside := shared <= uint64(len(r.last)) && n <= uint64(len(r.Rest))
	if !isInside || shared+n > MaxTreePath {
		return "", errMalformed
	}
	if r.read += int(shared + n); r.read > MaxBatchPaths {
		return "", errMalformed
	}
	path := r.last[:shared] + string(r.Rest[:n])
	if r.Ordered && CompareTree(r.last, path) >= 0 {
		return "", errMalformed
	}
	r.last, r.Rest = path, r.Rest[n:]
	return path, CheckTreePath(path)
}
