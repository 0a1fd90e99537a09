package transfer

import (
	"errors"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/pattern"
	"kwikcp/transfer/internal/wire"
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
		if l.names(dir) {
			return true
		}
		if dir == "" {
			return false
		}
		dir = disk.Parent(dir)
	}
}

// names reports whether a list has a path itself.
func (l *PathList) names(path string) bool {
	if l == nil {
		return false
	}
	_, isNamed := l.selected[path]
	return isNamed
}

// isAbove reports whether a path is a directory above a path of the list.
func (l *PathList) isAbove(path string) bool {
	if l == nil {
		return false
	}
	_, isParent := l.parents[path]
	return isParent
}

// Wants reports whether an entry is selected, or is a directory above a selected one.
func (l *PathList) Wants(path string, isDir bool) bool {
	return l == nil || isDir && l.isAbove(path) || l.covers(path)
}

// Selects reports whether a mirror with a filter fetches an entry, if the server has it. The filter
// must include the entry and the directories between it and the path of the list that it is at or
// below. It does not matter for directories above that path.
func (l *PathList) Selects(f Filter, path string, isDir bool) bool {
	for at := path; f.Wants(at, isDir); isDir = true {
		if l.names(at) {
			return true
		}
		if at = disk.Parent(at); at == "" {
			return l == nil || l.names("")
		}
	}
	return false
}
