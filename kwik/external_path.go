package kwik

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"kwikcp/kwik/internal/sched"
)

// An externalPath fetches from an external source for one stream, one extent after the other. Its
// goroutine is owned by the aggregator, and ends with the stream, or when the source is removed
// from it.
//
// Lock order: the aggregator's lock, then the path's.
type externalPath struct {
	a  *streamAggregator
	x  *attachedExternal
	id PathID

	// The aggregator's lock guards the next two.
	delivers bool // bytes of its last fetch were accepted
	leaves   bool // it ends after what it is fetching

	wake   chan struct{} // has an element after a change of what follows
	mu     sync.Mutex
	grants []externalGrant // queued, in the order of the scheduler's decisions
	gone   bool            // removed from the stream
	cancel context.CancelFunc
}

// An externalGrant is a grant of an external path.
type externalGrant struct {
	id         uint64
	start, end int64
}

// errSilent ends a fetch that delivers nothing for too long.
var errSilent = errors.New("nothing arrived in time")

// act takes a decision of the scheduler. It does not block.
func (p *externalPath) act(action sched.Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.grants, func(g externalGrant) bool { return g.id == action.Grant })
	switch {
	case action.Kind == sched.ActionGrant:
		p.grants = append(p.grants, externalGrant{action.Grant, action.Start, action.End})
	case i < 0:
	case action.Kind == sched.ActionShorten:
		p.grants[i].end = min(p.grants[i].end, action.End)
	case action.Kind == sched.ActionRevoke:
		p.grants = slices.Delete(p.grants, i, i+1)
		if i == 0 && p.cancel != nil {
			p.cancel()
		}
	}
	p.signal()
}

// remove ends the use of the path. It does not block.
func (p *externalPath) remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone, p.grants = true, nil
	if p.cancel != nil {
		p.cancel()
	}
	p.signal()
}

func (p *externalPath) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *externalPath) isBusy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.grants) > 0
}

