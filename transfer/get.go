package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"os"
	"time"
)

// GetOptions says what to fetch and where to.
type GetOptions struct {
	URL URL
	// TLS decides whom to trust as the primary.
	TLS *tls.Config
	// Target is the path of the file to write. Its directory must exist. A file that is there is replaced, at once and
	// only when the new one is whole.
	Target string
	// KeepsOld makes it an error of KindExists if there is anything at Target, before anything is asked of the network.
	KeepsOld bool
	// Plain makes the file one with the mode that the umask says and of the present time, not with the source's mode and time. What is
	// up to date stays as it is.
	Plain bool
	// Reuse takes what is right of the file at Target for the new one, so that only the rest is fetched.
	Reuse bool
	// Seed is another file of which the same is taken; nil for none. It stays the caller's.
	Seed disk.File
	// Range, if set, is the part of the file to fetch: with the groups that it is in, and no others. Target is to hold nothing else. It does not
	// go with Reuse and Seed, and nothing is kept after an error.
	Range *ByteRange
	// Output, if set, receives the bytes in order instead of a file. Those of a Range are all proved before.
	Output io.Writer
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// Retries is how many times the transfer is tried again after an error of KindNetwork. Each goes on where the one before
	// ended. To an Output there is none after the first byte.
	Retries int
	// RetryDelay is the pause before each retry; 0 means one second before the first, and twice as long before each
	// further one, up to MaxRetryDelay.
	RetryDelay time.Duration

	// MaxTime bounds each attempt; 0 means that nothing does. One that takes longer ends with a *TimeLimitError, and may be
	// retried like one that met an error of the network.
	MaxTime time.Duration
	// RetryMaxTime is for how long after the start of the first attempt another may begin; 0 means for ever.
	RetryMaxTime time.Duration

	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddrEarly.
	Dial DialFunc
	// Pool shares the session with other transfers; nil means that this one has its own. TLS and KWIK must be the same for all from one
	// server.
	Pool *Pool
	// OpenDir opens the target's directory; nil means OpenDir.
	OpenDir func(path string) (disk.Dir, error)
}

// Get fetches a file from a primary and its secondaries, proves it and puts it in place. Its errors are *Error, *TimeLimitError, or the
// cause of ctx if that ended. After an error what stood at the target stands there still; beside it there may be a part file
// (Result.Kept), and another Get to the same target fetches only what that lacks.
func Get(ctx context.Context, o GetOptions, report Reporter) (Result, error) {
	if o.OpenDir == nil {
		o.OpenDir = disk.OpenDir
	}
	g := &get{GetOptions: o, request: newRequest(o.URL, o.TLS, o.ConnectTimeout, o.KWIK, o.Dial, report)}
	g.pool = o.Pool
	g.byteRange = o.Range
	g.headStart = g.wantsHeadStart
	start := time.Now()
	err := g.run(ctx, g.attempt)
	g.result.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return g.result, err
}

// A get is one transfer under way. It is used by one goroutine; the observer has its own.
type get struct {
	GetOptions
	request
	result Result
	part   *partFile // nil with an Output, unless there is a Range
	// compared is the root that what is at the target was held against; nil before.
	compared *integrity.Root
	// seeded is the root for which the seeds have been looked through; nil before.
	seeded *integrity.Root
}

// run prepares the target, calls attempt until that is through, and puts the file in place.
func (g *get) run(ctx context.Context, attempt func(context.Context) error) error {
	if g.Output == nil || g.Range != nil {
		target := g.Target
		if g.Output != nil {
			var dir string
			var err error
			if target, dir, err = spool(); err != nil {
				return err
			}
			defer os.RemoveAll(dir) // a part file is left in it only if it could not be removed
		}
		var err error
		if g.part, err = openPart(g.OpenDir, target, g.KeepsOld); err != nil { // before anything is asked of the network
			return err
		}
		defer func() {
			lost := int64(0)
			g.result.Bytes, g.result.Resumed, lost = g.part.inPlace()
			if g.result.UpToDate {
				g.result.Bytes, g.result.Resumed = g.manifest.Size, g.manifest.Size
			}
			g.result.Wasted += lost
			g.result.Kept = g.part.leave()
		}()
	}
	p := retryPolicy{g.Retries, g.RetryDelay, g.MaxTime, g.RetryMaxTime}
	if err := p.run(ctx, attempt, g.isRetryable, g.observer.retry); err != nil {
		return err
	}
	if g.Output != nil {
		if g.part != nil {
			return g.pour(ctx)
		}
		return nil
	}
	if !g.result.UpToDate {
		mode, mtime := fs.FileMode(g.manifest.Mode), g.manifest.MTime
		if g.Plain {
			mode, mtime = 0o666, time.Now()
		}
		if err := g.part.commit(mode, mtime); err != nil {
			return err
		}
	}
	g.result.Path = g.Target
	return nil
}

// isRetryable reports whether what an attempt ended with may be over when it is repeated, and it can be.
func (g *get) isRetryable(err error) bool {
	return isRetryable(err) && (g.part != nil || g.result.Bytes == 0)
}

// attempt fetches what is not there yet.
func (g *get) attempt(ctx context.Context) (err error) {
	if err := g.requestManifest(ctx); err != nil {
		return err
	}
	defer func() { g.close(err) }()
	if g.tree == nil && g.mayBegin() {
		return g.copyCold(ctx)
	}
	if err := g.completeTree(ctx, nil); err != nil {
		return err
	}
	return g.place(ctx, func(ctx context.Context) error { return g.copy(ctx, g.proved().Verify, nil) })
}

