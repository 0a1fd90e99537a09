package transfer

import (
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
	"sync"
)

const (
	// batchesAtOnce is the number of batches under way. While one ends, the next transfers, and
	// the one after that is requested.
	batchesAtOnce = 3
	// maxTries bounds how often a file is requested whose content changes while the server reads
	// it.
	maxTries = 3
)

// A round fetches batches until its source has no more. The files of a batch take these ways:
//
//	requested -+-> refused ------------------------------------------> failed
//	           +-> too much for this batch --------------------------> requested again
//	           '-> described -> compared -+-> identical, or complete -> placed
//	                                      '-> received -+-> complete -> placed
//	                                                    +-> changed --> requested again, at most maxTries
//	                                                    '-> lost -----> abandoned, and the round ends
//
// There are two contexts. When requests ends, nothing more is requested, but batches under way
// are still received. When the context of the calls ends, everything ends.
type round struct {
	*mirror
	place    *placer
	requests context.Context
}

// runBatches fetches the batches that source passes to its argument, and waits until their files
// are in place. It returns the error that ended the requests, or source's.
func (m *mirror) runBatches(
	ctx context.Context, source func(ctx context.Context, fetch func(*batch) error) error,
) error {
	requests, stopRequests := context.WithCancelCause(ctx)
	defer stopRequests(nil)
	r := &round{mirror: m, place: m.startPlacer(), requests: requests}
	r.place.ctx = ctx
	batches := make(chan *batch)
	var wg sync.WaitGroup
	for range batchesAtOnce {
		wg.Go(func() {
			for b := range batches {
				if err := r.fetch(ctx, b); err != nil {
					stopRequests(err)
				}
			}
		})
	}
	err := source(requests, func(b *batch) error {
		select {
		case batches <- b:
			return nil
		case <-requests.Done():
			m.abandon(b.files)
			return context.Cause(requests)
		}
	})
	close(batches)
	wg.Wait()
	r.place.finish()
	if cause := context.Cause(requests); cause != nil {
		return cause // err may be a consequence of it
	}
	return err
}

// fetch fetches a batch, and requests files again that need it. An error means that no further
// batch can be requested.
func (r *round) fetch(ctx context.Context, b *batch) error {
	for queue := []*batch{b}; len(queue) > 0; {
		b, queue = queue[0], queue[1:]
		again, err := r.fetchOnce(ctx, b)
		if err != nil {
			for _, b := range queue {
				r.abandon(b.files)
			}
			return err
		}
		queue = append(r.nextBatches(again, b.tries+1), queue...)
	}
	return nil
}

// fetchOnce requests a batch, compares its files with those in place, and receives the missing
// bytes. It returns the files to request again.
func (r *round) fetchOnce(ctx context.Context, b *batch) (again []*mirrorFile, err error) {
	if r.requests.Err() != nil {
		r.abandon(b.files)
		return nil, nil
	}
	defer b.trees.release()
	stream, err := r.requestBatch(r.requests, b)
	if err != nil {
		r.abandon(b.files)
		return nil, err
	}
	defer closeOffer(stream)
	described, again := r.sortReplies(b)
	for _, f := range b.stream {
		f.setInStream(true)
		defer f.setInStream(false)
	}
	forEach(described, func(f *mirrorFile) { r.prepare(ctx, f, r.place) })
	switch {
	case r.DryRun:
		for _, f := range described {
			r.wouldDo(f)
		}
	case stream != nil:
		changed, err := r.receive(ctx, b, stream)
		if err != nil {
			r.abandon(again)
			return nil, err
		}
		again = append(again, changed...)
	}
	return again, nil
}

// sortReplies returns the files of a batch that the server described, and those to request again
// in a smaller batch. Files that it refused fail.
func (r *round) sortReplies(b *batch) (described, again []*mirrorFile) {
	for _, f := range b.files {
		e, _ := errors.AsType[*Error](f.refusal)
		switch {
		case f.refusal == nil:
			described = append(described, f)
		case e.Kind == KindNetwork && len(b.files) > 1: // too much for one batch
			again = append(again, f)
		default:
			r.drop(f, f.refusal)
		}
	}
	return described, again
}