// run attaches the path and fetches until the stream ends or the path is removed. After a failure
// the path is detached, so that other sources take its grants, and attached again after a delay.
func (p *externalPath) run() {
	random := newJitter(string(p.id))
	for {
		s := p.attach()
		if s == nil {
			return
		}
		err := p.fetchAll(s)
		if err == nil {
			return
		}
		p.a.detach(p.id, fmt.Errorf("%s: %w", p.x.config.ID, err))
		failures, again := p.a.failed(p, err)
		if !again {
			return
		}
		timer := time.NewTimer(delayAfter(err, failures, random))
		select {
		case <-timer.C:
		case <-p.a.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// attach makes the path a source of the stream. It returns nil if the stream needs none.
func (p *externalPath) attach() *source {
	p.mu.Lock()
	p.gone, p.grants = false, nil
	p.mu.Unlock()
	return p.a.attachExternal(p)
}

// fetchAll fetches what is granted. It returns nil when the stream ends or the path is removed,
// and the error of a fetch that failed.
func (p *externalPath) fetchAll(s *source) error {
	for {
		ctx, cancel := context.WithCancelCause(p.a.ctx)
		g, end, ok := p.next(func() { cancel(nil) })
		if !ok {
			cancel(nil)
			return nil
		}
		err := p.fetch(ctx, cancel, s, g, end)
		cancel(nil)
		p.mu.Lock()
		p.cancel = nil
		isOver := p.gone || p.a.ctx.Err() != nil
		p.mu.Unlock()
		switch {
		case isOver:
			return nil
		case errors.Is(context.Cause(ctx), errSilent):
			return errSilent
		case err != nil && !errors.Is(err, context.Canceled): // else the grant was revoked
			return err
		}
	}
}

// next waits for a grant. end is the end of the bytes that are granted from its start on. cancel
// ends the fetch of the grant. ok is false when the path must end.
func (p *externalPath) next(cancel context.CancelFunc) (g externalGrant, end int64, ok bool) {
	for {
		p.mu.Lock()
		if p.gone || p.a.ctx.Err() != nil {
			p.mu.Unlock()
			return g, 0, false
		}
		if len(p.grants) > 0 {
			g, end = p.grants[0], p.grants[0].end
			for _, next := range p.grants[1:] {
				if next.start != end {
					break
				}
				end = next.end
			}
			p.cancel = cancel
			p.mu.Unlock()
			return g, end, true
		}
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-p.a.ctx.Done():
		}
	}
}

// fetch fetches the bytes from the start of g up to end and delivers them. They may belong to
// several grants. cancel ends ctx with a cause.
func (p *externalPath) fetch(
	ctx context.Context, cancel context.CancelCauseFunc, s *source, g externalGrant, end int64,
) error {
	silence := time.AfterFunc(p.x.config.SilenceTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	begun := time.Now()
	r, err := p.x.fetch(ctx, g.start, end)
	if err != nil {
		return err
	}
	defer r.Close()
	in := &externalReader{Reader: r, p: p, s: s, silence: silence, begun: begun}
	off := g.start
	for ok := true; ok; g, ok = p.after(g, off, end) {
		if off, err = p.deliver(in, s, g, off, end); err != nil {
			return err
		}
		p.a.ended(s, g.id, nil)
	}
	return nil
}

// externalPiece is how many bytes are verified and placed at once, or one unit if that is more.
const externalPiece = 256 << 10

// deliver delivers the bytes of a grant from off on, but not beyond end, which is that of the
// fetch. It returns the offset behind them.
func (p *externalPath) deliver(in *externalReader, s *source, g externalGrant, off, end int64) (int64, error) {
	for {
		stop := min(p.endOf(g), end)
		if off >= stop {
			return off, nil
		}
		next := p.a.units.Cut(off, externalPiece, stop)
		b := newBlock(int(next - off))
		n, failed := in.fill(b.data)
		next = p.a.units.Floor(off + int64(n)) // of a fetch that failed, the whole units count
		if b.data = b.data[:next-off]; len(b.data) == 0 {
			b.release()
		} else if err := p.a.deliver(s, g.id, off, b); err != nil {
			return off, err
		}
		if off = next; failed != nil {
			return off, failed
		}
	}
}

// endOf returns the present end of a grant; 0 if it was revoked.
func (p *externalPath) endOf(g externalGrant) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, queued := range p.grants {
		if queued.id == g.id {
			return queued.end
		}
	}
	return 0
}

// after removes a grant that was fetched, and returns the next one if it begins at off and the
// fetch goes beyond it.
func (p *externalPath) after(g externalGrant, off, end int64) (next externalGrant, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants = slices.DeleteFunc(p.grants, func(queued externalGrant) bool { return queued.id == g.id })
	if len(p.grants) == 0 || p.grants[0].start != off || off >= end {
		return next, false
	}
	return p.grants[0], true
}

// An externalReader reads the bytes of one fetch. It counts them, keeps to the rate limit, and
// notes the time to the first of them.
type externalReader struct {
	io.Reader
	p       *externalPath
	s       *source
	silence *time.Timer
	begun   time.Time // zero after the first byte
}

// fill reads len(b) bytes. With less than that, it returns an error.
func (r *externalReader) fill(b []byte) (read int, err error) {
	for read < len(b) {
		n, err := r.Read(b[read:][:r.s.pace.cut(len(b)-read)])
		if n > 0 {
			r.arrived(n)
		}
		if read += n; err != nil && read < len(b) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return read, err
		}
	}
	return read, nil
}

// arrived counts n bytes, and waits if they exceed the rate limit. The wait is no silence.
func (r *externalReader) arrived(n int) {
	if !r.begun.IsZero() {
		r.p.x.answered(time.Since(r.begun))
		r.begun = time.Time{}
	}
	r.s.received.Add(int64(n))
	if r.s.pace.isLimited() {
		r.silence.Stop()
		r.s.placing.Add(1)
		defer r.s.placing.Add(-1)
		r.s.pace.wait(r.p.a.ctx, n)
	}
	r.silence.Reset(r.p.x.config.SilenceTimeout)
}
