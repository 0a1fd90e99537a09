package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
)

// planSpecial makes a device, FIFO or socket, in place of anything but a directory.
func (p *plan) planSpecial(d *mirrorDir, e Entry, mayExist bool) {
	if p.Stage && !p.DryRun {
		p.stageLink(d, e, mayExist)
		return
	}
	p.makePlannedSpecial(d, e, mayExist)
}

// makePlannedSpecial makes a device, FIFO or socket and reports it.
func (p *plan) makePlannedSpecial(d *mirrorDir, e Entry, mayExist bool) {
	same, err := p.makeSpecial(d, e, mayExist)
	switch {
	case errors.Is(err, errDirInTheWay) && p.Delete:
		p.replaceDir(deferredEntry{dir: d, entry: e})
	case err != nil && isRefused(err):
		p.countSkipped(e)
		p.skip(e, disk.Cause(err))
	default:
		p.reportSpecial(e, same, err)
	}
}

// reportSpecial reports the result of makeSpecial.
func (p *plan) reportSpecial(e Entry, same bool, err error) {
	switch {
	case err != nil:
		p.failOrSkip(e, "make it", err)
	case same:
		p.reportFile(FileReport{Path: e.Path, Action: FileUpToDate, Type: EntryOther})
	default:
		p.reportFile(FileReport{Path: e.Path, Action: FileCreated})
	}
}

// makeSpecial makes a device, FIFO or socket. same reports whether it existed already.
func (p *plan) makeSpecial(d *mirrorDir, e Entry, mayExist bool) (same bool, err error) {
	if p.DryRun && !mayExist {
		return false, nil
	}
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	name := disk.Base(e.Path)
	found, there := occupantNone, fs.FileInfo(nil)
	if mayExist {
		if found, there, err = p.lookUp(h, name); err != nil {
			return false, err
		}
	}
	switch {
	case found == occupantDir:
		return false, errDirInTheWay
	case p.isNewerThan(there, e.MTime):
		return false, ErrNewer
	}
	same = found == occupantSpecial && isSpecial(there, e.metadata)
	if p.DryRun {
		return same, nil
	}
	meta, err := disk.OpenMeta(h.TreeDir)
	if err != nil {
		return false, err
	}
	defer meta.Close()
	if same {
		return true, p.finishSpecial(meta, h, name, e)
	}
	p.noteChange(d)
	temp := p.freshName(name)
	if err := meta.MakeSpecial(temp, e.metadata.kind, e.metadata.device); err != nil {
		return false, err
	}
	if err = p.finishSpecial(meta, h, temp, e); err == nil {
		err = p.backup.keep(h, e.Path)
	}
	if err == nil {
		err = h.Rename(temp, name)
	}
	if err != nil {
		h.Remove(temp)
	}
	return false, err
}

// finishSpecial gives a device, FIFO or socket the metadata of its entry.
func (p *plan) finishSpecial(d *disk.MetaDir, h *disk.CachedDir, name string, e Entry) error {
	if p.NoPreserve {
		return nil
	}
	lost, err := p.apply(d, h.TreeDir, name, e)
	p.notKept.addAll(lost)
	if err != nil {
		return err
	}
	return p.setTime(d, h.TreeDir, name, e)
}

// isSpecial reports whether info describes the device, FIFO or socket of an entry.
func isSpecial(info fs.FileInfo, m *entryMetadata) bool {
	if info.Mode().Type() != m.kind {
		return false
	}
	number, ok := disk.DeviceNumber(info)
	isDevice := m.kind&fs.ModeDevice != 0
	return !isDevice || ok && number == m.device
}

// removeSpecial makes room for another entry in the place of a device, FIFO or socket. Only a
// mirror that makes such entries removes them.
func (m *mirror) removeSpecial(h *disk.CachedDir, path string) error {
	switch {
	case !m.Specials:
		return disk.ErrNotAFile
	case m.DryRun:
		return nil
	}
	if err := m.backup.keep(h, path); err != nil {
		return err
	}
	return h.Remove(disk.Base(path))
}
