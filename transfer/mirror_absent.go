package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"time"
)

// This file keeps what a mirror would delete if it may be the only copy of a file that is not in
// place yet. A file that was moved on the server is new under its new name and extra under its
// old one. If the new one fails, or is too young, the old one stays until a later mirror has the
// new one in place. The two count as the same file if they are of one size, and of one name or
// time. The root of a file that failed may not be known.

// ErrMoved is the reason why an entry is not deleted. A file that was moved on the server may have
// its content, and is not in place yet.
var ErrMoved = errors.New("a file that may have its content is not in place yet")

// maxAbsent bounds the files that a mirror remembers as not in place, which take about 100 bytes
// each. If there are more, it deletes no files.
const maxAbsent = 64 << 10

// absentFiles are the files of the listing that are not in place, in any version, and will not be
// in this attempt. It is guarded by mirror.mu.
type absentFiles struct {
	bySize map[int64][]absentFile
	count  int
}

type absentFile struct {
	name  string
	mtime time.Time
}

// noteAbsent notes a file of the listing that failed or was left out.
func (m *mirror) noteAbsent(e Entry) {
	if e.Type != EntryFile || e.Size == 0 || !m.Delete {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.absent.count++; m.absent.count > maxAbsent {
		m.absent.bySize = nil
		return
	}
	if m.absent.bySize == nil {
		m.absent.bySize = make(map[int64][]absentFile)
	}
	m.absent.bySize[e.Size] = append(m.absent.bySize[e.Size], absentFile{disk.Base(e.Path), e.MTime})
}

// mayHaveMoved reports whether a file of the target may have the content of one that is not in
// place.
func (m *mirror) mayHaveMoved(name string, info fs.FileInfo) bool {
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.absent.count > maxAbsent {
		return true
	}
	for _, f := range m.absent.bySize[info.Size()] {
		if f.name == name || m.sameTime(info.ModTime(), f.mtime) {
			return true
		}
	}
	return false
}
