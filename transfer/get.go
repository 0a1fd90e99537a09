package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"os"
	"path/filepath"
	"time"
)

// GetOptions says what to fetch and where to.
type GetOptions struct {
	URL URL
	// TLS decides whom to trust as the primary.
	TLS *tls.Config
	// Target is the path of the file to write. Its directory must exist. A file that is there
	// is replaced, at once and only when the new one is whole.
	Target string
	// NoClobber makes it an error of KindExists if Target exists. It is checked before the
	// network is used, and when the file is put in place.
	NoClobber bool
	// NoPreserve gives the file the mode that the umask allows and the present time, instead of
	// the source's mode and time. A file that is up to date stays as it is.
	NoPreserve bool
	// Reuse takes what is right of the file at Target for the new one, so that only the rest is
	// fetched.
	Reuse bool
	// NoSparse writes all bytes of the file, without holes, and fetches those in holes, too.
	NoSparse bool
	// Seed is another file of which the same is taken; nil for none. It stays the caller's.
	Seed disk.File
	// Range, if set, is the part of the file to fetch: with the groups that it is in, and no
	// others. Target is to hold nothing else. It does not go with Reuse and Seed, and nothing
	// is kept after an error.
	Range *ByteRange
	// Checksums are hashes that the file must have besides the root that the server names. They are
	// proved before the file is put in place, and before an Output gets the last bytes. If one is
	// wrong, nothing is kept. A Range allows only those of BLAKE3.
	Checksums []Checksum
	// Output, if set, receives the bytes in order instead of a file. Those of a Range are all
	// proved before.
	Output io.Writer
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// StallTimeout bounds how long the transfer waits while nothing arrives, once the primary was
	// reached. The transfer outlives outages that are not longer. 0 means DefaultStallTimeout.
	StallTimeout time.Duration
	// Retries is how many times the transfer is tried again after an error of KindNetwork. Each
	// goes on where the one before ended. To an Output there is none after the first byte.
	Retries int
	// RetryDelay is the pause before each retry; 0 means one second before the first, and twice
	// as long before each further one, up to MaxRetryDelay.
	RetryDelay time.Duration

	// MaxTime bounds each attempt; 0 means that nothing does. One that takes longer ends with a
	// *TimeLimitError, and may be retried like one that met an error of the network.
	MaxTime time.Duration
	// RetryMaxTime is for how long after the start of the first attempt another may begin; 0
	// means for ever.
	RetryMaxTime time.Duration

	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddrEarly.
	Dial DialFunc
	// Pool shares the session with other transfers; nil means that this one has its own. TLS
	// and KWIK must be the same for all from one server.
	Pool *Pool
	// Web configures the web mirrors from which bytes are taken, too. With a Pool it must be the
	// same for all files of one primary.
	Web WebOptions
	// WebFile describes the file on web mirrors, besides those of Web. Its Size must be that of
	// the primary's file. If URL is zero there is no primary. Then WebFile must have Size, and
	// either pieces or Checksums, none of which is of BLAKE3. Range must be nil. Without pieces no
	// bytes are verified before the end: nothing is kept after an error, and Reuse and Seed are
	// ignored.
	WebFile WebFile
	// Preallocate says whether free space is reserved for the file; empty means auto.
	Preallocate disk.Preallocation
	// OpenDir opens the target's directory; nil means OpenDir.
	OpenDir func(path string) (disk.Dir, error)
}

