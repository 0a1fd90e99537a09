package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"kwikcp/internal/textfile"
	"kwikcp/transfer/disk"
)

const (
	// maxIndexPaths and maxIndexBytes bound the paths of an index, which are in memory.
	maxIndexPaths = 4 << 20
	maxIndexBytes = 512 << 20
	// indexInterval is how often an index is looked at for changes.
	indexInterval = time.Second
)

// An indexFile is a local file with the paths of all objects of a web server. It is read again when
// it has changed.
type indexFile struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex // guards the fields below
	looked  time.Time
	version disk.Version
	paths   []string // sorted
}

// refresh reads the index if it has changed. One that was replaced by a wrong one is logged once,
// and the old paths stay.
func (x *indexFile) refresh() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if now.Sub(x.looked) < indexInterval {
		return nil
	}
	x.looked = now
	info, err := os.Stat(x.path)
	if err == nil && disk.VersionOf(info) == x.version && x.paths != nil {
		return nil
	}
	var paths []string
	left := 0
	if err == nil {
		x.version = disk.VersionOf(info)
		paths, left, err = readIndexFile(x.path)
	}
	if err != nil {
		err = fmt.Errorf("index %q: %w", x.path, pathCause(err))
		if x.paths == nil {
			return err
		}
		x.log.Error("index cannot be read; the one before is used", "err", err)
		return nil
	}
	if left > 0 {
		x.log.Warn("lines of the index are left out, because no file system can hold their paths", "index", x.path,
			"count", left)
	}
	x.paths = paths
	return nil
}

// pathCause returns an error without the path, which the caller has in its own message.
func pathCause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

func readIndexFile(name string) (paths []string, left int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	return readIndex(f)
}

// readIndex reads the paths of an index, one a line, and returns them sorted. Empty lines and those
// that begin with # have none. left is how many lines have a path that no file system can hold.
func readIndex(r io.Reader) (paths []string, left int, err error) {
	paths = []string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 2*maxRemotePath)
	total := 0
	for number := 1; lines.Scan(); number++ {
		text := lines.Bytes()
		if number == 1 {
			if text, err = textfile.CutMark(text); err != nil {
				return nil, 0, err
			}
		}
		text = bytes.TrimSuffix(text, []byte("\r"))
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		path := strings.TrimPrefix(string(text), "./")
		if !isHoldablePath(path) {
			left++
			continue
		}
		paths = append(paths, path)
		if total += len(path); len(paths) > maxIndexPaths || total > maxIndexBytes {
			return nil, 0, fmt.Errorf("it has more than %d paths or %d bytes", maxIndexPaths, maxIndexBytes)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, 0, fmt.Errorf("a line is longer than %d bytes", 2*maxRemotePath)
	}
	slices.Sort(paths)
	return slices.Compact(paths), left, lines.Err()
}

// isHoldablePath reports whether a file system can hold a relative path.
func isHoldablePath(path string) bool {
	if len(path) > maxRemotePath {
		return false
	}
	for component := range strings.SplitSeq(path, "/") {
		if !isHoldable(component) {
			return false
		}
	}
	return true
}

// list yields the entries of a directory.
func (x *indexFile) list(dir string, yield func(objectInfo, error) bool) {
	if err := x.refresh(); err != nil {
		yield(objectInfo{}, err)
		return
	}
	x.mu.Lock()
	paths := x.paths
	x.mu.Unlock()
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	for at, _ := slices.BinarySearch(paths, prefix); at < len(paths); {
		rest, ok := strings.CutPrefix(paths[at], prefix)
		if !ok {
			return
		}
		name, _, isDir := strings.Cut(rest, "/")
		if !yield(objectInfo{name: name, isDir: isDir, size: unknownSize}, nil) {
			return
		}
		if at++; isDir { // skip what is below it: "0" is the character after "/"
			n, _ := slices.BinarySearch(paths[at:], prefix+name+"0")
			at += n
		}
	}
}
