package serve

import (
	"errors"
	"io/fs"
	"iter"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"os"
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
	// folded is excluded for the names in directories that ignore case; nil if there are none.
	folded func(path string, isDir bool) bool
}

// Exclude makes the server treat the entries as missing for which excluded returns true, and
// everything below such a directory. Paths are relative to the served directory. excluded must be
// safe for concurrent use. Exclude must be called before KeepTrees and Serve, at most once.
func (s *Server) Exclude(excluded func(path string, isDir bool) bool) { s.visible.excluded = excluded }

// ExcludeFolded gives the server the rules of Exclude in a form that ignores case. In a directory
// that ignores case another spelling of a name leads to the same file, and such names are excluded
// by these rules. ExcludeFolded is called like Exclude, and beside it.
func (s *Server) ExcludeFolded(folded func(path string, isDir bool) bool) { s.visible.folded = folded }

// hides reports whether a path, or a directory on the way to it, is hidden. Its time grows with the
// square of the path's length, so the path must exist or be without exclusions.
func (v *visibility) hides(path string, isDir bool) bool {
	for at := range prefixes(path) {
		if v.hidesEntry(at, isDir || len(at) < len(path)) {
			return true
		}
	}
	return false
}

// hidesEntry reports whether a path is hidden, whatever the directories on the way to it are.
func (v *visibility) hidesEntry(path string, isDir bool) bool {
	// Some file systems ignore the case of names.
	return wire.IsTemporary(strings.ToLower(disk.Base(path))) || v.excluded != nil && v.excluded(path, isDir)
}

// prefixes yields the paths of the directories on the way to a path, the outermost first, and then
// the path.
func prefixes(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for end := range len(path) + 1 {
			if isBoundary := end == len(path) || path[end] == '/'; isBoundary && !yield(path[:end]) {
				return
			}
		}
	}
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
	if err := d.refuse("open", name, false); err != nil {
		return nil, err
	}
	return d.Dir.Open(name)
}

func (d visibleDir) Stat(name string) (fs.FileInfo, error) {
	info, err := d.Dir.Stat(name)
	if err == nil {
		err = d.refuse("stat", name, info.IsDir())
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// refuse returns an error if a path is hidden, or if a directory on the way to it is missing.
func (d visibleDir) refuse(op, name string, isDir bool) error {
	for at := range prefixes(name) {
		isLast := len(at) == len(name)
		if d.rules.hidesEntry(at, isDir || !isLast) {
			return hidden(op, name)
		}
		if d.rules.excluded == nil || isLast {
			continue
		}
		if _, err := d.Dir.Lstat(at); err != nil {
			return err
		}
	}
	return nil
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
	if _, err := d.resolve("open", name, false, true); err != nil {
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
		_, err = d.resolve("stat", name, info.IsDir(), true)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d visibleTree) Lstat(name string) (fs.FileInfo, error) {
	info, err := d.TreeDir.Lstat(name)
	if err == nil {
		_, err = d.resolve("lstat", name, info.IsDir(), false)
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
		if _, err := d.resolve("open", name, false, true); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	to, err := d.resolve("open", name, true, true)
	if err != nil {
		sub.Close()
		return nil, err
	}
	return visibleTree{sub, d.rules, disk.JoinPath(d.at, to)}, nil
}

// resolve returns the path of what a name leads to, "" for this directory. No link leads around an
// exclusion. If the name, its target or a directory on the way is hidden, the error is that of a
// hidden name. A link in the last component is followed only if follow is set.
//
// The components are looked at one by one. A client may send long names, and those that do not
// exist must cost little.
func (d visibleTree) resolve(op, name string, isDir, follow bool) (string, error) {
	if name == "." {
		return "", nil
	}
	if d.rules.excluded == nil {
		if d.rules.hides(name, isDir) {
			return "", hidden(op, name)
		}
		return name, nil
	}
	w := walk{tree: d, op: op, name: name}
	for prefix := range prefixes(name) {
		isLast := len(prefix) == len(name)
		if err := w.enter(prefix, isDir || !isLast, follow || !isLast); err != nil {
			return "", err
		}
	}
	if w.links > 0 && d.rules.hides(disk.JoinPath(d.at, w.at), isDir) {
		return "", hidden(op, name)
	}
	return w.at, nil
}

// A walk follows a name to what it leads to.
type walk struct {
	tree     visibleTree
	op, name string
	at       string // the path, without links, to which the components so far lead
	links    int    // that were followed
}

// enter follows the last component of a prefix of the name.
func (w *walk) enter(prefix string, isDir, follow bool) error {
	d := w.tree
	if d.rules.hidesEntry(disk.JoinPath(d.at, prefix), isDir) ||
		w.hidesSpelling(prefix, disk.JoinPath(w.at, disk.Base(prefix)), isDir) {
		return hidden(w.op, w.name)
	}
	for rest := []string{disk.Base(prefix)}; len(rest) > 0; {
		component := rest[0]
		rest = rest[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			if w.at == "" {
				return hidden(w.op, w.name)
			}
			w.at = disk.Parent(w.at)
			continue
		}
		w.at = disk.JoinPath(w.at, component)
		if isEnd := len(rest) == 0; isEnd && !follow {
			return nil
		}
		info, err := d.TreeDir.Lstat(w.at)
		switch {
		case err != nil:
			return err
		case w.links > 0 && w.hidesSpelling(w.at, w.at, info.IsDir()):
			return hidden(w.op, w.name)
		case info.Mode()&fs.ModeSymlink == 0:
			continue
		}
		target, err := d.TreeDir.Readlink(w.at)
		if err != nil {
			return err
		}
		if w.links++; w.links > maxLinks || path.IsAbs(target) {
			return hidden(w.op, w.name)
		}
		w.at, rest = disk.Parent(w.at), append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// hidesSpelling reports whether a path that is not excluded itself is another spelling of one that
// is. at is the same path without links.
func (w *walk) hidesSpelling(shown, at string, isDir bool) bool {
	d := w.tree
	if d.rules.folded == nil || !d.rules.folded(disk.JoinPath(d.at, shown), isDir) {
		return false
	}
	found, err := d.TreeDir.Lstat(at)
	if err != nil {
		return false // it is missing in any case
	}
	other, err := d.TreeDir.Lstat(disk.JoinPath(disk.Parent(at), disk.SwapCase(disk.Base(at))))
	return err == nil && os.SameFile(found, other)
}
