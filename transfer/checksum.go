package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"kwikcp/integrity"
	"kwikcp/internal/checksum"
	"kwikcp/transfer/internal/partfile"
	"time"
)

// A Checksum is a hash that a file must have besides the one that its server names. It is of
// BLAKE3, SHA-256, SHA-512 or MD5.
type Checksum struct{ sum checksum.Sum }

// ParseChecksum parses NAME=HEX, such as sha256=9f86..., or HEX alone, which may be of any of the
// algorithms with hashes of that length. Names are blake3, sha256, sha512 and md5.
func ParseChecksum(text string) (Checksum, error) {
	sum, err := checksum.ParseSum(text)
	return Checksum{sum}, err
}

// String returns the form that ParseChecksum parses.
func (c Checksum) String() string { return c.sum.String() }

// Root returns the root that the file must have. ok is false unless the algorithm is BLAKE3.
func (c Checksum) Root() (root integrity.Root, ok bool) {
	value, ok := c.sum.BLAKE3()
	if !ok {
		return root, false
	}
	return integrity.Root(value), true
}

// A ChecksumError reports that a file has the root that its server names, but not a Checksum.
type ChecksumError struct {
	Want  Checksum
	cause error // a *checksum.MismatchError
}

func (e *ChecksumError) Error() string { return e.cause.Error() }

// newHasher returns a Hasher for checksums.
func newHasher(all []Checksum) *checksum.Hasher {
	sums := make([]checksum.Sum, len(all))
	for i, c := range all {
		sums[i] = c.sum
	}
	return checksum.NewHasher(sums)
}

// verifyHasher returns a *ChecksumError unless the bytes that h took, whose root is known, have
// its checksums.
func verifyHasher(h *checksum.Hasher, root integrity.Root) error {
	err := h.Verify(root[:])
	if bad, ok := errors.AsType[*checksum.MismatchError](err); ok {
		return &ChecksumError{Checksum{bad.Want}, bad}
	}
	return nil
}

// checksumError wraps an error of proving the checksums of a file. A *ChecksumError is one of the
// server's file, any other is local. The cause of ctx stays as it is.
func checksumError(ctx context.Context, op string, err error) error {
	if _, wrong := errors.AsType[*ChecksumError](err); wrong {
		return &Error{Kind: KindIntegrity, Op: op, Err: err}
	}
	if err == nil || ctx.Err() != nil && err == context.Cause(ctx) {
		return err
	}
	return LocalError(op, err)
}

// hashBuffer is how many bytes of a file are read at a time to hash them in order.
const hashBuffer = 1 << 20

// An orderedHasher hashes a file in order for its checksums.
type orderedHasher struct {
	hasher *checksum.Hasher
	file   io.ReaderAt
	at     int64 // bytes that were hashed
	buf    []byte
}

func newOrderedHasher(file io.ReaderAt, all []Checksum) *orderedHasher {
	return &orderedHasher{hasher: newHasher(all), file: file}
}

