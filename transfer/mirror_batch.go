package transfer

import (
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"math"
	"sort"
	"sync"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// batchesAtOnce is how many batches are asked for or flow at a time: while one ends, the next flows, and the one after that is asked for.
	batchesAtOnce = 3
	// batchBytes bounds the bytes of a batch of more than one file, firstBatch those of the first.
	batchBytes = 64 << 20
	firstBatch = 8 << 20
	// batchDescriptor bounds the descriptor of a batch of more than one file, in bytes; kwik allows 64 KiB.
	batchDescriptor = 56 << 10
	// maxTries is how often a file is asked for whose content changes while it is read.
	maxTries = 3
)

// A batch is files that are asked for at once and come in one aggregate stream.
type batch struct {
	files   []*mirrorFile
	paths   []byte // encoded, as in the request
	written int    // bytes of the paths written out
	bytes   int64  // of the files, as the listing says
	tries   int    // how often it has been fetched before

	stream []*mirrorFile // those that are in the stream, in order
}

func newBatch() *batch { return &batch{} }

func (b *batch) empty() bool { return len(b.files) == 0 }

// fits reports whether there is room for a file.
func (b *batch) fits(e Entry) bool {
	descriptor := len(b.paths) + len(e.Path) + (len(b.files)+1)*(wire.RootPrefix+20) // with what is usual for the varints of lengths, size and time
	return b.empty() || len(b.files) < wire.MaxBatchFiles && b.bytes+e.Size <= batchBytes && descriptor <= batchDescriptor && b.written+len(e.Path) <= wire.MaxBatchPaths
}

func (b *batch) add(f *mirrorFile) {
	before := ""
	if !b.empty() {
		before = b.files[len(b.files)-1].entry.Path
	}
	b.files = append(b.files, f)
	b.paths = wire.AppendPath(b.paths, before, f.entry.Path)
	b.written += len(f.entry.Path)
	b.bytes += f.entry.Size
}

// pack asks what the files of a batch are: each gets its manifest and tree, proved up to the root, or a refusal. It returns the stream that has
// the contents, nil if there are none, which the caller closes. An error is one of the whole batch.
func (q *inquiry) pack(ctx context.Context, b *batch) (*kwik.AggregateOffer, error) {
	op := fmt.Sprintf("ask %s for %d files in %q", q.url.Host, len(b.files), q.url.Path)
	d, err := q.dialogue(ctx, op, time.Now().Add(q.timeout), &transferpb.Request{
		Version: wire.ProtocolVersion, Path: []byte(q.url.Path), Batch: &transferpb.BatchRequest{Paths: b.paths},
	})
	if err != nil {
		return nil, err
	}
	defer d.close()
	b.stream = nil
	room, size := int64(wire.MaxBatchTrees), int64(0)
	for i, f := range b.files {
		limit := int64(32 * integrity.MaxGroups)
		if i > 0 {
			limit = room
		}
		used, err := f.describe(ctx, d, limit)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			room -= used
		}
		if f.tree == nil {
			continue
		}
		if f.tree.Size() > math.MaxInt64-size {
			return nil, d.nonsense(errors.New("more bytes than a stream may have"))
		}
		if f.tree.Size() > 0 {
			f.start = size
			size += f.tree.Size()
			b.stream = append(b.stream, f)
		}
	}
	reply, err := d.reply(ctx)
	if err != nil {
		return nil, err
	}
	end := reply.GetBatchEnd()
	if end == nil || (end.GetKwikStreamId() == 0) != (size == 0) {
		return nil, d.nonsense(errors.New("it has no end"))
	}
	if size == 0 {
		return nil, nil
	}
	accepting, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stream, err := q.session.AcceptAggregate(accepting, kwik.StreamID(end.GetKwikStreamId()))
	if err != nil {
		return nil, NetworkError(op, err)
	}
	if stream.Size() != size {
		stream.Close()
		return nil, d.nonsense(fmt.Errorf("the stream has %d bytes, the files have %d", stream.Size(), size))
	}
	return stream, nil
}

// reply waits for the next answer that is not about hashing.
func (d *dialogue) reply(ctx context.Context) (*transferpb.Reply, error) {
	for {
		reply, err := d.next(ctx, time.Now().Add(answerTimeout))
		if err != nil || reply.GetHashing() == nil {
			return reply, err
		}
	}
}

