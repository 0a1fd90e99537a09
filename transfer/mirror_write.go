package transfer

import (
	"errors"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// This file is how the bytes of a file of a mirror are written, until the file is complete.

// write takes verified bytes of a file. It is safe for concurrent use.
func (m *mirror) write(f *mirrorFile, p []byte, off int64, place *placer) {
	isAll := int64(len(p)) == f.tree.Size()
	part, wanted, err := m.partFor(f, isAll)
	switch {
	case err != nil:
		m.drop(f, err)
	case !wanted:
	case part == nil:
		m.writeWhole(f, p, place) // no other goroutine has bytes of it
	default:
		m.writePart(f, part, p, off, place)
	}
}

// partFor returns the part file that takes bytes of a file. It opens one unless the bytes are
// all of the file and there is none. wanted is false if the file has been given up, or is in
// place.
func (m *mirror) partFor(f *mirrorFile, isAll bool) (part *partfile.PartFile, wanted bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state != fileWanted:
		return nil, false, nil
	case f.part == nil && !isAll:
		err = m.startPart(f)
	}
	return f.part, true, err
}

// startPart opens the part file of a file of which nothing was here. A part file that another
// transfer left since the directory was read is emptied. Called with the file's lock held.
func (m *mirror) startPart(f *mirrorFile) error {
	if err := m.openPart(f); err != nil {
		return err
	}
	if err := f.part.Restart(f.tree); err != nil {
		f.part.Discard()
		return targetError(m.pathOf(f), err)
	}
	return nil
}

// writePart writes bytes to the part file of a file, and puts the file in place if they were
// the last ones.
func (m *mirror) writePart(f *mirrorFile, part *partfile.PartFile, p []byte, off int64, place *placer) {
	if _, err := part.WriteAt(p, off); err != nil {
		m.drop(f, m.writeError(f, err))
		return
	}
	if f.takeWhole() {
		m.complete(f, place)
	}
}

// writeError wraps an error of a part file's WriteAt.
func (m *mirror) writeError(f *mirrorFile, err error) error {
	if errors.Is(err, partfile.ErrBusy) {
		return targetError(m.pathOf(f), err)
	}
	return LocalError("write it", disk.Cause(err))
}

// writeWhole writes a file of which all bytes are there.
func (m *mirror) writeWhole(f *mirrorFile, p []byte, place *placer) {
	if err := f.proveContent(p); err != nil {
		m.drop(f, err)
		return
	}
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		m.drop(f, LocalError("open its directory", disk.Cause(err)))
		return
	}
	temp := m.freshName(f.name)
	metadata := metadataOf(f.manifest, m.NoPreserve)
	version, err := m.placeOf(f).WriteNew(temp, p, f.holes, metadata, !m.syncsVolumes.Load())
	if err == nil {
		if err = m.applyMore(h.TreeDir, temp, f.entry); err != nil {
			h.Remove(temp)
		}
	}
	m.cache.Release(h)
	if err != nil {
		m.drop(f, LocalError("write it", disk.Cause(err)))
		return
	}
	f.mu.Lock()
	f.state, f.temp, f.version = fileWhole, temp, version
	f.mu.Unlock()
	place.put(f)
}

// complete hands a part file that has all its bytes to the placer. It stays open, and locked,
// until it is renamed.
func (m *mirror) complete(f *mirrorFile, place *placer) {
	if err := f.part.Finish(metadataOf(f.manifest, m.NoPreserve), !m.syncsVolumes.Load()); err != nil {
		m.drop(f, LocalError("write it", disk.Cause(err)))
		return
	}
	m.countHoles(f.part.Holes())
	if err := m.applyToPart(f); err != nil {
		m.drop(f, LocalError("set its owner, mode and attributes", disk.Cause(err)))
		return
	}
	place.put(f)
}

// applyToPart gives a finished part file what is kept besides mode and time.
func (m *mirror) applyToPart(f *mirrorFile) error {
	if !m.keepsMore() {
		return nil
	}
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer m.cache.Release(h)
	return m.applyMore(h.TreeDir, f.part.Name(), f.entry)
}