// Get fetches a file from a primary and its secondaries, proves it and puts it in place. Its
// errors are *Error, *TimeLimitError, or the cause of ctx if that ended. After an error the
// target is as it was before. A part file may be beside it (Result.Kept). Another Get to the
// same target fetches only the bytes that it lacks.
func Get(ctx context.Context, o GetOptions, report Reporter) (Result, error) {
	if o.OpenDir == nil {
		o.OpenDir = disk.OpenDir
	}
	r := newRequest(o.URL, o.TLS, o.ConnectTimeout, o.StallTimeout, o.KWIK, o.Dial, report)
	g := &get{GetOptions: o, request: r}
	g.pool = o.Pool
	g.byteRange = o.Range
	g.headStart = g.wantsHeadStart
	g.wantsHoles = !o.NoSparse
	g.webOptions, g.webFile = o.Web, o.WebFile
	defer g.closeWeb()
	defer g.trees.release()
	defer g.stall.run()()
	start := time.Now()
	attempt := g.attempt
	if o.URL.Host == "" {
		attempt = g.useWebAlone()
	}
	err := g.requireChecksums()
	if err == nil {
		err = g.run(ctx, attempt)
	}
	g.result.Seconds = time.Since(start).Seconds()
	if err == nil {
		g.result.Checksums = o.Checksums
	}
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
	lacks  disk.Lacks         // notes the operations that were not possible
	part   *partfile.PartFile // nil with an Output, unless there is a Range, and of a blocked target
	// blocked is why the target, at the place at, cannot be written; nil for one that can.
	blocked error
	at      partfile.Place
	path    string // of the file that part becomes, for messages
	// compared is the root that the file at the target was compared with; nil before.
	compared *integrity.Root
	// zeros are the groups that are not fetched for an Output.
	zeros rangeset.Set
	// disproved is set if announced holes were not there.
	disproved bool
	// seeded is the root for which the seeds have been looked through; nil before.
	seeded *integrity.Root
	// followed has hashed the start of the part file for the checksums; nil if nothing has.
	followed *orderedHasher
}

// run prepares the target, calls attempt until it succeeds or a retry cannot help, and puts the
// file in place.
func (g *get) run(ctx context.Context, attempt func(context.Context) error) error {
	defer func() { g.result.Warnings = append(warningsOf(&g.lacks), g.result.Warnings...) }()
	if g.Output == nil || g.Range != nil {
		remove, err := g.openTarget() // before the network is used
		if err != nil {
			return err
		}
		defer remove()
		defer g.leaveTarget()
	}
	p := retryPolicy{g.Retries, g.RetryDelay, g.MaxTime, g.RetryMaxTime, g.stall}
	if err := p.run(ctx, attempt, g.isRetryable, g.observer.retry); err != nil {
		return err
	}
	if err := g.proveChecksums(ctx); err != nil {
		return err
	}
	switch {
	case g.Output != nil && g.part != nil:
		return g.copyOut(ctx)
	case g.Output != nil:
		return nil
	case !g.result.UpToDate:
		if err := g.commit(); err != nil {
			return targetError(g.path, err)
		}
	}
	g.result.Path = g.Target
	return nil
}

// commit puts the file in place, and warns if it replaces a file with another spelling of the name.
func (g *get) commit() error {
	replaced := g.part.Replaces()
	if err := g.part.Commit(g.metadata()); err != nil {
		return err
	}
	if name := filepath.Base(g.path); replaced != name {
		g.result.Warnings = append(g.result.Warnings, spellingWarning(name, replaced))
	}
	return nil
}

