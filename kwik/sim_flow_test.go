package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik/internal/sched"
)

// A simFlow is a stream of a scenario while it runs, with its application on the client.
type simFlow struct {
	simStream
	*simWorld
	index    int
	units    sched.Units
	content  []byte       // the right bytes
	id       atomic.Int64 // once it is open
	accepted atomic.Bool
	done     chan struct{} // closed when the application is done

	// Of the application; others may look when done is closed.
	stream *Stream          // of a plain one
	reader *AggregateReader // of an aggregate one
	err    error            // nil if all bytes arrived
	got    []byte
	had    rangeset.Set

	mu     sync.Mutex
	pushed []simPiece // by whomever
}

func newSimFlow(w *simWorld, i int, st simStream) *simFlow {
	f := &simFlow{simStream: st, simWorld: w, index: i, done: make(chan struct{})}
	f.content = simBytes()[i*70_000+i:][:st.size] // no two streams have the same bytes at the same offset
	f.units, _ = newUnits(uint64(st.size), uint64(st.alignment), nil)
	return f
}

// kwikID is the stream's id, once the primary has opened it.
func (f *simFlow) kwikID() StreamID { return StreamID(f.id.Load()) }

// isOver reports whether the stream's application is done.
func (f *simFlow) isOver() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// flow finds a stream by its descriptor.
func (w *simWorld) flow(descriptor []byte) *simFlow {
	var i int
	if _, err := fmt.Sscanf(string(descriptor), "sim %d", &i); err != nil || i < 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.streams) {
		return nil
	}
	return w.streams[i]
}

// version fills p with a version of the stream's bytes from off on.
func (f *simFlow) version(p []byte, off int64, version int) {
	copy(p, f.content[off:])
	if version != 0 {
		for i := range p {
			p[i] ^= byte(37 * version)
		}
	}
}

// push records which server pushes which bytes, before it pushes them.
func (f *simFlow) push(x simPiece) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pushed = append(f.pushed, x)
}

// open lets the stream begin.
func (f *simFlow) open() {
	switch f.kind {
	case simPlain:
		f.accepted.Store(true)
		f.apps.Go(func() {
			defer close(f.done)
			ctx, cancel := context.WithDeadline(f.ctx, f.bound)
			defer cancel()
			if f.stream, f.err = f.client.OpenStreamSync(ctx); f.err == nil {
				f.echo(f.content)
			}
			f.judgeEcho()
		})
	case simServed:
		f.accepted.Store(true)
		f.apps.Go(func() {
			defer close(f.done)
			ctx, cancel := context.WithDeadline(f.ctx, f.bound)
			defer cancel()
			f.offered.Add(1)
			if f.stream, f.err = f.session.OpenStreamSync(ctx); f.err == nil {
				f.echo(append([]byte(simHeader), f.content...))
			}
			f.judgeEcho()
		})
	default:
		after := make(chan struct{})
		o, err := f.session.OpenAggregateStream(AggregateStreamSpec{
			Size: f.size, Alignment: f.alignment, Segments: f.segments, Pushed: f.kind == simPushed, Descriptor: fmt.Appendf(nil, "sim %d", f.index),
			HeadStart: f.headStart, HeadStartAfter: after,
		})
		if err != nil {
			f.fault("stream %d cannot be opened: %v", f.index, err)
			return
		}
		f.id.Store(int64(o.StreamID()))
		time.AfterFunc(f.starts, func() { close(after) })
	}
}

// echo writes p to a plain stream and reads it back.
func (f *simFlow) echo(p []byte) {
	f.stream.SetDeadline(f.bound)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		f.stream.Write(p) // the read sees a failure
		f.stream.Close()
	})
	back, err := io.ReadAll(f.stream)
	if f.err = err; err == nil && !bytes.Equal(back, p) {
		f.fault("plain stream %d: %d bytes come back of %d, and not the same", f.index, len(back), len(p))
	}
	f.stream.CancelWrite(0)
}

// judgeEcho checks that plain streams live as long as the path of the primary.
func (f *simFlow) judgeEcho() {
	switch {
	case f.err == nil || f.s.cut > 0:
	case f.s.death == simLives:
		f.fault("plain stream %d: %v", f.index, f.err)
	case errors.Is(f.err, os.ErrDeadlineExceeded) || errors.Is(f.err, context.DeadlineExceeded):
		f.fault("plain stream %d outlives the primary", f.index)
	}
}

// consume is the application of an aggregate stream on the client.
func (f *simFlow) consume(o *AggregateOffer) {
	defer close(f.done)
	defer o.Close()
	f.got = make([]byte, f.size)
	if o.Size() != f.size {
		f.fault("stream %d has %d bytes", f.index, o.Size())
		return
	}
	var verify ProofFunc
	if f.proof {
		verify = f.prove
	}
	var s *AggregateReader
	if s, f.err = o.Open(verify); f.err != nil {
		f.fault("stream %d cannot be opened by the client: %v", f.index, f.err)
		return
	}
	f.reader = s
	if f.ordered {
		f.err = f.read(s)
	} else {
		f.err = f.take(s)
	}
	f.judge(s)
}

