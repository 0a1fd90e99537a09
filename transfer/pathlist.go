package transfer

import (
	"errors"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/pattern"
	"kwikcp/transfer/internal/wire"
	"slices"
	"strings"
)

// A PathList selects entries of a tree by their paths: these entries and everything below them. The
// directories above them are made, but nothing else in those. It is immutable. A nil list selects
// everything.
type PathList struct {
	selected map[string]struct{} // the empty path is the whole tree
	parents  map[string]struct{} // the directories above the selected entries
}

// ParsePathList parses a file of paths, one a line, as rsync does with --files-from. Paths are
// relative to the top of the tree. Slashes at their ends are ignored, and ".." leads no higher than
// the top. Lines are those of Filter.AddFile. Errors name the line and the column.
func ParsePathList(file []byte, nul bool) (*PathList, error) {
	l := &PathList{selected: make(map[string]struct{}), parents: make(map[string]struct{})}
	file, err := pattern.CutMark(file, nul)
	if err != nil {
		return nil, err
	}
	for number, line := range pattern.Lines(file, nul) {
		path, column, err := cleanPath(line)
		if err != nil {
			return nil, &pattern.Error{Line: number, Column: column, Message: err.Error()}
		}
		l.selected[path] = struct{}{}
		for path != "" {
			path = disk.Parent(path)
			if _, known := l.parents[path]; known {
				break
			}
			l.parents[path] = struct{}{}
		}
	}
	return l, nil
}

// cleanPath resolves the components "." and ".." of a path. column is the place of an error.
func cleanPath(line string) (path string, column int, err error) {
	if i := strings.IndexByte(line, 0); i >= 0 {
		return "", i + 1, errors.New("a NUL byte, which no name has")
	}
	var components []string
	at := 0
	for component := range strings.SplitSeq(line, "/") {
		switch component {
		case "":
		case ".":
			// To rsync, DEST has only the part of the path behind it.
			if followed := strings.Trim(line[at+1:], "/") != ""; followed && len(components) > 0 {
				return "", at + 1, errors.New(`the component "." inside of a path is not supported`)
			}
		case "..":
			components = components[:max(len(components)-1, 0)]
		default:
			components = append(components, component)
		}
		at += len(component) + 1
	}
	path = strings.Join(components, "/")
	if path != "" {
		if err := wire.CheckTreePath(path); err != nil {
			return "", 1, fmt.Errorf("no entry has this path: %w", err)
		}
	}
	return path, 0, nil
}

// covers reports whether a list selects everything below a directory.
func (l *PathList) covers(dir string) bool {
	if l == nil {
		return true
	}
	for {
		if _, selected := l.selected[dir]; selected {
			return true
		}
		if dir == "" {
			return false
		}
		dir = disk.Parent(dir)
	}
}

// Wants reports whether an entry is selected, or is a directory above a selected one.
func (l *PathList) Wants(path string, isDir bool) bool {
	if l == nil {
		return true
	}
	_, isParent := l.parents[path]
	return isParent && isDir || l.covers(path)
}

// A pathsSeen compares a listing with a PathList. It is used by one goroutine.
type pathsSeen struct {
	list    *PathList
	seen    map[string]struct{} // the selected paths that were listed
	leftOut map[string]struct{} // directories of the listing whose entries are ignored
}

func newPathsSeen(list *PathList) pathsSeen {
	return pathsSeen{list, make(map[string]struct{}), make(map[string]struct{})}
}

// visit notes an entry of the listing, and reports whether the list wants it.
func (s pathsSeen) visit(path string, isDir bool) bool {
	if s.list == nil {
		return true
	}
	if _, selected := s.list.selected[path]; selected {
		s.seen[path] = struct{}{}
	}
	return s.list.Wants(path, isDir)
}

// leaveOut notes an entry that the mirror does not enter, if it is a directory above a selected
// path. The filter excludes it, or the reason was reported.
func (s pathsSeen) leaveOut(path string, isDir bool) {
	if s.list == nil || !isDir {
		return
	}
	if _, isParent := s.list.parents[path]; isParent {
		s.leftOut[path] = struct{}{}
	}
}

// missing returns the selected paths that a complete listing does not have, sorted. Those below a
// directory that was left out are none of them.
func (s pathsSeen) missing() (paths []string) {
	if s.list == nil {
		return nil
	}
	for path := range s.list.selected {
		_, found := s.seen[path]
		for at := path; at != "" && !found; {
			at = disk.Parent(at)
			_, found = s.leftOut[at]
		}
		if path != "" && !found {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}
