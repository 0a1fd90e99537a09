package transfer

import (
	"context"
	"slices"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
)

// This file publishes a mirror at once (MirrorOptions.Stage). While the mirror runs, files that
// have all their bytes wait beside their places under temporary names, and links are only noted.
// After the listing has been followed to its end, all of them get their names. New entries
// precede those that replace others: an index, which usually replaces an older one, then never
// names a file that is not there. Between them directories take the place of files. Deletions
// follow, first those of directories in whose place files are to be (mirror_stage_dir.go).
//
// An entry that waits takes about 500 bytes of memory. If the mirror ends early, the files become
// part files again, and the next mirror goes on with them.

// A stage holds what waits. The placer adds files, one goroutine at a time, and the goroutine of
// the plan adds the rest.
type stage struct {
	files []stagedFile
	over  []stagedFile // in whose place there is a directory
	links []stagedLink // and devices, FIFOs and sockets
	dirs  []*mirrorDir // that replace other entries
}

type stagedFile struct {
	file     *mirrorFile
	report   FileReport
	replaces bool // there is an entry in its place
}

type stagedLink struct {
	dir      *mirrorDir
	entry    Entry
	mayExist bool
}

// stageFile lets a file wait, whose content is durable or is synced at the end.
func (m *mirror) stageFile(f *mirrorFile, report FileReport) error {
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer m.cache.Release(h)
	found, _, err := lookUp(h, f.name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	part := f.part
	f.mu.Unlock()
	if part != nil {
		temp := m.freshName(f.name)
		version := part.Version()
		if err := part.SetAside(temp); err != nil {
			return err
		}
		f.mu.Lock()
		f.part, f.temp, f.version = nil, temp, version
		f.mu.Unlock()
	}
	f.wait()
	s := stagedFile{f, report, found != occupantNone && !f.dir.isAside}
	if found == occupantDir {
		m.staged.over = append(m.staged.over, s)
	} else {
		m.staged.files = append(m.staged.files, s)
	}
	return nil
}

// wait makes a file wait for the end of the mirror.
func (f *mirrorFile) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isStaged = true
	f.freeTree()
}

// setInStream notes whether bytes of the batch of a file may arrive. As long as they may, its tree
// is needed. The sizes of the files of a batch lead to the file of a byte, and bytes may arrive
// twice.
func (f *mirrorFile) setInStream(may bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inStream = may
	f.freeTree()
}

// freeTree frees the tree of a file that only waits. Called with the file's lock held.
func (f *mirrorFile) freeTree() {
	if f.isStaged && !f.inStream {
		f.tree = nil
	}
}

// stageLink lets a link of the listing wait, or a device, FIFO or socket.
func (p *plan) stageLink(d *mirrorDir, e Entry, mayExist bool) {
	p.retainDir(d)
	p.staged.links = append(p.staged.links, stagedLink{d, e, mayExist})
}

// publish gives everything that waits its name. It goes on after errors of entries.
func (p *plan) publish(ctx context.Context) error {
	waiting := p.staged
	p.staged = stage{over: waiting.over}
	slices.SortFunc(waiting.files, func(a, b stagedFile) int {
		return wire.CompareTree(a.report.Path, b.report.Path)
	})
	for _, replaces := range []bool{false, true} {
		if replaces {
			for _, d := range waiting.dirs {
				p.publishDir(d)
			}
		}
		for _, s := range waiting.files {
			if s.replaces == replaces {
				p.publishFile(s)
			}
		}
		for _, l := range waiting.links {
			if isReplacing := l.mayExist && !l.dir.isAside; isReplacing != replaces {
				continue
			}
			if l.entry.Type == EntryLink {
				p.makePlannedLink(l.dir, l.entry, l.mayExist)
			} else {
				p.makePlannedSpecial(l.dir, l.entry, l.mayExist)
			}
			p.releaseDir(l.dir)
		}
	}
	return context.Cause(ctx)
}

func (m *mirror) publishFile(s stagedFile) {
	h, err := m.cache.Acquire(s.file.dir.path)
	if err == nil {
		err = m.putInPlace(h, s.file)
		m.cache.Release(h)
	}
	m.placed(s.file, s.report, err)
}

// unstage makes part files of the files that wait. None waits unless the mirror ended early.
func (m *mirror) unstage() {
	for _, s := range slices.Concat(m.staged.files, m.staged.over) {
		if h, err := m.cache.Acquire(s.file.dir.path); err == nil {
			if s.report.Size == 0 || m.placeOf(s.file).Keep(s.file.temp) != nil {
				h.Remove(s.file.temp) // it is fetched again
			}
			m.cache.Release(h)
		}
		s.file.group.settle(false, false, [32]byte{})
		m.releaseDir(s.file.dir)
	}
	for _, l := range m.staged.links {
		m.releaseDir(l.dir)
	}
	for _, d := range m.staged.dirs {
		m.unstageDir(d)
	}
	m.staged = stage{}
}

// putInPlace gives a temporary file its final name.
func (m *mirror) putInPlace(h *disk.CachedDir, f *mirrorFile) error {
	if m.Update { // the mirror has looked at its beginning, too
		if there, err := h.Lstat(f.name); err == nil && m.isNewerThan(there, f.manifest.MTime) {
			return ErrNewer
		}
	}
	if !f.dir.isAside {
		if err := m.backup.keep(h, f.entry.Path); err != nil {
			return err
		}
	}
	m.noteChange(f.dir)
	if f.part != nil {
		return f.part.Rename(false)
	}
	if err := partfile.CheckContent(h, f.temp, f.version); err != nil {
		return err
	}
	return h.Rename(f.temp, f.name)
}
