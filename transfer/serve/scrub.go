package serve

import (
	"context"
	"io"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"slices"
	"sync"
	"time"
)

// This file hashes the files of the root from time to time, and compares them with the trees of the
// store. Disks lose bits without a new time. A file that has no tree yet gets one.

const (
	// ScrubRate is the rate at which files are read, in bytes a second.
	ScrubRate = 32 << 20
	// minScrubPause is the pause between two passes if the interval leaves none.
	minScrubPause = time.Second
	// maxScrubDepth and maxScrubNames bound the directories that are walked.
	maxScrubDepth, maxScrubNames = 256, 1 << 20
)

// Scrub compares the files with the trees of earlier passes, all of them in each interval. It
// reads rate bytes a second at most, so that a pass over many files takes longer. Two passes are a
// second apart at least. A damaged file is logged. A secondary does not serve it until it changes,
// and [Server.Suspects] has it. Scrub must be called after KeepTrees, without which it does
// nothing, and before Serve, at most once. Close ends it. Scrub does nothing on a remote root: the
// disks are the store's.
func (s *Server) Scrub(interval time.Duration, rate int64) {
	if s.index.store == nil || s.caps.IsRemote {
		return
	}
	s.tasks.Go(func() {
		for s.ctx.Err() == nil {
			start := time.Now()
			p := &scrubPass{server: s, read: &slowReader{ctx: s.ctx, rate: rate, next: start}}
			p.run()
			timer := time.NewTimer(max(interval-time.Since(start), minScrubPause))
			select {
			case <-timer.C:
			case <-s.ctx.Done():
				timer.Stop()
			}
		}
	})
}

// A scrubPass is one pass over the files.
type scrubPass struct {
	server  *Server
	read    *slowReader
	files   int   // that were hashed
	bytes   int64 // of them
	damaged int
	failed  faults // of the disk
}

func (p *scrubPass) run() {
	start := time.Now()
	root, err := p.server.dir.At(p.server.ctx, ".")
	if err == nil {
		p.walk(root, "", 0)
		root.Close()
	}
	p.failed.note("", err)
	p.failed.report(p.server.log)
	if p.server.ctx.Err() == nil {
		p.server.log.Info("scrubbed", "files", p.files, "bytes", p.bytes, "damaged", p.damaged,
			"failed", p.failed.count, "seconds", time.Since(start).Seconds())
	}
}

// walk scrubs the files in a directory and below it. It follows no links.
func (p *scrubPass) walk(dir source.Dir, path string, depth int) {
	names, err := dir.Names(p.server.ctx, maxScrubNames)
	if err != nil {
		p.failed.note(path, err)
		return
	}
	slices.Sort(names)
	for _, name := range names {
		if p.server.ctx.Err() != nil {
			return
		}
		info, err := dir.Lstat(p.server.ctx, name)
		switch at := disk.JoinPath(path, name); {
		case err != nil:
			p.failed.note(at, err)
		case info.Mode().IsRegular():
			p.scrub(dir, name, at)
		case info.IsDir() && depth < maxScrubDepth:
			sub, err := dir.Sub(p.server.ctx, name)
			if err != nil {
				p.failed.note(at, err)
				continue
			}
			p.walk(sub, at, depth+1)
			sub.Close()
		}
	}
}

// scrub hashes a file and compares it with its tree.
func (p *scrubPass) scrub(dir source.Dir, name, path string) {
	s := p.server
	f, err := dir.Open(s.ctx, name)
	if err != nil {
		p.failed.note(path, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		p.failed.note(path, err)
		return
	}
	version, start := disk.VersionOf(info), time.Now()
	if version.Size == 0 || version.IsRacy(start) {
		return // it has no content, or is being written
	}
	known := s.index.store.get(path, version)
	if cached, ok := f.(interface{ DropCache() }); ok {
		cached.DropCache() // the page cache may hide damage of the disk
	}
	r := &slowFileReader{p.read, f}
	tree, err := integrity.Build(s.ctx, r, version.Size, integrity.GroupSizeFor(version.Size), nil)
	if checkVersion(f, version) != nil || s.ctx.Err() != nil {
		return
	}
	if err != nil {
		p.failed.note(path, err)
		return
	}
	p.files++
	p.bytes += version.Size
	switch {
	case known == nil:
		s.index.keep(path, version, tree, start)
	case known.Root() != tree.Root():
		p.damaged++
		s.suspect(path, version, "scrub")
	}
}

// A slowReader bounds the rate of reads. It is safe for concurrent use.
type slowReader struct {
	ctx  context.Context
	rate int64 // bytes a second

	mu   sync.Mutex
	next time.Time // when the next read may begin
}

// wait waits until n bytes may be read. The error is that of the context.
func (r *slowReader) wait(n int) error {
	r.mu.Lock()
	now := time.Now()
	if r.next.Before(now) {
		r.next = now
	}
	delay := r.next.Sub(now)
	r.next = r.next.Add(time.Duration(float64(n) / float64(r.rate) * float64(time.Second)))
	r.mu.Unlock()
	if delay <= 0 {
		return r.ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

type slowFileReader struct {
	*slowReader
	file io.ReaderAt
}

func (r *slowFileReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.wait(len(p)); err != nil {
		return 0, err
	}
	return r.file.ReadAt(p, off)
}