// prove is the stream's proof. It records the servers that lie.
func (f *simFlow) prove(path ServerID, off int64, p []byte) error {
	if off < 0 || off+int64(len(p)) > f.size {
		f.fault("stream %d: %d bytes at %d are to be proved", f.index, len(p), off)
	} else if bytes.Equal(p, f.content[off:off+int64(len(p))]) {
		return nil
	}
	f.simWorld.mu.Lock()
	defer f.simWorld.mu.Unlock()
	f.refuted[path]++
	return errors.New("other bytes")
}

// read reads the stream in order.
func (f *simFlow) read(s *AggregateReader) error {
	s.SetReadDeadline(f.bound)
	if _, err := s.Read(nil); err != nil { // from now on bytes arrive
		return err
	}
	simSleep(f.ctx, f.rest)
	for at := int64(0); ; {
		if f.quits > 0 && at >= f.quits {
			return errSimQuits
		}
		n, err := s.Read(f.got[at:min(at+32<<10, f.size)])
		f.had.Add(at, at+int64(n))
		if at += int64(n); at == f.size && err == nil {
			_, err = s.Read(make([]byte, 1))
		}
		if err == io.EOF && at == f.size {
			return nil
		} else if err != nil {
			return err
		}
		simSleep(f.ctx, f.pace)
	}
}

// take copies the stream in the order of arrival.
func (f *simFlow) take(s *AggregateReader) error {
	ctx, cancel := context.WithDeadline(f.ctx, f.bound)
	defer cancel()
	w := &simSink{simFlow: f}
	n, err := s.CopyTo(ctx, w, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.writing > 0 || (err == nil && n != f.had.Total()) {
		f.fault("stream %d: CopyTo returns %d, %v with %d bytes written and %d writes under way", f.index, n, err, f.had.Total(), w.writing)
	}
	return err
}

// A simSink is the destination of CopyTo.
type simSink struct {
	*simFlow
	mu      sync.Mutex
	writing int
	over    bool
}

func (w *simSink) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	w.writing++
	w.mu.Unlock()
	simSleep(w.ctx, w.pace)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing--
	end := off + int64(len(p))
	if w.over || off < 0 || end > w.size {
		w.fault("stream %d: CopyTo writes %d bytes at %d, over %t", w.index, len(p), off, w.over)
		return 0, errSimQuits
	}
	replaces := w.kind == simPushed && (w.s.conflict == ConflictResolutionLastWins || w.s.conflict == ConflictResolutionPrimaryWins)
	if w.had.Add(off, end) != int64(len(p)) && !replaces {
		w.fault("stream %d: CopyTo writes bytes of [%d, %d) twice", w.index, off, end)
	}
	copy(w.got[off:end], p)
	if w.quits > 0 && w.had.Total() >= w.quits {
		return 0, errSimQuits
	}
	return len(p), nil
}

var errSimQuits = errors.New("the application has enough")

// judge checks that an aggregate stream ended as it must.
func (f *simFlow) judge(s *AggregateReader) {
	f.judgeBytes()
	whole := f.had.Total() == f.size
	hole := !f.ordered && (f.had.Len() > 1 || (f.had.Len() == 1 && !f.had.ContainsRange(0, 1))) || f.ordered && s.Stats().Bytes > f.had.Total()
	_, typed := errors.AsType[*Error](f.err)
	switch {
	case f.kind == simPulled && f.s.calm() && f.s.lossless() && s.Stats().Wasted > sched.HedgeBudget(f.units)+simSpare:
		f.fault("stream %d: %d bytes of %d came in vain\n    %+v", f.index, s.Stats().Wasted, f.size, s.Stats())
	case f.err == nil && !whole:
		f.fault("stream %d ends well with %d bytes of %d", f.index, f.had.Total(), f.size)
	case f.err == nil || errors.Is(f.err, errSimQuits) && f.quits > 0 || f.s.cut > 0:
	case f.s.must(f.simStream):
		f.fault("stream %d ends with %d bytes and %v\n    %+v\n    %+v", f.index, f.had.Total(), f.err, s.Stats(), f.client.Servers())
	case typed:
	case f.kind == simPulled && f.s.anchor < 0 && s.Stats().Bytes > 0 && slices.ContainsFunc(f.s.servers, simServer.hostile):
		// A hostile server that delivers something right now and then delays the time-out.
	case (errors.Is(f.err, os.ErrDeadlineExceeded) || errors.Is(f.err, context.DeadlineExceeded)) && f.kind == simPushed && !hole:
		// No rule bounds the time in which connected sources must push the next bytes.
	default:
		f.fault("stream %d ends with an error without a type: %v, %d bytes\n    %+v\n    %+v", f.index, f.err, f.had.Total(), s.Stats(), f.client.Servers())
	}
}