// describe reads what the server says of one file, and returns how many bytes of chaining values that were. More than limit are an error.
func (f *mirrorFile) describe(ctx context.Context, d *dialogue, limit int64) (used int64, err error) {
	reply, err := d.reply(ctx)
	if err != nil {
		return 0, err
	}
	answer := reply.GetBatchFile()
	if answer == nil {
		return 0, d.unexpected(reply)
	}
	f.tree, f.refusal = nil, nil
	if failure := answer.GetFailure(); failure != nil {
		f.refusal = &Error{Kind: kindOfFailure(failure), Op: "ask for it", Err: &RemoteError{Path: f.entry.Path, Message: failure.GetMessage()}}
		return 0, nil
	}
	m := answer.GetManifest()
	group := integrity.GroupSize(m.GetGroup())
	if m == nil || m.GetSize() > math.MaxInt64 || m.GetGroup() > math.MaxUint8 || !group.Valid() || len(m.GetRoot()) != len(integrity.Root{}) {
		return 0, d.nonsense(errors.New("a manifest that makes no sense"))
	}
	groups := group.Groups(int64(m.GetSize()))
	if groups > limit/32 {
		return 0, d.nonsense(fmt.Errorf("%d bytes in groups of %d", m.GetSize(), group.Bytes()))
	}
	if groups > 1 {
		used = 32 * groups
	}
	cvs := answer.GetChainingValues()
	for int64(len(cvs)) < used { // grows with what comes, whatever the size claims
		reply, err := d.reply(ctx)
		if err != nil {
			return 0, err
		}
		part := reply.GetTree().GetChainingValues()
		if len(part) == 0 {
			return 0, d.nonsense(errors.New("a tree that does not fit its manifest"))
		}
		cvs = append(cvs, part...)
	}
	if f.tree, err = integrity.FromCVs(int64(m.GetSize()), group, cvs, integrity.Root(m.GetRoot())); err != nil {
		return 0, &Error{Kind: KindIntegrity, Op: d.op, Err: err}
	}
	f.manifest = manifestOf(m)
	return used, nil
}

// endStream ends a stream of which nothing, or nothing more, is wanted.
func (q *inquiry) endStream(stream *kwik.AggregateOffer) {
	if stream != nil {
		stream.Close()
	}
}

// round has batches fetched, as source asks for them, and waits until all that came is in place. It returns source's error, or the one for
// which nothing more could be asked; batches that flowed by then have been received as far as there were servers.
func (m *mirror) round(ctx context.Context, source func(ctx context.Context, ask func(*batch) error) error) error {
	asking, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	batches := make(chan *batch)
	place := m.startPlacer()
	var wg sync.WaitGroup
	for range batchesAtOnce {
		wg.Go(func() {
			for b := range batches {
				if err := m.fetch(ctx, asking, b, place); err != nil {
					giveUp(err)
				}
			}
		})
	}
	err := source(asking, func(b *batch) error {
		select {
		case batches <- b:
			return nil
		case <-asking.Done():
			m.abandon(b.files)
			return context.Cause(asking)
		}
	})
	close(batches)
	wg.Wait()
	place.finish()
	if cause := context.Cause(asking); cause != nil { // ctx's, if that has ended
		return cause // err may be what came of it
	}
	return err
}

// fetch asks for a batch, finds out what of it is here, and receives the rest. asking ends when nothing more can be asked. Its error is one for
// which nothing more can.
func (m *mirror) fetch(ctx, asking context.Context, b *batch, place *placer) error {
	if asking.Err() != nil {
		m.abandon(b.files)
		return nil
	}
	stream, err := m.pack(asking, b)
	if err != nil {
		m.abandon(b.files)
		return err
	}
	defer m.endStream(stream)
	var again []*mirrorFile
	rest := b.files[:0:0]
	for _, f := range b.files {
		e, _ := errors.AsType[*Error](f.refusal)
		switch {
		case f.refusal == nil:
			rest = append(rest, f)
		case e.Kind == KindNetwork && len(b.files) > 1: // too much for one batch
			again = append(again, f)
		default:
			m.drop(f, f.refusal)
		}
	}
	m.each(rest, func(f *mirrorFile) { m.prepare(ctx, f, place) })
	if m.DryRun {
		for _, f := range rest {
			m.wouldDo(f)
		}
	} else if stream != nil {
		failed, err := m.receive(ctx, b, stream, place)
		if err != nil {
			m.abandon(again)
			return err
		}
		again = append(again, failed...)
	}
	return m.again(ctx, asking, again, b.tries+1, place)
}

