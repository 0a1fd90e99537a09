package serve

import (
	"context"
	"errors"
	"io"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"sync"
)

// This file checks trees against the disk. A version tells whether a file changed as reliably as
// the system allows. A program that stores through a mapping may change a file without a new
// version. A client then rejects right bytes, since they do not match the tree. Its report alone
// changes nothing: the server compares the bytes on its own disk with the tree, and drops the tree
// if they differ.

// maxRechecks bounds the parts of files that wait to be checked. Further reports are dropped: they
// are taken to mean the same files.
const maxRechecks = 64

// A part is a range of a file, which has whole chunk groups except at its end.
type part struct {
	path       string
	start, end int64 // bytes
}

// rechecks are the parts that clients rejected. A goroutine of the server checks them one by one,
// as long as there are any.
type rechecks struct {
	mu        sync.Mutex
	waiting   []part
	isRunning bool
}

// Recheck checks the bytes [start, end) of the file or batch that a descriptor names on this
// server's own disk, because a client rejected them. size is that of the whole content. It is the
// Recheck of a primary's kwik.ServerConfig, and does not block. If the bytes do not match the tree
// of the file, the tree is dropped, and the next request has the file hashed again.
func (s *Server) Recheck(descriptor []byte, size, start, end int64) {
	parts := partsOf(descriptor, size, start, end)
	r := &s.rechecks
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range parts {
		if len(r.waiting) < maxRechecks && wire.CheckPath(p.path) == nil {
			r.waiting = append(r.waiting, p)
		}
	}
	if len(r.waiting) > 0 && !r.isRunning {
		r.isRunning = true
		s.tasks.Go(s.recheckAll)
	}
}

// partsOf returns the parts of files that a range of a content consists of.
func partsOf(descriptor []byte, size, start, end int64) (parts []part) {
	b, isBatch := parseBatchDescriptor(descriptor)
	if !isBatch {
		d, err := parseDescriptor(descriptor)
		if err != nil {
			return nil
		}
		return []part{{d.path, start, min(end, d.size)}}
	}
	files, err := wire.ReadFiles(b.files, size)
	if err != nil {
		return nil
	}
	for _, f := range files {
		if from, to := max(start, f.Start), min(end, f.End()); from < to {
			parts = append(parts, part{disk.JoinPath(b.base, f.Path), from - f.Start, to - f.Start})
		}
	}
	return parts
}

// recheckAll checks what waits, until nothing does or the server is closed.
func (s *Server) recheckAll() {
	r := &s.rechecks
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 || s.ctx.Err() != nil {
			r.isRunning = false
			r.mu.Unlock()
			return
		}
		p := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.mu.Unlock()
		s.recheck(s.ctx, p, nil)
	}
}

// recheck reports whether a part of a file differs from a tree; nil means the tree that this server
// has of the present version. If it differs, the server drops its tree.
func (s *Server) recheck(ctx context.Context, p part, tree *integrity.Tree) (differs bool) {
	f, err := s.dir.Open(ctx, p.path)
	if err != nil {
		return false
	}
	defer f.Close()
	defer s.endReads(ctx, f)()
	info, err := f.Stat()
	if err != nil {
		return false
	}
	version := disk.VersionOf(info)
	if tree == nil {
		tree = s.index.treeOf(p.path, version)
	}
	if tree == nil || tree.Size() != version.Size {
		return false
	}
	isDifferent, err := differsFrom(tree, f, p.start, p.end)
	if errors.Is(err, disk.ErrChanged) {
		return false
	}
	if err != nil {
		s.log.Warn("file cannot be read", "path", p.path, "offset", p.start, "err", err)
		return false
	}
	if !isDifferent || checkVersion(f, version) != nil {
		return isDifferent
	}
	if s.index.forget(p.path, version, tree) {
		s.log.Warn("file differs from its hash tree, although its times are the same; it is hashed again",
			"path", p.path, "offset", p.start)
	}
	return true
}

// differsFrom reports whether the bytes [start, end) of a file do not match a tree. They are
// extended to whole chunk groups.
func differsFrom(tree *integrity.Tree, f io.ReaderAt, start, end int64) (bool, error) {
	group := tree.GroupSize().Bytes()
	start -= start % group
	end = min(end+(group-end%group)%group, tree.Size())
	for start < end {
		p := make([]byte, min(group, end-start))
		if _, err := f.ReadAt(p, start); err != nil && err != io.EOF {
			return false, err
		}
		if tree.Verify(start, p) != nil {
			return true, nil
		}
		start += int64(len(p))
	}
	return false, nil
}

// treeOf returns the tree that the index or its store has of a version of a file; nil if there is
// none.
func (x *index) treeOf(path string, version disk.Version) *integrity.Tree {
	if tree := x.entryOf(path, version).finishedTree(); tree != nil || x.store == nil {
		return tree
	}
	return x.store.get(path, version)
}

// forget drops a tree of a version of a file. It reports whether the index or its store had it.
func (x *index) forget(path string, version disk.Version, tree *integrity.Tree) (had bool) {
	x.mu.Lock()
	if e := x.files[keyOf(path, version)]; e != nil && e.state == entryFinished && e.tree != nil {
		if had = e.tree.Root() == tree.Root(); had {
			x.remove(e)
		}
	}
	x.mu.Unlock()
	if had {
		x.shared.distrust(path, version)
	}
	if x.store == nil {
		return had
	}
	if stored := x.store.get(path, version); stored != nil && stored.Root() == tree.Root() {
		x.store.forget(path, version)
		return true
	}
	return had
}

// isWhole reports whether n bytes from off on are whole chunk groups of a tree.
func isWhole(tree *integrity.Tree, off, n int64) bool {
	group, end := tree.GroupSize().Bytes(), off+n
	return off%group == 0 && (end%group == 0 || end == tree.Size())
}
