package transfer

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A mirrorFile is one file of a mirror on its way.
//
// A file whose bytes come all at once, as those of small files do, is written under a name of this run alone, closed, and renamed with
// others (mirror_place.go): no descriptor stays open and no lock is needed. Any other is received in a part file like that of a Get to the same
// place: locked, with the same name, gone on with by the next Get or Mirror.
type mirrorFile struct {
	entry   Entry
	dir     *mirrorDir
	name    string      // in dir
	local   fs.FileInfo // the regular file in its place; nil for none
	resumes bool        // there may be a part file

	manifest Manifest
	tree     *integrity.Tree // nil after a refusal
	refusal  error
	start    int64 // in the stream of its batch

	mu      sync.Mutex
	state   fileState
	part    *partFile    // with an open, locked file; nil if there is none
	back    *writeback   // of a large part file
	had     rangeset.Set // proved and written
	uses    int          // of the open part file, under way
	temp    string       // what is to be renamed
	saved   disk.Version // of a part file that was closed meanwhile
	evicted bool
	spoiled bool // what was written to the part file may not be on disk, though it can be read
}

// A fileState is how far a file is.
type fileState int

const (
	fileWanted fileState = iota
	fileWhole            // all bytes are in the file to be renamed
	fileSame             // it is in place already
	fileLost             // failed, and said so
)

func manifestOf(m *transferpb.Manifest) Manifest {
	return Manifest{
		Size: int64(m.GetSize()), Root: integrity.Root(m.GetRoot()), Group: integrity.GroupSize(m.GetGroup()).Bytes(),
		MTime: time.Unix(0, m.GetMtimeNs()), Mode: m.GetMode() & 0o777,
	}
}

// freshName returns the name of a file that is written by this run and nobody else.
func (m *mirror) freshName(name string) string {
	sum := blake3.Sum256([]byte(name))
	return ".kwikcp-" + hex.EncodeToString(sum[:10]) + "-" + m.runID + ".new"
}

// here returns which ranges of the file need not be fetched.
func (f *mirrorFile) here() []rangeset.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != fileWanted {
		return []rangeset.Range{{Start: 0, End: f.tree.Size()}}
	}
	return f.had.Ranges()
}

func (f *mirrorFile) wants() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == fileWanted
}

// prepare finds out what of a file is here already.
func (m *mirror) prepare(ctx context.Context, f *mirrorFile, place *placer) {
	if ctx.Err() != nil {
		return
	}
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		if !m.DryRun {
			m.drop(f, LocalError("open its directory", cause(err)))
		}
		return
	}
	defer m.cache.Release(h)
	if same, err := m.isSame(ctx, h, f, place.syncs); err != nil {
		m.drop(f, LocalError("set its mode and time", cause(err)))
		return
	} else if same {
		if f.resumes && !m.DryRun {
			m.discard(h, f)
		}
		f.state = fileSame
		m.settle(f, FileReport{Path: f.entry.Path, Action: FileUpToDate, Type: EntryFile, Size: f.tree.Size(), Root: f.tree.Root()})
		return
	}
	if m.DryRun {
		return
	}
	if f.tree.Size() == 0 {
		m.writeWhole(h, f, nil, place)
		return
	}
	if f.resumes || m.Reuse && f.local != nil {
		if err := m.resume(ctx, h, f); err != nil && ctx.Err() == nil {
			m.drop(f, err)
			return
		}
		f.mu.Lock()
		whole := f.state == fileWanted && f.had.Total() == f.tree.Size()
		f.mu.Unlock()
		if whole {
			m.complete(h, f, place)
		}
	}
}

// isSame reports whether the file in place has the root already, and sees to its mode and time then.
func (m *mirror) isSame(ctx context.Context, h *disk.CachedDir, f *mirrorFile, syncs bool) (bool, error) {
	if f.local == nil || f.local.Size() != f.tree.Size() {
		return false, nil
	}
	p := &partFile{dir: h, name: f.name}
	file, info := p.standing()
	if file == nil {
		return false, nil
	}
	defer file.Close()
	same, err := matches(ctx, file, info.Size(), f.tree, nil)
	if err != nil || !same || disk.CheckVersion(file, disk.VersionOf(info)) != nil {
		return false, nil // an error is the end of ctx
	}
	if m.DryRun {
		return true, nil
	}
	if !m.NoPreserve {
		err = p.dress(file, info, f.manifest)
	}
	if err == nil && !syncs {
		err = p.settle(file)
	}
	return true, err
}

// discard removes a part file that nobody needs, unless another transfer holds it.
func (m *mirror) discard(h *disk.CachedDir, f *mirrorFile) {
	p := &partFile{dir: h, path: f.entry.Path, name: f.name, part: partName(f.name)}
	if p.open() == nil {
		h.Remove(p.part)
		p.file.Close()
	}
}

