package kwik

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// grantQueueLimit is the number of grants that a server queues for one stream of one client.
const grantQueueLimit = 16

// An attachment is a server's part in one aggregate stream of one client: it writes the grants in
// order. Its goroutine, run, ends when the client releases the stream, the session ends or the
// content fails.
type attachment struct {
	session    *ServerSession
	id         StreamID
	units      sched.Units
	descriptor []byte
	ctx        context.Context
	cancel     context.CancelFunc
	wake       chan struct{}    // has an element after a grant arrived
	offer      *AggregateStream // the offer to the client; nil on a secondary
	rate       rateShare        // of the session
	start      <-chan struct{}  // closed when a head start may begin; nil if nothing delays it
	memory     int64            // charged to the session until run returns, bytes
	frames     frameSizer       // of the goroutine that writes

	mu    sync.Mutex
	queue []*extent // the first is being written, if writing
	last  uint64    // the newest grant
	lacks rangeset.Set
}

// An extent is a grant as its source sees it. Guarded by the attachment's lock.
type extent struct {
	grant      uint64
	start, end int64
	stream     *secondaryStream // while it is written
	revoked    bool
}

// newAttachment returns an attachment that is charged memory bytes, or nil if the session may not
// have them.
func newAttachment(s *ServerSession, id StreamID, u sched.Units, descriptor []byte, memory int64) *attachment {
	if !s.memory.Reserve(memory) {
		return nil
	}
	a := &attachment{session: s, id: id, units: u, descriptor: descriptor, memory: memory, wake: make(chan struct{}, 1),
		rate: s.rate.share(), frames: newFrameSizer(int64(s.listener.config.BufferSize))}
	a.ctx, a.cancel = context.WithCancel(s.conn.Context())
	return a
}

// grant queues an extent.
func (a *attachment) grant(g *kwikpb.OffsetSyncResponse) error {
	start, n := g.GetExpectedOffset(), g.GetLength()
	total := uint64(a.units.Total())
	if n == 0 || start >= total || n > total-start || !a.units.IsBoundary(int64(start)) || !a.units.IsBoundary(int64(start+n)) {
		return errorf(ErrOffsetSyncFailure, "grant of %d bytes at %d", n, start).onStream(a.id, -1)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.GetGrantId() <= a.last {
		return errorf(ErrOffsetSyncFailure, "grant %d after grant %d", g.GetGrantId(), a.last).onStream(a.id, -1)
	}
	if len(a.queue) >= sched.MaxGrantsQueued {
		return errorf(ErrSecondaryStreamOverflow, "%d grants are queued", len(a.queue)).onStream(a.id, -1)
	}
	a.last = g.GetGrantId()
	a.queue = append(a.queue, &extent{grant: a.last, start: int64(start), end: int64(start + n)})
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// shorten moves the end of a grant. It has no effect on a grant that was written already: the two
// messages may cross.
func (a *attachment) shorten(grant, end uint64) error {
	if end > uint64(a.units.Total()) || !a.units.IsBoundary(int64(end)) {
		return errorf(ErrOffsetSyncFailure, "new end %d of grant %d", end, grant).onStream(a.id, -1)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.queue {
		if e.grant == grant {
			e.end = min(e.end, int64(end))
		}
	}
	return nil
}

// revoke cancels a whole grant. It leaves the queue unless it is the first, which run may be
// writing.
func (a *attachment) revoke(grant uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, e := range a.queue {
		if e.grant != grant {
			continue
		}
		e.revoked = true
		if e.stream != nil {
			e.stream.cancel()
		}
		if i > 0 {
			a.queue = slices.Delete(a.queue, i, i+1)
		}
		return
	}
}

// run opens the content and writes grants until the attachment ends.
func (a *attachment) run() {
	defer func() {
		a.cancel()
		a.session.mu.Lock()
		delete(a.session.attached, a.id)
		a.session.mu.Unlock()
		a.session.memory.Release(a.memory)
		a.session.closeIfDrained()
	}()
	stop := context.AfterFunc(a.ctx, a.cancelWriting)
	defer stop()
	if a.start != nil {
		select {
		case <-a.start:
		case <-a.ctx.Done():
			return
		}
	}
	if err := a.serve(); err != nil && a.ctx.Err() == nil {
		a.refuse(0, 0, err)
	}
}

// refuse tells the client that this server does not have [start, end), or, if end is 0, does not
// serve the stream.
func (a *attachment) refuse(start, end int64, why error) {
	a.session.refuse(a.id, start, end, why)
}

// refuse is attachment.refuse of a stream that may have no attachment.
func (s *ServerSession) refuse(id StreamID, start, end int64, why error) {
	code := ErrContentUnavailable
	switch {
	case errors.Is(why, ErrContentChanged):
		code = ErrContentChanged
	case errors.Is(why, ErrServerBusy):
		code = ErrServerBusy
	}
	reason := why.Error()
	if e, ok := errors.AsType[*Error](why); ok && e.Message != "" {
		reason = e.Message // the code goes with it
	}
	s.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
		KwikStreamId: uint64(id), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
		StartOffset: uint64(start), EndOffset: uint64(end), Code: uint64(code), Reason: printable(reason),
	})
}

// reportLack tells the client which bytes this server lacks, and drops the grants for them, as the
// client does.
func (a *attachment) reportLack(l *MissingRange) {
	start, end := a.units.Floor(l.Start), a.units.Ceil(l.End)
	if start >= end {
		return
	}
	a.mu.Lock()
	isNew := a.lacks.Add(start, end) > 0
	a.mu.Unlock()
	if !isNew { // the content was opened again
		return
	}
	a.refuse(start, end, l.Err)
}

// serve writes grants until the attachment ends and returns nil, or until the content fails and
// returns its error.
func (a *attachment) serve() error {
	content := &attachedContent{a: a}
	defer content.close()
	if err := content.open(); err != nil {
		return err
	}
	a.sendSync(0)
	for {
		e := a.next()
		if e == nil {
			if !content.awaitGrant() {
				return nil
			}
			continue
		}
		end, err := a.write(e, content)
		if failed, ok := errors.AsType[contentError](err); ok {
			return failed.err
		}
		if a.finish(e) == 0 && a.ctx.Err() == nil {
			a.sendSync(end)
		}
		a.session.report(time.Now())
	}
}

// sendSync tells the client the position of this source and how many grants it accepts.
func (a *attachment) sendSync(offset int64) {
	a.session.control.sendMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
		KwikStreamId: uint64(a.id), CurrentOffset: uint64(offset), Room: grantQueueLimit,
	})
}