// openTarget opens the part file. remove removes the temporary directory of a range that goes
// to the output.
func (g *get) openTarget() (remove func(), err error) {
	g.path, remove = g.Target, func() {}
	if g.Output != nil {
		var dir string
		if g.path, dir, err = spool(); err != nil {
			return nil, err
		}
		remove = func() { os.RemoveAll(dir) } // a part file is in it only if it could not be removed
	}
	if g.part, err = g.openPart(); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// leaveTarget ends the part file, unless it is in place, and takes into the result what is in it.
func (g *get) leaveTarget() {
	lost := int64(0)
	if g.part != nil {
		g.result.Bytes, g.result.Resumed, lost = g.part.InPlace()
		g.result.Holes = g.part.Holes()
	}
	if g.result.UpToDate {
		g.result.Bytes, g.result.Resumed, g.result.Holes = g.manifest.Size, g.manifest.Size, 0
	}
	if g.part == nil {
		g.at.Dir.Close()
		return
	}
	g.result.Wasted += lost
	if g.result.Proof == ProofWhole { // unless it is in place, nothing of it is verified
		g.part.Discard()
	}
	g.result.Kept = g.part.Leave()
}

// metadata returns the mode and time for a new file.
func (g *get) metadata() partfile.Metadata { return metadataOf(g.manifest, g.NoPreserve) }

// metadataOf returns the mode and time of a manifest's file, or those of a new file that
// preserves nothing.
func metadataOf(m Manifest, noPreserve bool) partfile.Metadata {
	if noPreserve {
		return partfile.Metadata{Mode: 0o666, MTime: time.Now()}
	}
	return partfile.Metadata{Mode: fs.FileMode(m.Mode), MTime: m.MTime}
}

// isRetryable reports whether another attempt may succeed: an Output must not have bytes yet.
func (g *get) isRetryable(err error) bool {
	return isRetryable(err) && (g.part != nil || g.result.Bytes == 0)
}

// attempt fetches what is not there yet. If the server announced holes where the file has data, a
// second exchange fetches it.
func (g *get) attempt(ctx context.Context) error {
	if err := g.exchange(ctx); err != nil || g.part == nil || g.result.UpToDate || g.part.Whole() {
		return err
	}
	g.disproved = true
	return g.exchange(ctx)
}

// exchange requests the file and fetches what is not there yet. Only groups in announced holes may
// be missing then.
func (g *get) exchange(ctx context.Context) (err error) {
	g.followed = nil
	if err := g.requestManifest(ctx); err != nil {
		return err
	}
	defer func() { g.close(err) }()
	if f := g.WebFile; f.HasSize && f.Size != g.manifest.Size {
		err := fmt.Errorf("the server's file has %d bytes, not the expected %d", g.manifest.Size, f.Size)
		return &Error{Kind: KindIntegrity, Op: g.answer.op, Err: err}
	}
	if g.tree == nil && g.mayBegin() {
		return g.copyCold(ctx)
	}
	if err := g.completeTree(ctx, nil); err != nil {
		return err
	}
	return g.place(ctx, func(ctx context.Context) error { return g.copy(ctx, g.proved().Verify, nil) })
}

// place finds out what is here already of the manifest's file, and calls fetch for the rest if
// there is any.
func (g *get) place(ctx context.Context, fetch func(context.Context) error) error {
	g.result.Root, g.result.Proof = g.manifest.Root, ProofTree
	if g.blocked != nil {
		return g.compareBlocked(ctx, g.tree)
	}
	if g.part != nil {
		g.part.KeepHoles(g.holes)
	}
	if g.Range != nil {
		if err := g.setWindow(ctx); err != nil {
			return err
		}
	} else if g.part != nil {
		if done, err := g.upToDate(ctx, g.tree); err != nil || done {
			return err
		}
		if err := g.prove(ctx, g.tree); err != nil {
			return err
		}
	} else if err := g.proveZeros(ctx); err != nil {
		return err
	}
	if g.part != nil {
		had, _, _ := g.part.InPlace()
		if had -= g.part.Holes(); had > 0 {
			g.observer.resume(had)
		}
	}
	switch {
	case g.manifest.Size == 0:
		return nil
	case g.part != nil && g.part.Whole():
		g.seeAll()
		return nil
	}
	return fetch(ctx)
}

// headStart is how many bytes of the content a client requests with the answer, so that they
// arrive a round trip earlier. They are all of a small file, and of a large one the bytes that
// its primary would be granted first.
const headStart = 1 << 20

// wantsHeadStart returns how many bytes to request together with the answer. It returns 0 if
// bytes of the file may be local already, or for a range.
func (g *get) wantsHeadStart() int64 {
	if g.Range != nil || g.Reuse || g.Seed != nil || g.blocked != nil {
		return 0
	}
	if g.part != nil && (g.part.Exists() || !g.part.Empty()) {
		return 0
	}
	return headStart
}

// seeAll reports that nothing is left to fetch.
func (g *get) seeAll() {
	all := kwik.StreamStats{Size: g.manifest.Size, Bytes: g.manifest.Size}
	g.see(g.observer.progress(g.servers(), all), all)
}

// A verifyFunc is the Verify of a tree.
type verifyFunc func(off int64, p []byte) error

// copy takes the content from the servers into the part file, or in order to the output. begun,
// if it is not nil, is called with the stream before anything is requested.
func (g *get) copy(ctx context.Context, verify verifyFunc, begun func(*kwik.AggregateReader) error) error {
	op := g.fetchOp()
	accepting, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	offer, err := g.session.AcceptAggregate(accepting, g.stream)
	if err != nil {
		return g.notOffered(op, err)
	}
	g.streamAccepted = true
	defer offer.Close()
	if offer.Size() != g.manifest.Size {
		return &Error{Kind: KindOther, Op: op,
			Err: fmt.Errorf("the stream has %d bytes, the manifest says %d", offer.Size(), g.manifest.Size)}
	}
	stream, err := offer.Open(g.proof(verify))
	if err != nil {
		return NetworkError(op, err)
	}
	options := &kwik.CopyOptions{}
	if g.part != nil {
		have := rangeset.Of(g.part.Have()...)
		if g.tree == nil && g.rangeTree == nil { // the holes are proved when the tree is complete
			groups := g.holes.Groups()
			for r := range groups.All() {
				have.Add(r.Start, r.End)
			}
		}
		options.Have = rangesOf(have)
		if last, ok := g.part.Priority(); ok {
			options.Priority = kwik.Range(last)
		}
	} else if err := stream.SetZeros(rangesOf(g.zeros)); err != nil {
		return NetworkError(op, err)
	}
	g.addWebMirrors(stream)
	known := g.manifest.Root // begun may start a goroutine that reads it
	if begun != nil {
		if err := begun(stream); err != nil {
			return err
		}
	}

	if g.headStartRead != nil {
		g.headStartRead()
	}
	stop := g.observer.watch(g.servers, stream)
	if g.part != nil {
		err = g.copyToPart(ctx, stream, options, known)
	} else {
		defer context.AfterFunc(ctx, func() { stream.Close() })()
		err = g.copyToOutput(ctx, stream)
	}
	stats := stream.Stats()
	g.see(stop(), stats)
	if err == nil {
		return nil
	}
	wrapped := NetworkError(op, err)
	if e, ok := errors.AsType[*Error](wrapped); ok && errors.Is(err, kwik.ErrAggregationTimeout) {
		lostSources(e, stats.Sources)
	}
	return wrapped
}

// copyToPart copies a stream to the part file, which is hashed meanwhile if there are checksums.
// known is the root; zero if it was not known when the stream began.
func (g *get) copyToPart(
	ctx context.Context, stream *kwik.AggregateReader, o *kwik.CopyOptions, known integrity.Root,
) error {
	target := targetWriter{g.part, g.path}
	follower := g.startFollower(known)
	if follower == nil {
		_, err := stream.CopyTo(ctx, target, o)
		return err
	}
	_, err := stream.CopyTo(ctx, followedWriter{target, follower}, o)
	failed := follower.stop()
	g.followed = follower.orderedHasher
	switch {
	case err != nil:
		g.followed = nil // another attempt may find another version
		return err
	case failed != nil:
		return targetError(g.path, failed)
	}
	return nil
}

// copyToOutput copies a stream to the output, in order.
func (g *get) copyToOutput(ctx context.Context, stream *kwik.AggregateReader) error {
	if len(g.Checksums) == 0 {
		return copyInOrder(ctx, g.Output, stream)
	}
	checked := &checkedOutput{output: g.Output, hasher: newHasher(g.Checksums)}
	if err := copyInOrder(ctx, checked, stream); err != nil {
		return err
	}
	return checked.finish(ctx, g.fetchOp(), g.manifest.Root)
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

// kindOfLoss returns the kind of error when no source is left. Either all sent wrong bytes, or
// the primary reports a changed file or ended the client's permission, or a retry may help. A
// secondary with another version may just have an old one.
func kindOfLoss(sources []kwik.SourceStats) Kind {
	lied := 0
	for _, s := range sources {
		if s.Primary && errors.Is(s.Gone, kwik.ErrContentChanged) {
			return KindChanged
		}
		if s.Primary && errors.Is(s.Gone, kwik.ErrAccessRefused) {
			return KindRefused
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