// place finds out what is here already of the manifest's file, and calls fetch for the rest if there is any.
func (g *get) place(ctx context.Context, fetch func(context.Context) error) error {
	g.result.Root = g.manifest.Root
	if g.Range != nil {
		if err := g.frame(); err != nil {
			return err
		}
	} else if g.part != nil {
		if done, err := g.upToDate(ctx); err != nil || done {
			return err
		}
		if err := g.prove(ctx); err != nil {
			return err
		}
	}
	if g.part != nil {
		if had, _, _ := g.part.inPlace(); had > 0 {
			g.observer.resume(had)
		}
	}
	switch {
	case g.manifest.Size == 0:
		return nil
	case g.part != nil && g.part.whole():
		g.seeAll()
		return nil
	}
	return fetch(ctx)
}

// headStart is how many bytes of the content a client has sent with the answer, so that they come a round trip earlier: all of a small file, and
// of a large one what its primary would be granted first.
const headStart = 1 << 20

// wantsHeadStart returns how many bytes to have sent with the answer: none if the file, or some of it, may be here already, or if
// another part of it is wanted.
func (g *get) wantsHeadStart() int64 {
	if g.Range != nil || g.Reuse || g.Seed != nil {
		return 0
	}
	if g.part != nil {
		_, err := g.part.dir.Lstat(g.part.name)
		if !errors.Is(err, fs.ErrNotExist) || !g.part.empty() {
			return 0
		}
	}
	return headStart
}

// seeAll reports that nothing is left to fetch.
func (g *get) seeAll() {
	all := kwik.StreamStats{Size: g.manifest.Size, Bytes: g.manifest.Size}
	g.see(g.observer.progress(g.session.Servers(), all), all)
}

// A verifyFunc is the Verify of a tree.
type verifyFunc func(off int64, p []byte) error

// copy takes the content from the servers into the part file, or in order to the output. begun, if it is not nil, is called with
// the stream before anything is asked for.
func (g *get) copy(ctx context.Context, verify verifyFunc, begun func(*kwik.AggregateReader) error) error {
	op := fmt.Sprintf("fetch %q", g.URL.Path)
	accepting, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	offer, err := g.session.AcceptAggregate(accepting, g.stream)
	if err != nil {
		return NetworkError(op, err)
	}
	g.streamAccepted = true
	defer offer.Close()
	if offer.Size() != g.manifest.Size {
		return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the stream has %d bytes, the manifest says %d", offer.Size(), g.manifest.Size)}
	}
	stream, err := offer.Open(g.proof(verify))
	if err != nil {
		return NetworkError(op, err)
	}
	if begun != nil {
		if err := begun(stream); err != nil {
			return err
		}
	}
	options := &kwik.CopyOptions{}
	if g.part != nil {
		for _, r := range g.part.ranges() {
			options.Have = append(options.Have, kwik.Range(r))
		}
		if last, ok := g.part.first(); ok {
			options.Priority = kwik.Range(last)
		}
	}

	if g.headStartRead != nil {
		g.headStartRead()
	}
	stop := g.observer.watch(g.session, stream)
	if g.part != nil {
		_, err = stream.CopyTo(ctx, g.part, options)
	} else {
		defer context.AfterFunc(ctx, func() { stream.Close() })()
		err = copyInOrder(ctx, g.Output, stream)
	}
	stats := stream.Stats()
	g.see(stop(), stats)
	if err == nil {
		return nil
	}
	wrapped := NetworkError(op, err)
	if e, ok := errors.AsType[*Error](wrapped); ok && errors.Is(err, kwik.ErrAggregationTimeout) {
		e.Kind = kindOfLoss(stats.Sources)
	}
	return wrapped
}

// see takes into the result what an attempt ended with.
func (g *get) see(p Progress, stats kwik.StreamStats) {
	g.result.Bytes, g.result.Servers = p.Bytes, p.Servers
	g.result.Wasted += stats.Wasted
}

// proof returns the aggregate stream's kwik.ProofFunc.
func (g *get) proof(verify verifyFunc) kwik.ProofFunc {
	return func(source kwik.ServerID, off int64, p []byte) error {
		err := verify(off, p)
		if bad, ok := errors.AsType[*integrity.GroupError](err); ok {
			g.observer.badBlock(source, bad.Offset, bad.Length)
		}
		return err
	}
}

// A ContextWriter is an Output whose writes may take for ever, and give up when a context ends.
type ContextWriter interface {
	WriteContext(ctx context.Context, p []byte) (int, error)
}

// copyInOrder copies a stream to a writer.
func copyInOrder(ctx context.Context, w io.Writer, stream *kwik.AggregateReader) error {
	write := w.Write
	if patient, ok := w.(ContextWriter); ok {
		write = func(p []byte) (int, error) { return patient.WriteContext(ctx, p) }
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, err := write(buf[:n]); err != nil {
				return LocalError("write the output", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// kindOfLoss says what it means that no source is left: every one lied, or the primary says that the file changed, or it may
// come back. A secondary that has another version may just have an old one.
func kindOfLoss(sources []kwik.SourceStats) Kind {
	lied := 0
	for _, s := range sources {
		if s.Primary && errors.Is(s.Gone, kwik.ErrContentChanged) {
			return KindChanged
		}
		if _, ok := errors.AsType[*integrity.GroupError](s.Gone); ok {
			lied++
		}
	}
	if lied > 0 && lied == len(sources) {
		return KindIntegrity
	}
	return KindNetwork
}
