package transfer

import (
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"math"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// batchBytes bounds the bytes of a batch of more than one file, firstBatch those of the first
	// batch.
	batchBytes = 64 << 20
	firstBatch = 8 << 20
	// batchDescriptor bounds the descriptor of a batch of more than one file, in bytes; kwik
	// allows 64 KiB.
	batchDescriptor = 56 << 10
	// cvSize is the length of a chaining value in bytes.
	cvSize = 32
)

// A batch is a group of files that are requested together and arrive in one aggregate stream.
type batch struct {
	files     []*mirrorFile
	paths     []byte // encoded, as in the request
	pathBytes int    // length of the paths before they are encoded
	bytes     int64  // of the files, according to the listing
	tries     int    // how often its files were fetched before

	stream     []*mirrorFile           // the files with content in the stream, in order
	webMirrors []*transferpb.WebMirror // that the primary names
	trees      treeShare               // of the files' trees; the caller of requestBatch releases it
}

func newBatch() *batch { return &batch{} }

func (b *batch) empty() bool { return len(b.files) == 0 }

// fits reports whether a file may be added. Any file fits into an empty batch.
func (b *batch) fits(e Entry) bool {
	const perFile = wire.RootPrefix + 20 // 20 bytes hold the usual varints of lengths, size and time
	descriptor := len(b.paths) + len(e.Path) + (len(b.files)+1)*perFile
	withinRequest := len(b.files) < wire.MaxBatchFiles && b.pathBytes+len(e.Path) <= wire.MaxBatchPaths
	withinStream := b.bytes+e.Size <= batchBytes && descriptor <= batchDescriptor
	return b.empty() || withinRequest && withinStream
}

func (b *batch) add(f *mirrorFile) {
	before := ""
	if !b.empty() {
		before = b.files[len(b.files)-1].entry.Path
	}
	b.files = append(b.files, f)
	b.paths = wire.AppendPath(b.paths, before, f.entry.Path)
	b.pathBytes += len(f.entry.Path)
	b.bytes += f.entry.Size
}

// requestBatch requests the files of a batch. Each file gets its manifest and its verified tree,
// or a refusal. The returned stream has the contents; it is nil if there are none. The caller
// closes it, and releases the trees of the batch, also after an error. An error concerns the whole
// batch.
func (r *request) requestBatch(ctx context.Context, b *batch) (*kwik.AggregateOffer, error) {
	op := fmt.Sprintf("ask %s for %d files in %q", r.url.Host, len(b.files), r.url.Path)
	x, err := r.startExchange(ctx, op, time.Now().Add(r.timeout), &transferpb.Request{
		Version: wire.ProtocolVersion, Path: []byte(r.url.Path), Batch: &transferpb.BatchRequest{Paths: b.paths},
		Holes: r.wantsHoles, WebMirrors: !r.webOptions.IgnoreNamed,
	})
	if err != nil {
		return nil, err
	}
	defer x.close()
	x.progress = batchLimit(b.bytes)
	size, err := b.describe(ctx, x)
	if err != nil {
		return nil, err
	}
	reply, err := x.nextResult(ctx)
	if err != nil {
		return nil, err
	}
	end := reply.GetBatchEnd()
	hasStream := end.GetKwikStreamId() != 0
	if end == nil || hasStream != (size > 0) {
		return nil, x.malformed(errors.New("it has no end"))
	}
	if !hasStream {
		return nil, nil
	}
	b.webMirrors = end.GetWebMirrors()
	accepting, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	stream, err := r.session.AcceptAggregate(accepting, kwik.StreamID(end.GetKwikStreamId()))
	if err != nil {
		return nil, r.notOffered(op, err)
	}
	if stream.Size() != size {
		stream.Close()
		return nil, x.malformed(fmt.Errorf("the stream has %d bytes, the files have %d", stream.Size(), size))
	}
	return stream, nil
}

// closeOffer closes a stream, if there is one.
func closeOffer(stream *kwik.AggregateOffer) {
	if stream != nil {
		stream.Close()
	}
}