// judgeBytes checks that each byte that arrived is one that a server wrote there: the right
// one, except in a pushed stream without proof.
func (f *simFlow) judgeBytes() {
	allowed := bytes.Repeat([]byte{1}, int(f.size)) // a bit for each version
	if f.kind == simPushed {
		clear(allowed)
		f.mu.Lock()
		for _, x := range f.pushed {
			for i := x.start; i < x.end && (x.version == 0 || !f.proof); i++ {
				allowed[i] |= 1 << x.version
			}
		}
		f.mu.Unlock()
	}
	var version [256]byte // which change is which bit
	for v := range simWrong + 1 {
		version[byte(37*v)] = 1 << v
	}
	for at := int64(0); at < f.size; {
		r, ok := f.had.NextPresent(at, f.size)
		if !ok {
			return
		}
		for at = r.Start; at < r.End; at++ {
			if version[f.got[at]^f.content[at]]&allowed[at] == 0 {
				f.fault("stream %d has at %d a byte that nobody wrote there: %#x, right is %#x, allowed are %#b", f.index, at, f.got[at], f.content[at], allowed[at])
				return
			}
		}
	}
}

// simSpare bounds the other bytes that may be discarded.
const simSpare = 256 << 10

// watch checks two things at all times. The client rejects no server that keeps the rules. Other
// servers make the client hold a bounded amount of memory.
func (w *simWorld) watch() {
	open := w.client.config.SecondaryStreams.MaxStreamsPerPath
	for simSleep(w.ctx, 100*time.Millisecond) {
		active := 0
		for _, p := range w.client.Servers() {
			h := w.hostAt(p)
			st := p.SecondaryStreams
			active += st.ActiveStreams
			if st.ActiveStreams > open*max(1, p.connections) {
				w.fault("%d secondary streams of %s are open", st.ActiveStreams, p.ID)
			}
			e, ok := errors.AsType[*Error](p.Err)
			if h != nil && h.villain == nil && (p.State == PathBanned && h.plan.copy != simCopyWrong || ok && (simBlame(e.Code))) {
				w.fault("path %s of server %d, which is honest, is %v: %v", p.ID, h.index, p.State, p.Err)
			}
		}
		if n := len(w.client.Mappings()); n > active+open {
			w.fault("%d mappings for %d secondary streams", n, active)
		}
		w.watchMemory(active)
	}
}

// watchMemory checks three bounds. An ordered stream holds at most twice its window, with the
// headroom of its blocks. A source has no more grants than it may have. Blocks are held only
// where they are used: three by a secondary stream, one by each server that writes.
func (w *simWorld) watchMemory(active int) {
	w.client.mu.Lock()
	var streams []*streamAggregator
	for _, open := range w.client.streams {
		streams = append(streams, open.agg)
	}
	paths := len(w.client.paths)
	w.client.mu.Unlock()
	blocks := 0
	for _, a := range streams {
		a.mu.Lock()
		memory, grants := a.arrived.memory(), a.sched.Grants()
		for off, x := range a.arrived.runs {
			if !x.page {
				blocks++
			}
			if end := off + int64(len(x.p)); end > a.offsets.read+minReorderWindow {
				w.fault("stream %#x holds bytes up to %d for a reader at %d", uint64(a.id), end, a.offsets.read)
			}
		}
		blocks += len(a.arrived.pages)
		queued := make(map[sched.SourceID]int)
		for _, g := range grants {
			if g.Queued {
				queued[g.Source]++
			}
		}
		for id, n := range queued {
			if n > sched.MaxGrantsQueued {
				w.fault("stream %#x: %d grants are queued with %s", uint64(a.id), n, id)
			}
		}
		a.mu.Unlock()
		if most := 2*minReorderWindow + 2*maxDataPayload + pageSize; memory > most+most/100 {
			w.fault("stream %#x holds %d bytes", uint64(a.id), memory)
		}
		if len(grants) > paths*(sched.MaxRevoked+2*sched.MaxGrantsQueued+256) {
			w.fault("stream %#x knows %d grants", uint64(a.id), len(grants))
		}
	}
	held := blocksHeld.Load()
	for _, session := range w.sessions() {
		session.mu.Lock()
		blocks += len(session.attached)
		session.mu.Unlock()
	}
	if most := blocks + 3*active + int(w.pushing.Load()) + 16; int(held) > most && worlds.Load() == 1 {
		w.fault("%d blocks are held, %d are accounted for", held, most)
	}
}

// hostAt returns the server of a path, or nil if it is not known.
func (w *simWorld) hostAt(p ServerStats) *simHost {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.hosts, func(h *simHost) bool { return h.ip == p.Addr.Addr() })
	if i < 0 {
		return nil
	}
	return w.hosts[i]
}

// blamed checks that each server that lied is banned, and no other.
func (w *simWorld) blamed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.client.Servers() {
		lied := w.refuted[p.ID] > 0 && (w.s.recovery.Aggregation == FallbackIsolateSource)
		if (p.State == PathBanned && w.refuted[p.ID] == 0) || (lied && p.State != PathBanned) {
			w.faults = append(w.faults, fmt.Sprintf("%s lied %d times and is %v", p.ID, w.refuted[p.ID], p.State))
		}
	}
}