// next returns the extent to write, or nil if the queue is empty.
func (a *attachment) next() *extent {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) > 0 {
		if e := a.queue[0]; !e.revoked && e.start < e.end && a.lacks.Overlap(e.start, e.end) == 0 {
			return e
		}
		a.queue = a.queue[1:]
	}
	return nil
}

// finish removes a written extent from the queue and returns how many are left.
func (a *attachment) finish(e *extent) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.stream = nil
	a.queue = a.queue[1:]
	return len(a.queue)
}

// write answers one grant with one secondary stream and returns the offset that it reached. A
// contentError ends the attachment.
func (a *attachment) write(e *extent, content *attachedContent) (off int64, err error) {
	w := &grantWriter{a: a, e: e, content: content, off: e.start}
	for {
		end, revoked := a.bounds(e)
		switch {
		case a.ctx.Err() != nil:
			return w.off, a.ctx.Err()
		case revoked, w.lacks, w.off >= end && w.stream == nil:
			return w.off, nil
		case w.off >= end:
			return w.off, w.stream.close("")
		}
		if err := w.writeFrame(end); err != nil {
			return w.off, w.end(err)
		}
	}
}

// bounds returns the end of a grant, and whether the grant was revoked.
func (a *attachment) bounds(e *extent) (end int64, revoked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return e.end, e.revoked
}

// openStream opens the stream that answers a grant.
func (a *attachment) openStream(e *extent) (*secondaryStream, error) {
	s, err := a.session.openSecondaryStream(a.ctx, a.id, e.grant, e.start, a.rate)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e.stream = s
	if e.revoked || a.ctx.Err() != nil {
		s.cancel()
	}
	return s, nil
}

// cancelWriting unblocks write when the attachment ends.
func (a *attachment) cancelWriting() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) > 0 && a.queue[0].stream != nil {
		a.queue[0].stream.cancel()
	}
}
