package transfer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// This file is about the paths of a tree: which are sound, in which order they come, and how many of them travel at once (docs/PROTOCOL.md
// section 13).

const (
	// maxTreePath bounds a path below a directory that is mirrored, in bytes.
	maxTreePath = 32 << 10
	// maxName bounds one component, in bytes, as file systems do.
	maxName = 255
)

// checkTreePath checks a path below a directory: relative, slash-separated, no component that is empty, "." or "..", no NUL. A backslash is
// a character like others, but on a system where it, or anything else in a name, could lead elsewhere.
func checkTreePath(p string) error {
	switch {
	case p == "":
		return errors.New("it is empty")
	case len(p) > maxTreePath:
		return fmt.Errorf("it is longer than %d bytes", maxTreePath)
	case strings.ContainsRune(p, 0):
		return errors.New("it has a NUL byte")
	}
	for component := range strings.SplitSeq(p, "/") {
		switch {
		case component == "":
			return errors.New("it has an empty component")
		case component == "." || component == "..":
			return fmt.Errorf("it has the component %q", component)
		case len(component) > maxName:
			return fmt.Errorf("a name in it is longer than %d bytes", maxName)
		}
	}
	if os.PathSeparator != '/' && (strings.ContainsAny(p, `\:`) || !filepath.IsLocal(filepath.FromSlash(p))) {
		return errors.New("no file can have such a name on this system")
	}
	return nil
}

// compareTree orders paths as a tree is walked: a directory before what is in it, and all of that before what comes after the directory.
func compareTree(a, b string) int {
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

// appendPath appends a path, of which only what differs from the path before it is written.
func appendPath(dst []byte, before, p string) []byte {
	shared := 0
	for shared < len(p) && shared < len(before) && p[shared] == before[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(p)-shared))
	return append(dst, p[shared:]...)
}

// A pathReader reads what appendPath and appendFile wrote.
type pathReader struct {
	rest []byte
	last string
	read int // bytes of all paths
}

var errPaths = errors.New("paths not understood")

func (r *pathReader) more() bool { return len(r.rest) > 0 }

func (r *pathReader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		return 0, errPaths
	}
	r.rest = r.rest[n:]
	return v, nil
}

// path reads a path, which has to be a sound one.
func (r *pathReader) path() (string, error) {
	shared, err := r.uvarint()
	if err != nil {
		return "", err
	}
	n, err := r.uvarint()
	if err != nil || shared > uint64(len(r.last)) || n > uint64(len(r.rest)) || shared+n > maxTreePath {
		return "", errPaths
	}
	if r.read += int(shared + n); r.read > maxPackPaths {
		return "", errPaths
	}
	r.last = r.last[:shared] + string(r.rest[:n])
	r.rest = r.rest[n:]
	return r.last, checkTreePath(r.last)
}

// rootPrefix is how much of a file's root is in the descriptor of a batch, in bytes: enough to tell versions apart by accident. What is
// received is proved against the whole root.
const rootPrefix = 8

// A packedFile is a file in the stream of a batch.
type packedFile struct {
	path  string // below the directory of the batch
	size  int64  // at least 1
	start int64  // in the stream
	mtime int64  // of the primary's file, nanoseconds since the Unix epoch
	root  [rootPrefix]byte
}

func (f packedFile) end() int64 { return f.start + f.size }

// appendFile appends a file of a descriptor. Of its time only the difference from the file before it is written.
func appendFile(dst []byte, before, f packedFile) []byte {
	dst = appendPath(dst, before.path, f.path)
	dst = binary.AppendUvarint(dst, uint64(f.size))
	dst = binary.AppendVarint(dst, f.mtime-before.mtime) // it may wrap around, and does so again when it is read
	return append(dst, f.root[:]...)
}

// readFiles reads the files of a descriptor, which have to fill a stream of size bytes.
func readFiles(raw []byte, size int64) ([]packedFile, error) {
	r := pathReader{rest: raw}
	var files []packedFile
	at, mtime := int64(0), int64(0)
	for r.more() {
		f := packedFile{start: at}
		var err error
		if f.path, err = r.path(); err != nil {
			return nil, err
		}
		n, err := r.uvarint()
		later, length := binary.Varint(r.rest)
		if err != nil || length <= 0 {
			return nil, errPaths
		}
		r.rest = r.rest[length:]
		mtime += later
		f.mtime = mtime
		if n == 0 || n > math.MaxInt64 || int64(n) > size-at || len(r.rest) < rootPrefix || len(files) >= maxPackFiles {
			return nil, errPaths
		}
		copy(f.root[:], r.rest)
		r.rest = r.rest[rootPrefix:]
		f.size = int64(n)
		at = f.end()
		files = append(files, f)
	}
	if at != size {
		return nil, errPaths
	}
	return files, nil
}
