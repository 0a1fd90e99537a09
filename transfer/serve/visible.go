package serve

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
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

// newVisible returns a root in which the rules hide names.
func newVisible(root source.Root, rules *visibility) visibleDir {
	return visibleDir{root, rules, "", root.Caps().IsRemote}
}

// maxLinks bounds the symbolic links on the way to a file.
const maxLinks = 40

// hidden returns the error for a hidden name.
func hidden(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// A visibleDir is a directory without hidden names.
type visibleDir struct {
	source.Dir
	rules *visibility
	at    string // the path of the directory below the served one
	// isRemote is set for a root without links, in which each look at a name may be a request.
	isRemote bool
}

// Unwrap is for the metadata of names that passed the rules.
func (d visibleDir) Unwrap() source.Dir { return d.Dir }

func (d visibleDir) Open(ctx context.Context, name string) (source.Object, error) {
	if d.isRemote {
		return d.openRemote(ctx, name)
	}
	if _, err := d.resolve(ctx, "open", name, false, true); err != nil {
		return nil, err
	}
	f, err := d.Dir.Open(ctx, name)
	if errors.Is(err, disk.ErrNotAFile) {
		if _, err := d.Stat(ctx, name); err != nil { // a hidden directory is no directory, either
			return nil, err
		}
	}
	return f, err
}

// openRemote is Open for a remote root: it looks whether the name exists before it applies the
// rules, with one request.
func (d visibleDir) openRemote(ctx context.Context, name string) (source.Object, error) {
	f, err := d.Dir.Open(ctx, name)
	isDir := errors.Is(err, disk.ErrNotAFile)
	if err != nil && !isDir {
		return nil, err
	}
	if _, refused := d.resolve(ctx, "open", name, isDir, true); refused != nil {
		if f != nil {
			f.Close()
		}
		return nil, refused
	}
	return f, err
}

func (d visibleDir) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	info, err := d.Dir.Stat(ctx, name)
	if err == nil {
		_, err = d.resolve(ctx, "stat", name, info.IsDir(), true)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d visibleDir) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	info, err := d.Dir.Lstat(ctx, name)
	if err == nil {
		_, err = d.resolve(ctx, "lstat", name, info.IsDir(), false)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (d visibleDir) Sub(ctx context.Context, name string) (source.Dir, error) {
	return d.openDir(ctx, name, d.Dir.Sub)
}

func (d visibleDir) At(ctx context.Context, name string) (source.Dir, error) {
	return d.openDir(ctx, name, d.Dir.At)
}

func (d visibleDir) openDir(
	ctx context.Context, name string, open func(context.Context, string) (source.Dir, error),
) (source.Dir, error) {
	sub, err := open(ctx, name)
	if errors.Is(err, disk.ErrNotADirectory) {
		if _, err := d.resolve(ctx, "open", name, false, true); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	to, err := d.resolve(ctx, "open", name, true, true)
	if err != nil {
		sub.Close()
		return nil, err
	}
	return visibleDir{sub, d.rules, disk.JoinPath(d.at, to), d.isRemote}, nil
}

// resolve returns the path of what a name leads to, "" for this directory. No link leads around an
// exclusion. If the name, its target or a directory on the way is hidden, the error is that of a
// hidden name. A link in the last component is followed only if follow is set.
//
// The components are looked at one by one. A client may send long names, and those that do not
// exist must cost little. A remote root has no links, and the name exists.
func (d visibleDir) resolve(
	ctx context.Context, op, name string, isDir, follow bool,
) (string, error) {
	if name == "." {
		return "", nil
	}
	if d.rules.excluded == nil || d.isRemote {
		if d.rules.hides(disk.JoinPath(d.at, name), isDir) {
			return "", hidden(op, name)
		}
		return name, nil
	}
	w := walk{ctx: ctx, dir: d, op: op, name: name}
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
	ctx      context.Context
	dir      visibleDir
	op, name string
	at       string // the path, without links, to which the components so far lead
	links    int    // that were followed
}

// enter follows the last component of a prefix of the name.
func (w *walk) enter(prefix string, isDir, follow bool) error {
	d := w.dir
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
		info, err := d.Dir.Lstat(w.ctx, w.at)
		switch {
		case err != nil:
			return err
		case w.links > 0 && w.hidesSpelling(w.at, w.at, info.IsDir()):
			return hidden(w.op, w.name)
		case info.Mode()&fs.ModeSymlink == 0:
			continue
		}
		target, err := d.Dir.Readlink(w.ctx, w.at)
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
	d := w.dir
	if d.rules.folded == nil || !d.rules.folded(disk.JoinPath(d.at, shown), isDir) {
		return false
	}
	found, err := d.Dir.Lstat(w.ctx, at)
	if err != nil {
		return false // it is missing in any case
	}
	other, err := d.Dir.Lstat(w.ctx, disk.JoinPath(disk.Parent(at), disk.SwapCase(disk.Base(at))))
	return err == nil && os.SameFile(found, other)
}