// resume takes what is right of a part file, and with Reuse of the file in place.
func (m *mirror) resume(ctx context.Context, h *disk.CachedDir, f *mirrorFile) error {
	f.mu.Lock()
	f.uses++ // so that it stays open
	err := m.openPart(h, f)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.uses--
	}()
	if err != nil {
		return err
	}
	if err := f.part.prove(ctx, f.tree, nil); err != nil {
		return err
	}
	if m.Reuse && f.local != nil {
		if old, _ := f.part.standing(); old != nil {
			defer old.Close()
			s := newSurveyor(remainder{old, rangeset.Of(f.part.ranges()...)}, min(f.local.Size(), f.tree.Size()), f.tree, nil)
			var mu sync.Mutex
			s.keep = func(group []byte, off int64) error {
				if _, err := f.part.file.WriteAt(group, off); err != nil {
					return f.part.wrap(err)
				}
				mu.Lock()
				defer mu.Unlock()
				f.part.had.Add(off, off+int64(len(group)))
				return nil
			}
			if err := s.run(ctx); err != nil {
				return err
			}
		}
	}
	f.had = rangeset.Of(f.part.ranges()...)
	return nil
}

// openPart opens and locks the part file of a file. Called with the file's lock held.
func (m *mirror) openPart(h *disk.CachedDir, f *mirrorFile) error {
	p := &partFile{dir: h, path: disk.JoinPath(m.Target, f.entry.Path), name: f.name, part: partName(f.name)}
	if err := p.open(); err != nil {
		return p.wrap(err)
	}
	f.part = p
	if f.tree.Size() >= checkpointStep {
		f.back = startWriteback(p.file.Checkpoint)
	}
	m.opened.add(m, f)
	return nil
}

// write takes proved bytes of a file.
func (m *mirror) write(f *mirrorFile, p []byte, off int64, place *placer) {
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		m.drop(f, LocalError("open its directory", cause(err)))
		return
	}
	defer m.cache.Release(h)
	f.mu.Lock()
	switch {
	case f.state != fileWanted:
		f.mu.Unlock()
		return
	case int64(len(p)) == f.tree.Size() && f.part == nil && !f.evicted:
		f.mu.Unlock()
		m.writeWhole(h, f, p, place) // nobody else has bytes of it
		return
	case f.part == nil:
		if err := m.reopen(h, f); err != nil {
			f.mu.Unlock()
			m.drop(f, err)
			return
		}
	}
	part, back := f.part, f.back
	f.uses++
	f.mu.Unlock()
	_, err = part.file.WriteAt(p, off)
	var unsafe error
	if back != nil && err == nil {
		unsafe = back.wrote(len(p))
	}
	f.mu.Lock()
	f.uses--
	whole := false
	switch {
	case unsafe != nil:
		f.spoiled, err = true, unsafe
	case err == nil:
		f.had.Add(off, off+int64(len(p)))
		whole = f.state == fileWanted && f.had.Total() == f.tree.Size()
	}
	leave := f.state == fileLost && f.uses == 0
	f.mu.Unlock()
	switch {
	case leave: // whoever gave it up left that to the last who writes
		f.leave(m)
	case err != nil:
		m.drop(f, LocalError("write it", cause(err)))
	case whole:
		m.complete(h, f, place)
	}
}

// reopen opens the part file of a file that has none open. Called with the file's lock held.
func (m *mirror) reopen(h *disk.CachedDir, f *mirrorFile) error {
	if err := m.openPart(h, f); err != nil {
		return err
	}
	info, err := f.part.file.Stat()
	if err == nil && f.evicted && disk.VersionOf(info) != f.saved {
		err = errTargetBusy // somebody else wrote to it
	} else if err == nil && !f.evicted && info.Size() > 0 {
		err = f.part.file.Truncate(0) // of an earlier transfer, come since the directory was read
	}
	f.evicted = false
	if err != nil {
		return f.part.wrap(err)
	}
	return nil
}

var errSpoiled = errors.New("what was written did not get to the disk")

// writeWhole writes a file of which all bytes are there.
func (m *mirror) writeWhole(h *disk.CachedDir, f *mirrorFile, p []byte, place *placer) {
	temp := m.freshName(f.name)
	file, err := h.Create(temp)
	if err != nil {
		m.drop(f, LocalError("write it", cause(err)))
		return
	}
	if len(p) > 0 {
		_, err = file.WriteAt(p, 0)
	}
	if err == nil {
		err = m.dress(h, file, temp, f)
	}
	if err == nil && !place.syncs {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		h.Remove(temp)
		m.drop(f, LocalError("write it", cause(err)))
		return
	}
	f.mu.Lock()
	f.state, f.temp = fileWhole, temp
	f.mu.Unlock()
	place.put(f)
}

// dress gives a file its final mode and time.
func (m *mirror) dress(h *disk.CachedDir, file disk.File, name string, f *mirrorFile) error {
	mode, mtime := fs.FileMode(f.manifest.Mode), f.manifest.MTime
	if m.NoPreserve {
		mode, mtime = 0o666, time.Now()
	}
	if err := file.Chmod(mode.Perm() &^ disk.Umask); err != nil {
		return err
	}
	return h.Chtimes(name, mtime)
}