// nextBatches returns the batches for files that are requested again. Their size halves with each
// try, so that a file that changes all the time does not delay the others.
func (r *round) nextBatches(files []*mirrorFile, tries int) []*batch {
	// A request has its files in tree order, but those that changed follow those that did not fit.
	files = slices.SortedFunc(slices.Values(files), func(a, b *mirrorFile) int {
		return wire.CompareTree(a.entry.Path, b.entry.Path)
	})
	batchOf := func(files []*mirrorFile) *batch {
		b := newBatch()
		b.tries = tries
		for _, f := range files {
			b.add(f)
		}
		return b
	}
	switch {
	case len(files) == 0:
		return nil
	case len(files) > 1 && tries > 1:
		half := len(files) / 2
		return []*batch{batchOf(files[:half]), batchOf(files[half:])}
	case len(files) == 1 && tries >= maxTries:
		err := errors.New("it changes on the server while it is read")
		r.drop(files[0], &Error{Kind: KindChanged, Op: "fetch it", Err: err})
		return nil
	}
	return []*batch{batchOf(files)}
}

// forEach calls do for every file, several at a time, and waits for the calls.
func forEach(files []*mirrorFile, do func(*mirrorFile)) {
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

// receive fetches the missing bytes of a batch. It returns the files that changed meanwhile. An
// error means that no further batch can be requested.
func (r *round) receive(ctx context.Context, b *batch, offer *kwik.AggregateOffer) (changed []*mirrorFile, err error) {
	if len(b.unfinished()) == 0 {
		r.live.addPresent(offer.Size())
		return nil, nil
	}
	stream, err := offer.Open(b.proof(r.observer))
	if err != nil {
		r.abandon(b.files)
		return nil, NetworkError("fetch a batch", err)
	}
	r.addWebMirrors(b, stream)
	r.live.add(stream)
	waited := r.stall.wait()
	_, err = stream.CopyTo(ctx, &batchWriter{r, b}, &kwik.CopyOptions{Have: b.have(), Priority: b.priority()})
	waited()
	stats := r.live.remove(stream)
	r.mu.Lock()
	r.result.Wasted += stats.Wasted
	r.result.Network += stats.Bytes - stats.Kept
	r.mu.Unlock()
	rest := b.unfinished()
	if len(rest) == 0 {
		return nil, nil
	}
	if err == nil {
		err = errors.New("the stream ended early") // a bug: CopyTo succeeds only with all bytes
	}
	failed := NetworkError(fmt.Sprintf("fetch %d files in %q", len(rest), r.url.Path), err)
	if e, ok := errors.AsType[*Error](failed); ok {
		sourcesLost := errors.Is(err, kwik.ErrAggregationTimeout) && !errors.Is(err, kwik.ErrContentChanged)
		if sourcesLost {
			lostSources(e, stats.Sources)
		}
		if e.Kind == KindChanged && ctx.Err() == nil {
			for _, f := range rest {
				f.leave()
			}
			return rest, nil
		}
	}
	r.abandon(rest)
	return nil, failed
}

// have returns the ranges of the stream that are local already.
func (b *batch) have() (ranges []kwik.Range) {
	for _, f := range b.stream {
		for _, have := range f.here() {
			ranges = append(ranges, kwik.Range{Start: f.start + have.Start, End: f.start + have.End})
		}
	}
	return ranges
}

// unfinished returns the files of the stream that still need bytes.
func (b *batch) unfinished() (files []*mirrorFile) {
	for _, f := range b.stream {
		if f.wants() {
			files = append(files, f)
		}
	}
	return files
}

// proof returns the kwik.ProofFunc of a batch. It verifies the bytes of each file against its own
// tree.
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

// split calls do for the part of each file in p, which is at offset off of the stream. The offset
// of a call is one in the file.
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

// A batchWriter writes the bytes of a batch into its files. An error of one file does not affect
// the others.
type batchWriter struct {
	*round
	b *batch
}

// WriteAt implements io.WriterAt.
func (w *batchWriter) WriteAt(p []byte, off int64) (int, error) {
	return len(p), w.b.split(p, off, func(f *mirrorFile, p []byte, off int64) error {
		w.write(f, p, off, w.place)
		return nil
	})
}
