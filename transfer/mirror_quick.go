package transfer

import (
	"io/fs"
	"time"

	"kwikcp/transfer/disk"
)

// looksUpToDate reports whether the file in place has the size and time of the listing, and no
// part file beside it. A file with checksums is always read.
func (p *plan) looksUpToDate(f *mirrorFile) bool {
	if f.resumes || f.detach || f.local == nil || len(f.checksums) > 0 {
		return false
	}
	return f.local.Size() == f.entry.Size && p.sameTime(f.local.ModTime(), f.entry.MTime)
}

// sameTime reports whether the target has a time of the server, as far as its file system keeps it.
func (m *mirror) sameTime(there, listed time.Time) bool {
	return there.Sub(listed).Abs() <= max(m.ModifyWindow, m.window)
}

// isLater reports whether a file in place has a later time than the server's, not only because its
// file system keeps coarser ones.
func (m *mirror) isLater(info fs.FileInfo, listed time.Time) bool {
	return info.ModTime().After(listed) && !m.sameTime(info.ModTime(), listed)
}

// isNewerThan reports whether a regular file in place is newer than the server's, and so stays
// (Update). there is nil for none.
func (m *mirror) isNewerThan(there fs.FileInfo, listed time.Time) bool {
	return m.Update && there != nil && there.Mode().IsRegular() && m.isLater(there, listed)
}

// isWritten reports whether a file has changed since it was listed, so that a program may still
// write it.
func (m *mirror) isWritten(f *mirrorFile) bool {
	return m.MinAge > 0 && f.manifest.MTime.After(f.entry.MTime)
}

// isYoung reports whether a file changed so shortly before the listing that a program may still
// write it. A time that is far in the future tells nothing of that.
func (p *plan) isYoung(e Entry) bool {
	age := p.now.Sub(e.MTime)
	return age < p.MinAge && age > -p.MinAge
}

// hasTime reports whether an entry in place has a time of the server, or what the file system makes
// of it. Such a time need not be set again.
func (m *mirror) hasTime(info fs.FileInfo, listed time.Time) bool {
	if listed.IsZero() { // a directory without a time
		return true
	}
	lost := listed.Sub(info.ModTime())
	return lost >= 0 && lost <= m.window
}

// learnWindow sets window. It gives the lock file a time that no file system with coarse times
// keeps.
func (m *mirror) learnWindow(lock disk.Dir) {
	set := time.Date(2001, 2, 3, 4, 5, 7, 123_456_789, time.UTC)
	if lock.Chtimes(mirrorLock, set) != nil {
		return
	}
	if info, err := lock.Lstat(mirrorLock); err == nil {
		m.window = windowOf(set, info.ModTime())
	}
}

// windowOf returns how far apart two times may be on a file system that made one of the other. It
// is 0 if the file system keeps times, and if it does not keep them at all. NTFS and SMB have steps
// of 100 ns, some file servers of 1 µs or 1 ms. Those of exFAT are 10 ms, of HFS+ 1 s, of FAT 2 s.
func windowOf(set, kept time.Time) time.Duration {
	lost := set.Sub(kept).Abs()
	if lost == 0 {
		return 0
	}
	for _, step := range []time.Duration{
		100 * time.Nanosecond, time.Microsecond, time.Millisecond, 10 * time.Millisecond, time.Second, 2 * time.Second,
	} {
		if lost < step {
			return step - 1
		}
	}
	return 0
}
