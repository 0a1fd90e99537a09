package serve

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"path"
	"strings"
)

// This file decides which names of the served directory a server knows. Everything that the
// server opens, lists or hashes passes through it. A hidden name gives the error of a missing
// one.

// A visibility holds the rules of what is served.
type visibility struct {
	// excluded reports whether an entry is not served, whatever its directory is; nil excludes
	// nothing.
	excluded func(path string, isDir bool) bool
}

// Exclude makes the server treat the entries as missing for which excluded returns true, and
// everything below such a directory. Paths are relative to the served directory. excluded must be
// safe for concurrent use. Exclude must be called before KeepTrees and Serve, at most once.
func (s *Server) Exclude(excluded func(path string, isDir bool) bool) { s.visible.excluded = excluded }

// hides reports whether a path is hidden.
func (v *visibility) hides(path string, isDir bool) bool {
	for end := range len(path) + 1 {
		if isBoundary := end == len(path) || path[end] == '/'; !isBoundary {
			continue
		}
		at := path[:end]
		// Some file systems ignore the case of names.
		if wire.IsTemporary(strings.ToLower(disk.Base(at))) {
			return true
		}
		if v.excluded != nil && v.excluded(at, isDir || end < len(path)) {
			return true
		}
	}
	return false
}

// maxLinks bounds the symbolic links on the way to a file.
const maxLinks = 40

// hidden returns the error for a hidden name.
func hidden(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// newVisible returns a directory in which the rules hide names. The result is a TreeDir if dir is
// one.
func newVisible(dir disk.Dir, rules *visibility) disk.Dir {
	if tree, ok := dir.(disk.TreeDir); ok {
		return visibleTree{tree, rules, ""}
	}
	return visibleDir{dir, rules}
}

// A visibleDir is a Dir without hidden names. It only reads.
type visibleDir struct {
	disk.Dir
	rules *visibility
}

func (d visibleDir) Open(name string) (disk.File, error) {
	if d.rules.hides(name, false) {
		return nil, hidden("open", name)
	}
	return d.Dir.Open(name)
}

func (d visibleDir) Stat(name string) (fs.FileInfo, error) {
	info, err := d.Dir.Stat(name)
	if err == nil && d.rules.hides(name, info.IsDir()) {
		return nil, hidden("stat", name)
	}
	return info, err
}

// A visibleTree is a TreeDir without hidden names. It only reads.
type visibleTree struct {
	disk.TreeDir
	rules *visibility
	at    string // the path of the directory below the served one
}

// Unwrap is for the metadata of names that passed the rules.
func (d visibleTree) Unwrap() disk.TreeDir { return d.TreeDir }

func (d visibleTree) Open(name string) (disk.File, error) {
	if err := d.refuse("open", name, false, true); err != nil {
		return nil, err
	}
	f, err := d.TreeDir.Open(name)
	if errors.Is(err, disk.ErrNotAFile) {
		if _, err := d.Stat(name); err != nil { // a hidden directory is no directory, either
			return nil, err
		}
	}
	return f, err
}

func (d visibleTree) Stat(name string) (fs.FileInfo, error) {
	info, err := d.TreeDir.Stat(name)
	if err == nil {
		err = d.refuse("stat", name, info.IsDir(), true)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d visibleTree) Lstat(name string) (fs.FileInfo, error) {
	info, err := d.TreeDir.Lstat(name)
	if err == nil {
		err = d.refuse("lstat", name, info.IsDir(), false)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d visibleTree) Sub(name string) (disk.TreeDir, error) { return d.openDir(name, d.TreeDir.Sub) }
func (d visibleTree) At(name string) (disk.TreeDir, error)  { return d.openDir(name, d.TreeDir.At) }

func (d visibleTree) openDir(name string, open func(string) (disk.TreeDir, error)) (disk.TreeDir, error) {
	sub, err := open(name)
	if errors.Is(err, disk.ErrNotADirectory) {
		if err := d.refuse("open", name, false, true); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if err := d.refuse("open", name, true, true); err != nil {
		sub.Close()
		return nil, err
	}
	to, err := d.resolve(name, true)
	if err != nil {
		sub.Close()
		return nil, err
	}
	if to == "." {
		to = ""
	}
	return visibleTree{sub, d.rules, disk.JoinPath(d.at, to)}, nil
}

// refuse returns an error if a path or what it leads to is hidden. A link in the last component
// is followed only if follow is set.
func (d visibleTree) refuse(op, name string, isDir, follow bool) error {
	if name == "." {
		return nil
	}
	if d.rules.hides(disk.JoinPath(d.at, name), isDir) {
		return hidden(op, name)
	}
	to, err := d.resolve(name, follow)
	if err != nil {
		return err
	}
	if to != name && d.rules.hides(disk.JoinPath(d.at, to), isDir) {
		return hidden(op, name)
	}
	return nil
}

// resolve returns the path of what a name leads to. Exclusions hold there as well, so that no
// link leads around them.
func (d visibleTree) resolve(name string, follow bool) (string, error) {
	if d.rules.excluded == nil {
		return name, nil
	}
	rest, at, links := strings.Split(name, "/"), "", 0
	for len(rest) > 0 {
		component := rest[0]
		rest = rest[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return "", hidden("follow", name)
			}
			at = disk.Parent(at) // at has no links
			continue
		}
		at = disk.JoinPath(at, component)
		if isLast := len(rest) == 0; isLast && !follow {
			break
		}
		info, err := d.TreeDir.Lstat(at)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := d.TreeDir.Readlink(at)
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks || path.IsAbs(target) {
			return "", hidden("follow", name)
		}
		at, rest = disk.Parent(at), append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}