// again fetches files anew that have changed, in smaller and smaller batches, so that one that changes all the time does not hold up the others.
func (m *mirror) again(ctx, asking context.Context, files []*mirrorFile, tries int, place *placer) error {
	if len(files) == 0 {
		return nil
	}
	if len(files) == 1 && tries >= maxTries {
		m.drop(files[0], &Error{Kind: KindChanged, Op: "fetch it", Err: errors.New("it changes on the server while it is read")})
		return nil
	}
	parts := [][]*mirrorFile{files}
	if tries > 1 && len(files) > 1 {
		parts = [][]*mirrorFile{files[:len(files)/2], files[len(files)/2:]}
	}
	for i, part := range parts {
		b := newBatch()
		b.tries = tries
		for _, f := range part {
			b.add(f)
		}
		if err := m.fetch(ctx, asking, b, place); err != nil {
			for _, part := range parts[i+1:] {
				m.abandon(part)
			}
			return err
		}
	}
	return nil
}

// each calls do for every file, several at a time.
func (m *mirror) each(files []*mirrorFile, do func(*mirrorFile)) {
	var wg sync.WaitGroup
	next := make(chan *mirrorFile)
	for range min(procs.Max, len(files)) {
		wg.Go(func() {
			for f := range next {
				do(f)
			}
		})
	}
	for _, f := range files {
		next <- f
	}
	close(next)
	wg.Wait()
}

// receive fetches what is missing of a batch. It returns the files that changed on the way; its error is one for which nothing more can be asked.
func (m *mirror) receive(ctx context.Context, b *batch, offer *kwik.AggregateOffer, place *placer) (changed []*mirrorFile, err error) {
	missing := false
	options := &kwik.CopyOptions{}
	for _, f := range b.stream {
		for _, r := range f.here() {
			options.Have = append(options.Have, kwik.Range{Start: f.start + r.Start, End: f.start + r.End})
		}
		missing = missing || f.wants()
	}
	if !missing {
		m.live.had(offer.Size())
		return nil, nil
	}
	stream, err := offer.Open(b.proof(m.observer))
	if err != nil {
		m.abandon(b.files)
		return nil, NetworkError("fetch a batch", err)
	}
	options.Priority = b.priority()
	m.live.begin(stream)
	_, err = stream.CopyTo(ctx, &batchWriter{m, b, place}, options)
	stats := m.live.end(stream)
	m.mu.Lock()
	m.result.Wasted += stats.Wasted
	m.result.Network += stats.Bytes - stats.Kept
	m.mu.Unlock()
	var rest []*mirrorFile
	for _, f := range b.stream {
		if f.wants() {
			rest = append(rest, f)
		}
	}
	if len(rest) == 0 {
		return nil, nil
	}
	if err == nil {
		err = errors.New("the stream ended early") // cannot be
	}
	wrapped := NetworkError(fmt.Sprintf("fetch %d files in %q", len(rest), m.url.Path), err)
	e, ok := errors.AsType[*Error](wrapped)
	if ok && errors.Is(err, kwik.ErrAggregationTimeout) && !errors.Is(err, kwik.ErrContentChanged) {
		e.Kind = kindOfLoss(stats.Sources)
	}
	if ok && e.Kind == KindChanged && ctx.Err() == nil {
		for _, f := range rest {
			f.leave()
		}
		return rest, nil
	}
	m.abandon(rest)
	return nil, wrapped
}

// proof returns the kwik.ProofFunc of a batch: each file's bytes against its own tree.
func (b *batch) proof(o *observer) kwik.ProofFunc {
	return func(source kwik.ServerID, off int64, p []byte) error {
		return b.split(p, off, func(f *mirrorFile, p []byte, off int64) error {
			err := f.tree.Verify(off, p)
			if bad, ok := errors.AsType[*integrity.GroupError](err); ok {
				o.badBlock(source, f.start+bad.Offset, bad.Length)
			}
			return err
		})
	}
}

// split calls do for the part of each file in p, which is from off in the stream.
func (b *batch) split(p []byte, off int64, do func(f *mirrorFile, p []byte, off int64) error) error {
	i := sort.Search(len(b.stream), func(i int) bool { return b.stream[i].start+b.stream[i].tree.Size() > off })
	for ; len(p) > 0; i++ {
		f := b.stream[i]
		n := min(int64(len(p)), f.start+f.tree.Size()-off)
		if err := do(f, p[:n], off-f.start); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// A batchWriter puts the bytes of a batch into files. What goes wrong with one of them is that file's error alone.
type batchWriter struct {
	*mirror
	b     *batch
	place *placer
}

// WriteAt implements io.WriterAt.
func (w *batchWriter) WriteAt(p []byte, off int64) (int, error) {
	return len(p), w.b.split(p, off, func(f *mirrorFile, p []byte, off int64) error {
		w.write(f, p, off, w.place)
		return nil
	})
}