// advance hashes the file up to an offset, or until done is closed. report may be nil.
func (h *orderedHasher) advance(done <-chan struct{}, end int64, report partfile.Report) error {
	switch {
	case h.buf == nil && h.at < end:
		h.buf = make([]byte, min(hashBuffer, end-h.at))
	case int64(len(h.buf)) < min(hashBuffer, end-h.at): // the file grew
		h.buf = make([]byte, hashBuffer)
	}
	reported := time.Now()
	for h.at < end {
		select {
		case <-done:
			return nil
		default:
		}
		n, err := h.file.ReadAt(h.buf[:min(int64(len(h.buf)), end-h.at)], h.at)
		switch {
		case err != nil && err != io.EOF:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		h.hasher.Write(h.buf[:n])
		h.at += int64(n)
		if report != nil && time.Since(reported) >= observeInterval {
			reported = time.Now()
			report(h.at, end)
		}
	}
	return nil
}

// finish hashes the rest of a file of the given size and root, and returns a *ChecksumError if the
// file does not have its checksums. Other errors are those of reading, and the cause of ctx. It
// reads nothing if the root decides.
func (h *orderedHasher) finish(ctx context.Context, size int64, root integrity.Root, report partfile.Report) error {
	if h.hasher.Needed(root[:]) {
		if err := h.advance(ctx.Done(), size, report); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return verifyHasher(h.hasher, root)
}

// A follower hashes the verified bytes at the start of a part file while it grows. It has one
// goroutine, which start starts and stop ends.
type follower struct {
	*orderedHasher
	part  *partfile.PartFile
	grown chan struct{} // holds a value if bytes were written since the goroutine looked
	done  chan struct{}
	ended chan error
}

func newFollower(part *partfile.PartFile, all []Checksum) *follower {
	return &follower{
		orderedHasher: newOrderedHasher(part, all), part: part, grown: make(chan struct{}, 1),
		done: make(chan struct{}), ended: make(chan error, 1),
	}
}

func (f *follower) start() {
	go func() { f.ended <- f.follow() }()
	f.wrote() // the bytes of earlier transfers
}

func (f *follower) follow() error {
	for {
		select {
		case <-f.done:
			return nil
		case <-f.grown:
			if err := f.advance(f.done, f.part.Prefix(), nil); err != nil {
				return err
			}
		}
	}
}

// wrote tells the follower that bytes were written. It does not block.
func (f *follower) wrote() {
	select {
	case f.grown <- struct{}{}:
	default:
	}
}

// stop ends the goroutine, and returns its error.
func (f *follower) stop() error {
	close(f.done)
	return <-f.ended
}

// A followedWriter is a part file that is hashed while it is written.
type followedWriter struct {
	targetWriter
	follower *follower
}

// WriteAt implements io.WriterAt.
func (w followedWriter) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.targetWriter.WriteAt(p, off)
	w.follower.wrote()
	return n, err
}

// A checkedOutput hashes what is written to an output, and holds back the last bytes until the
// checksums are proved. So a reader never gets the whole of a wrong file.
type checkedOutput struct {
	output io.Writer
	hasher *checksum.Hasher
	held   []byte
}

// WriteContext implements ContextWriter.
func (o *checkedOutput) WriteContext(ctx context.Context, p []byte) (int, error) {
	if err := o.release(ctx); err != nil {
		return 0, err
	}
	o.hasher.Write(p)
	o.held = append(o.held[:0], p...)
	return len(p), nil
}

// Write implements io.Writer.
func (o *checkedOutput) Write(p []byte) (int, error) { return o.WriteContext(context.Background(), p) }

// release writes what was held back.
func (o *checkedOutput) release(ctx context.Context) (err error) {
	if len(o.held) == 0 {
		return nil
	}
	if patient, ok := o.output.(ContextWriter); ok {
		_, err = patient.WriteContext(ctx, o.held)
	} else {
		_, err = o.output.Write(o.held)
	}
	return err
}

// finish releases the last bytes if the checksums are right.
func (o *checkedOutput) finish(ctx context.Context, op string, root integrity.Root) error {
	if err := verifyHasher(o.hasher, root); err != nil {
		return checksumError(ctx, op, err)
	}
	if err := o.release(ctx); err != nil {
		return LocalError("write the output", err)
	}
	return nil
}

// fetchOp is the operation that the errors about the content of a get name.
func (g *get) fetchOp() string { return fmt.Sprintf("fetch %q", g.request.url.Path) }

// requireChecksums prepares a get for its checksums. One of BLAKE3 is the root to expect.
func (g *get) requireChecksums() error {
	for _, c := range g.Checksums {
		root, ok := c.Root()
		switch {
		case ok && g.request.url.Root == nil:
			g.request.url.Root = &root
		case !ok && g.Range != nil:
			err := errors.New("a part of a file is proved by a BLAKE3 hash only")
			return &Error{Kind: KindOther, Op: g.fetchOp(), Err: err}
		}
	}
	return nil
}

// startFollower starts to hash the part file for the checksums while it is written. It returns nil
// if the part file need not be read. known is the root, zero until the primary knows it.
func (g *get) startFollower(known integrity.Root) *follower {
	if len(g.Checksums) == 0 || g.Range != nil || !newHasher(g.Checksums).Needed(known[:]) {
		return nil
	}
	f := newFollower(g.part, g.Checksums)
	f.start()
	return f
}

// proveChecksums returns an error if what was fetched does not have the checksums. Then the part
// file is removed.
func (g *get) proveChecksums(ctx context.Context) error {
	isProved := g.result.UpToDate || g.Output != nil && g.manifest.Size > 0
	if len(g.Checksums) == 0 || g.Range != nil || isProved {
		return nil
	}
	err := g.checkChecksums(ctx)
	if _, wrong := errors.AsType[*ChecksumError](err); wrong && g.part != nil {
		g.part.Discard()
	}
	return err
}

// checkChecksums returns an error if what was fetched does not have the checksums.
func (g *get) checkChecksums(ctx context.Context) error {
	if g.followed == nil {
		var file io.ReaderAt // of an empty output there is none
		if g.part != nil {
			file = g.part
		}
		g.followed = newOrderedHasher(file, g.Checksums)
	}
	err := g.followed.finish(ctx, g.manifest.Size, g.manifest.Root, g.observer.checking)
	return checksumError(ctx, g.fetchOp(), err)
}

// proveTarget returns an error if a file that has the root does not have the checksums.
func (g *get) proveTarget(ctx context.Context, f io.ReaderAt) error {
	h := newOrderedHasher(f, g.Checksums)
	err := h.finish(ctx, g.manifest.Size, g.manifest.Root, g.observer.checking)
	return checksumError(ctx, g.fetchOp(), err)
}

// CheckFile hashes a local file of the given size and returns a *ChecksumError if it does not have
// a checksum. The algorithm must not be BLAKE3. Other errors are those of reading, and the cause of
// ctx. report may be nil.
func CheckFile(ctx context.Context, f io.ReaderAt, size int64, c Checksum, report Reporter) error {
	var checking partfile.Report
	if report != nil {
		checking = report.Checking
	}
	return newOrderedHasher(f, []Checksum{c}).finish(ctx, size, integrity.Root{}, checking)
}
