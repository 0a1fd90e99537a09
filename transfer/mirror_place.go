package transfer

import (
	"context"
	"errors"
	"kwikcp/transfer/disk"
	"time"
)

// A placer puts files that have all their bytes under their final names, many at a time:
//
//  1. It makes all contents durable. It syncs the file system once if the system has such a
//     call. Elsewhere each file was synced after its last write.
//  2. It renames each file.
//
// After a power cut, a final name therefore holds its old content or the whole new file.
// The mirror makes the new names durable at its end (mirror_sync.go). On a system without a sync of
// the file system, each directory is synced when nothing in it changes any more (syncNames).
//
// Its goroutine ends with finish, which waits for it.
type placer struct {
	m     *mirror
	in    chan *mirrorFile
	ended chan struct{}
	// ctx ends the hashing of files that have checksums. It is set before the first put.
	ctx context.Context
}

const (
	// placeFiles, placeOpen and placeWait bound a group: its files, those of them that hold a
	// descriptor open, and how long the first waits.
	placeFiles = 1024
	placeOpen  = 32
	placeWait  = 500 * time.Millisecond
)

func (m *mirror) startPlacer() *placer {
	p := &placer{m: m, in: make(chan *mirrorFile, placeFiles), ended: make(chan struct{}), ctx: context.Background()}
	go p.run()
	return p
}

// put takes a file over. It waits while there is too much to do.
func (p *placer) put(f *mirrorFile) { p.in <- f }

// finish waits until all files are placed. None may be put any more.
func (p *placer) finish() {
	close(p.in)
	<-p.ended
}

func (p *placer) run() {
	defer close(p.ended)
	for f := range p.in {
		group, open := []*mirrorFile{f}, 0
		if f.part != nil {
			open++
		}
		wait := time.NewTimer(placeWait)
		for more := true; more && len(group) < placeFiles && open < placeOpen; {
			select {
			case f, ok := <-p.in:
				if more = ok; ok {
					group = append(group, f)
					if f.part != nil {
						open++
					}
				}
			case <-wait.C:
				more = false
			}
		}
		wait.Stop()
		p.place(group)
	}
}

// place puts a group in place.
func (p *placer) place(group []*mirrorFile) {
	var failed error
	if p.m.syncsVolumes.Load() {
		failed = p.syncContents(group)
		if disk.IsAbsent(disk.OpSyncVolume, failed) {
			p.m.leaveVolumes()
			failed = nil
		}
	}
	if failed == nil && p.m.syncsTree.Load() { // files of any group may be from before it was set
		failed = p.syncFiles(group)
	}
	for _, f := range group {
		err := failed
		if err == nil {
			err = p.provePart(f)
		}
		if err == errInterrupted {
			p.m.leaveWhole(f)
			continue
		}
		report := FileReport{Path: f.entry.Path, Action: f.action(), Size: f.tree.Size(), Root: f.tree.Root(),
			Proved: len(f.checksums) > 0}
		if err == nil && p.m.Stage {
			if err = p.m.stageFile(f, report); err == nil {
				continue
			}
		}
		if err == nil {
			err = p.rename(f)
		}
		p.m.placed(f, report, err)
	}
}

// syncContents syncs the file systems that files are on, each once.
func (p *placer) syncContents(group []*mirrorFile) error {
	done := make(map[disk.Volume]bool)
	last := ""
	for i, f := range group {
		if i > 0 && f.dir.path == last {
			continue // most are in the directory of the one before
		}
		last = f.dir.path
		h, err := p.m.cache.Acquire(f.dir.path)
		if err != nil {
			return err
		}
		v, err := p.m.volumeOf(h.TreeDir)
		p.m.cache.Release(h)
		if err != nil {
			return err
		}
		if !done[v] {
			if err := v.Sync(); err != nil {
				return err
			}
			done[v] = true
		}
	}
	return nil
}

// syncFiles syncs the contents of a group's files, each alone.
func (p *placer) syncFiles(group []*mirrorFile) error {
	for _, f := range group {
		if err := p.syncFile(f); err != nil {
			return err
		}
	}
	return nil
}

func (p *placer) syncFile(f *mirrorFile) error {
	h, err := p.m.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer p.m.cache.Release(h)
	name := f.temp
	if f.part != nil {
		name = f.part.Name()
	}
	file, err := h.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return p.m.lacks.Allow(disk.OpSync, file.Sync())
}

// placed reports a file that was put in place. err is why it was not.
func (m *mirror) placed(f *mirrorFile, report FileReport, err error) {
	if err == nil {
		m.finishFile(f, report)
		return
	}
	m.discard(f)
	if errors.Is(err, ErrNewer) {
		m.skipFile(f, ErrNewer)
		return
	}
	m.drop(f, localErrorOf("put it in place", err))
}

// discard removes a file that could not be placed, unless it is one to go on with.
func (m *mirror) discard(f *mirrorFile) {
	if f.part != nil {
		return
	}
	if h, err := m.cache.Acquire(f.dir.path); err == nil {
		h.Remove(f.temp)
		m.cache.Release(h)
	}
}

// rename gives a file its final name.
func (p *placer) rename(f *mirrorFile) error {
	h, err := p.m.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer p.m.cache.Release(h)
	return p.m.putInPlace(h, f)
}

// volumeOf returns the file system that a directory is on, nil if it cannot be synced as a
// whole. It stays open until the attempt ends.
func (m *mirror) volumeOf(d disk.TreeDir) (v disk.Volume, err error) {
	info, err := d.Lstat(".")
	if err != nil {
		return nil, err
	}
	id := disk.DeviceOf(info)
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known := m.volumes[id]
	if !known {
		if v, err = d.OpenVolume(); err != nil {
			return nil, err
		}
		m.volumes[id] = v
	}
	return v, nil
}
