package serve

import (
	"context"
	"slices"
	"sync"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
)

// This file opens the files of a batch before they are read, where each open is a request. So small
// files of a remote root do not wait for one another.

// A batchAhead opens files of one content ahead of its reads. The goroutine that reads the content
// uses it. Its own goroutines end with stop.
type batchAhead struct {
	content *batchContent
	client  client
	limit   int // files that are being opened, or open and not read yet
	ctx     context.Context
	cancel  context.CancelFunc
	opening sync.WaitGroup

	wanted []rangeset.Range // that were announced and not begun, in the order of the reads
	begun  []*aheadFile     // in the same order; at most limit
}

// maxAnnounced bounds the ranges that a batchAhead remembers. A client has fewer grants that are
// not answered; it has released the oldest of more.
const maxAnnounced = 64

// An aheadFile is a file of a batch, of which a client requested a part.
type aheadFile struct {
	index int            // in batchContent.files
	part  rangeset.Range // of the file
	done  chan struct{}  // closed when err is set
	err   error          // of the open
}

// newBatchAhead returns nil where opening files ahead gains nothing.
func newBatchAhead(c *batchContent, of client) *batchAhead {
	if !c.server.caps.IsRemote {
		return nil
	}
	a := &batchAhead{content: c, client: of, limit: c.server.tiny.workers}
	a.ctx, a.cancel = context.WithCancel(c.ctx)
	return a
}

// Prefetch implements kwik.Prefetcher.
func (c *batchContent) Prefetch(start, end int64) {
	a := c.ahead
	if a == nil {
		return
	}
	a.wanted = append(a.wanted, rangeset.Range{Start: start, End: end})
	if len(a.wanted) > maxAnnounced {
		a.wanted = slices.Delete(a.wanted, 0, 1)
	}
	a.fill()
}

// fill begins to open files, as long as the limit allows.
func (a *batchAhead) fill() {
	for len(a.wanted) > 0 && len(a.begun) < a.limit {
		f := a.next()
		a.begun = append(a.begun, f)
		a.opening.Go(func() {
			defer close(f.done)
			f.err = kwik.Contain(func() error { return a.open(f) })
		})
	}
}

// next takes the first file from the wanted ranges.
func (a *batchAhead) next() *aheadFile {
	r := &a.wanted[0]
	index := a.content.fileAt(r.Start)
	f := a.content.files[index]
	part := rangeset.Range{Start: r.Start - f.Start, End: min(r.End, f.End()) - f.Start}
	if r.Start = f.End(); r.Start >= r.End {
		a.wanted = a.wanted[1:]
	}
	return &aheadFile{index: index, part: part, done: make(chan struct{})}
}

// open opens a file, when its client has a slot for it.
func (a *batchAhead) open(f *aheadFile) error {
	c := a.content
	release, err := c.server.tiny.acquire(a.ctx, a.client)
	if err != nil {
		return err
	}
	defer release()
	open := func() (source.Object, error) {
		return c.server.dir.Open(a.ctx, disk.JoinPath(c.base, c.files[f.index].Path))
	}
	return c.server.opened.prepare(openKey{c, f.index}, open, func(file source.Object) {
		if ahead, ok := file.(source.Prefetcher); ok {
			ahead.Prefetch(f.part.Start, f.part.End)
		}
	})
}

// await waits until a file is open, if that has begun. Files that were announced before it and are
// not read have been released by the client.
func (a *batchAhead) await(index int) error {
	if a == nil {
		return nil
	}
	for i, f := range a.begun {
		if f.index != index {
			continue
		}
		a.begun = a.begun[i+1:]
		a.fill()
		<-f.done
		return f.err
	}
	file := a.content.files[index]
	for i, r := range a.wanted {
		if r.Start < file.End() && r.End > file.Start {
			a.begun, a.wanted = nil, a.wanted[i:]
			a.next() // the caller opens it
			a.fill()
			break
		}
	}
	return nil
}

// stop ends the opening of files and waits for it.
func (a *batchAhead) stop() {
	if a != nil {
		a.cancel()
		a.opening.Wait()
	}
}