// describe reads the replies about all files of a batch, finds their places in the stream, and
// returns the size of the stream.
func (b *batch) describe(ctx context.Context, x *exchange) (size int64, err error) {
	b.stream = nil
	treeBytes := int64(0) // of all files but the first, whose tree may have any size
	for i, f := range b.files {
		limit := int64(cvSize * integrity.MaxGroups)
		if i > 0 {
			limit = wire.MaxBatchTrees - treeBytes
		}
		used, err := f.describe(ctx, x, limit, &b.trees)
		if err != nil {
			return 0, err
		}
		if i > 0 {
			treeBytes += used
		}
		if f.tree == nil || f.tree.Size() == 0 {
			continue
		}
		if f.tree.Size() > math.MaxInt64-size {
			return 0, x.malformed(errors.New("more bytes than a stream may have"))
		}
		f.start = size
		size += f.tree.Size()
		b.stream = append(b.stream, f)
	}
	return size, nil
}

// nextResult blocks until the next reply that is not about hashing. All replies of an exchange
// together have the time of x.progress.
func (x *exchange) nextResult(ctx context.Context) (*transferpb.Reply, error) {
	for {
		reply, err := x.next(ctx, time.Now().Add(stallLimit(x.stall.timeout)))
		if err != nil {
			return nil, err
		}
		if err := x.progress.observe(0, time.Now()); err != nil {
			return nil, &Error{Kind: KindNetwork, Op: x.op, Err: err}
		}
		if reply.GetHashing() == nil {
			return reply, nil
		}
	}
}

// describe reads the replies about one file, and returns how many bytes of chaining values they
// had, which it takes from trees. It fails if that is more than limit.
func (f *mirrorFile) describe(
	ctx context.Context, x *exchange, limit int64, trees *treeShare,
) (used int64, err error) {
	reply, err := x.nextResult(ctx)
	if err != nil {
		return 0, err
	}
	answer := reply.GetBatchFile()
	if answer == nil {
		return 0, x.unexpected(reply)
	}
	f.tree, f.refusal = nil, nil
	if failure := answer.GetFailure(); failure != nil {
		cause := refusedBy(failure, f.entry.Path)
		f.refusal = &Error{Kind: kindOfFailure(failure.GetCode()), Op: "ask for it", Err: cause}
		return 0, nil
	}
	m := answer.GetManifest()
	if !validManifest(m) {
		return 0, x.malformed(errManifest)
	}
	size, group := int64(m.GetSize()), integrity.GroupSize(m.GetGroup())
	if err := checkGroup(size, m.GetGroup()); err != nil {
		return 0, x.malformed(err)
	}
	groups := group.Groups(size)
	if groups > limit/cvSize {
		return 0, x.malformed(fmt.Errorf("%d bytes in groups of %d", size, group.Bytes()))
	}
	if groups > 1 { // the root is the value of a single group
		used = cvSize * groups
	}
	growing, err := integrity.NewGrowingTree(size, group)
	if err != nil {
		return 0, x.malformed(err)
	}
	part := answer.GetChainingValues()
	for received := int64(0); ; {
		if err := trees.take(int64(len(part))); err != nil {
			return 0, err
		}
		if growing.Append(part) != nil {
			return 0, x.malformed(errTree)
		}
		if received += int64(len(part)); received == used {
			break
		}
		reply, err := x.nextResult(ctx)
		if err != nil {
			return 0, err
		}
		if part = reply.GetTree().GetChainingValues(); len(part) == 0 {
			return 0, x.malformed(errTree)
		}
	}
	if f.tree, err = growing.Finish(integrity.Root(m.GetRoot())); err != nil {
		return 0, &Error{Kind: KindIntegrity, Op: x.op, Err: err}
	}
	if f.holes, err = readHoles(m, trees); err != nil {
		return 0, x.malformedOr(err)
	}
	f.manifest = manifestOf(m)
	return used, nil
}

// validManifest reports whether the values of a manifest with a root are possible.
func validManifest(m *transferpb.Manifest) bool {
	validGroup := m.GetGroup() <= math.MaxUint8 && integrity.GroupSize(m.GetGroup()).Valid()
	validRoot := len(m.GetRoot()) == len(integrity.Root{})
	return m != nil && m.GetSize() <= math.MaxInt64 && validGroup && validRoot
}