// complete passes a part file on that has all its bytes. It stays open, and locked, until it is renamed.
func (m *mirror) complete(h *disk.CachedDir, f *mirrorFile, place *placer) {
	m.opened.remove(f)
	f.part.dir = h
	err := f.part.isPart(f.part.file) // what has its name now would get the time
	if f.back != nil && f.back.stop() != nil {
		f.spoiled = true
	}
	if err == nil && f.spoiled {
		err = errSpoiled
	}
	if err == nil {
		err = m.dress(h, f.part.file, f.part.part, f)
	}
	if err == nil && !place.syncs {
		err = f.part.file.Sync()
	}
	if err != nil {
		m.drop(f, LocalError("write it", cause(err)))
		return
	}
	f.mu.Lock()
	f.state, f.temp = fileWhole, f.part.part
	f.mu.Unlock()
	place.put(f)
}

// settle reports what became of a file, whose directory it needs no more.
func (m *mirror) settle(f *mirrorFile, report FileReport) {
	if report.Action == FileFetched || report.Action == FileUpToDate {
		m.live.placed()
	}
	m.reportFile(report)
	m.releaseDir(f.dir)
}

// drop gives up a file that failed. What is proved of it in a part file stays.
func (m *mirror) drop(f *mirrorFile, err error) {
	f.mu.Lock()
	lost, used := f.state == fileLost, f.uses > 0
	f.state = fileLost
	f.mu.Unlock()
	if lost {
		return
	}
	if !used {
		f.leave(m)
	}
	if _, ok := errors.AsType[*Error](err); !ok {
		err = LocalError("write it", cause(err))
	}
	m.settle(f, FileReport{Path: f.entry.Path, Action: FileFailed, Size: f.entry.Size, Err: err})
}

// abandon gives up files that did not fail: the mirror ends. What is proved of them in part files stays.
func (m *mirror) abandon(files []*mirrorFile) {
	for _, f := range files {
		f.mu.Lock()
		wanted := f.state == fileWanted
		f.state = fileLost
		f.mu.Unlock()
		if wanted {
			f.leave(m)
			m.releaseDir(f.dir)
		}
	}
}

// leave closes the part file of a file, and removes it if nothing in it is proved. Nobody may be writing to it.
func (f *mirrorFile) leave(m *mirror) {
	m.opened.remove(f)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.part == nil {
		return
	}
	if f.back != nil {
		f.spoiled = f.back.stop() != nil || f.spoiled
		f.back = nil
	}
	if f.spoiled {
		f.had = rangeset.Set{}
	}
	if h, err := m.cache.Acquire(f.dir.path); err == nil {
		f.part.dir = h
		f.part.file.Chmod(partMode)
		if f.had.Total() == 0 && f.part.isPart(f.part.file) == nil {
			h.Remove(f.part.part)
		}
		m.cache.Release(h)
	}
	f.part.file.Close()
	f.part, f.evicted, f.had, f.resumes = nil, false, rangeset.Set{}, f.had.Total() > 0
}

// wouldDo reports of a dry run what would become of a file.
func (m *mirror) wouldDo(f *mirrorFile) {
	if f.wants() {
		f.state = fileLost
		m.settle(f, FileReport{Path: f.entry.Path, Action: FileFetched, Size: f.tree.Size(), Root: f.tree.Root()})
	}
}

// openParts are the part files that are open. Beyond maxOpenParts, those that were opened first are closed until bytes come for them.
type openParts struct {
	mu    sync.Mutex
	files []*mirrorFile
}

const maxOpenParts = 128

// add notes a file whose part file was opened. The file's lock may be held.
func (o *openParts) add(m *mirror, f *mirrorFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := 0; i < len(o.files) && len(o.files) >= maxOpenParts; {
		if o.files[i].evict() {
			o.files = append(o.files[:i:i], o.files[i+1:]...)
		} else {
			i++
		}
	}
	o.files = append(o.files, f)
}

func (o *openParts) remove(f *mirrorFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, other := range o.files {
		if other == f {
			o.files = append(o.files[:i:i], o.files[i+1:]...)
			return
		}
	}
}

// evict closes a part file that nobody writes to at the moment, and reports whether it did.
func (f *mirrorFile) evict() bool {
	if !f.mu.TryLock() {
		return false
	}
	defer f.mu.Unlock()
	if f.part == nil || f.uses > 0 || f.state != fileWanted || f.had.Total() == f.tree.Size() {
		return false
	}
	if f.back != nil {
		f.spoiled = f.back.stop() != nil
		f.back = nil
	}
	info, err := f.part.file.Stat()
	if err != nil || f.spoiled {
		return false
	}
	f.saved, f.evicted = disk.VersionOf(info), true
	f.part.file.Close()
	f.part = nil
	return true
}
