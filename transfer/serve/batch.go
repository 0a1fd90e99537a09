package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the response to a request for a batch of files: a description of each file, and one
// aggregate stream.

// tinyFile is the size, in bytes, below which a file is hashed again for each batch that contains
// it. That takes less time than an index entry does.
const tinyFile = 1 << 20

// A batch is a request for several files while the server responds to it.
type batch struct {
	base      string // the directory of the files, relative to the served one
	allowed   scope  // the paths that the client may read
	files     []*batchFile
	treeBytes atomic.Int64 // chaining values of the files after the first that are hashed or about to be
}

// A batchFile is one file of a batch, as the server finds it.
type batchFile struct {
	path    string        // below base
	done    chan struct{} // closed when the fields below are set
	version disk.Version
	tree    *integrity.Tree
	mtime   time.Time
	mode    uint32
	err     error
}

// parseBatch returns the batch that a request describes. The error is errRequest.
func parseBatch(request *transferpb.Request) (*batch, error) {
	b := &batch{base: string(request.GetPath())}
	if b.base != "" && wire.CheckPath(b.base) != nil {
		return nil, errRequest
	}
	for r := (wire.PathReader{Rest: request.GetBatch().GetPaths()}); r.More(); {
		path, err := r.Path()
		if err != nil || len(b.files) >= wire.MaxBatchFiles {
			return nil, errRequest
		}
		b.files = append(b.files, &batchFile{path: path, done: make(chan struct{})})
	}
	if len(b.files) == 0 {
		return nil, errRequest
	}
	return b, nil
}

// respondBatch responds to a BatchRequest.
func (s *Server) respondBatch(
	ctx context.Context, allowed scope, session *kwik.ServerSession, w replyWriter, request *transferpb.Request,
) (servedContent, error) {
	b, err := parseBatch(request)
	if err != nil {
		return servedContent{}, err
	}
	b.allowed = allowed
	ctx, cancel := context.WithCancel(ctx)
	wait := s.inspectFiles(ctx, b)
	defer wait()
	defer cancel()
	out := &batchWriter{replyWriter: w}
	if err := out.describe(ctx, b); err != nil {
		return servedContent{}, err
	}
	content, err := s.openBatch(session, b)
	if err != nil {
		return servedContent{}, err
	}
	end := &transferpb.BatchEnd{}
	if content.stream != nil {
		end.KwikStreamId = uint64(content.stream.StreamID())
	}
	if err := out.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{BatchEnd: end}}); err != nil {
		return content, err
	}
	return content, out.flush()
}

// openBatch opens the stream of the files of a batch that were found. If they have no bytes there
// is no stream. The server knows their versions until the client has released the stream.
func (s *Server) openBatch(session *kwik.ServerSession, b *batch) (servedContent, error) {
	var raw []byte
	spec := kwik.AggregateStreamSpec{}
	served := &servedBatch{}
	before := wire.BatchFile{}
	for _, f := range b.files {
		if f.err != nil || f.tree.Size() == 0 {
			continue
		}
		if f.tree.Size() > math.MaxInt64/4-spec.Size {
			return servedContent{}, errTooMuch
		}
		root := f.tree.Root()
		file := wire.BatchFile{
			Path: f.path, Size: f.tree.Size(), MTime: f.version.MTime, Root: [wire.RootPrefix]byte(root[:]),
		}
		raw = wire.AppendFile(raw, before, file)
		before = file
		spec.Size += f.tree.Size()
		spec.Segments = append(spec.Segments, f.tree.Size())
		spec.Alignment = max(spec.Alignment, f.tree.GroupSize().Bytes())
		served.versions, served.trees = append(served.versions, f.version), append(served.trees, f.tree)
	}
	if spec.Size == 0 {
		return servedContent{}, nil
	}
	var err error
	spec.Descriptor, err = proto.Marshal(&transferpb.FileDescriptor{
		Path: []byte(b.base), Batch: &transferpb.BatchDescriptor{Files: raw},
	})
	if err != nil {
		return servedContent{}, err
	}
	descriptor := string(spec.Descriptor)
	s.batches.add(descriptor, served) // before a client can request content of the stream
	stream, err := session.OpenAggregateStream(spec)
	if err != nil {
		s.batches.remove(descriptor, served)
		return servedContent{}, err
	}
	context.AfterFunc(stream.Context(), func() { s.batches.remove(descriptor, served) })
	return servedContent{size: spec.Size, stream: stream}, nil
}

// servedBatches holds the batches whose streams are open.
type servedBatches struct {
	hashing chan struct{} // holds an element for each tiny file that is hashed, for any client

	mu           sync.Mutex
	byDescriptor map[string][]*servedBatch // several streams may have the same descriptor
}

// A servedBatch holds the files of a stream, in the order of its descriptor. It does not change.
type servedBatch struct {
	versions []disk.Version
	trees    []*integrity.Tree
}

func newServedBatches() *servedBatches {
	return &servedBatches{
		hashing:      make(chan struct{}, procs.Max),
		byDescriptor: make(map[string][]*servedBatch),
	}
}

func (k *servedBatches) add(descriptor string, b *servedBatch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byDescriptor[descriptor] = append(k.byDescriptor[descriptor], b)
}

func (k *servedBatches) remove(descriptor string, b *servedBatch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.byDescriptor[descriptor]
	if i := slices.Index(all, b); i >= 0 {
		all = slices.Delete(all, i, i+1)
	}
	if len(all) == 0 {
		delete(k.byDescriptor, descriptor)
		return
	}
	k.byDescriptor[descriptor] = all
}

// newest returns the batch of the newest open stream with a descriptor. ok is false if this
// server opened none.
func (k *servedBatches) newest(descriptor string) (b *servedBatch, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.byDescriptor[descriptor]
	if len(all) == 0 {
		return nil, false
	}
	return all[len(all)-1], true
}

// inspectFiles starts to inspect the files of a batch, several at a time and in order, until ctx
// ends. The returned function waits until the goroutines that do so have ended.
func (s *Server) inspectFiles(ctx context.Context, b *batch) (wait func()) {
	var wg sync.WaitGroup
	next := make(chan *batchFile)
	wg.Go(func() {
		defer close(next)
		for _, f := range b.files {
			select {
			case next <- f:
			case <-ctx.Done():
				return
			}
		}
	})
	for range min(procs.Max+1, len(b.files)) {
		wg.Go(func() {
			for f := range next {
				f.err = s.inspect(ctx, b, f)
				close(f.done)
			}
		})
	}
	return wg.Wait
}

// inspect fills in a file of a batch. The chaining values of the files are bounded by
// wire.MaxBatchTrees; beyond it the error is errTooMuch. The first file has no bound, so that a
// batch of one large file succeeds.
func (s *Server) inspect(ctx context.Context, b *batch, f *batchFile) error {
	path := disk.JoinPath(b.base, f.path)
	if !b.allowed.allows(path) {
		return errForbidden
	}
	file, err := s.dir.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	f.version, f.mtime, f.mode = disk.VersionOf(info), info.ModTime(), uint32(info.Mode().Perm())
	// A file of one group has no chaining values, but the bound counts one.
	need := cvSize * integrity.GroupSizeFor(f.version.Size).Groups(f.version.Size)
	if f != b.files[0] && b.treeBytes.Add(need) > wire.MaxBatchTrees {
		b.treeBytes.Add(-need)
		return errTooMuch
	}
	if f.version.Size >= tinyFile {
		f.tree, err = s.hash(ctx, path, f.version)
		return err
	}
	select {
	case s.batches.hashing <- struct{}{}:
		defer func() { <-s.batches.hashing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f.tree, err = hashTiny(ctx, file, f.version)
	return err
}

// hashTiny returns the tree of an open file. The error is errFileChanged if the file is not of
// the given version.
func hashTiny(ctx context.Context, file disk.File, version disk.Version) (*integrity.Tree, error) {
	tree, err := integrity.Build(ctx, file, version.Size, integrity.GroupSizeFor(version.Size), nil)
	if changed := checkVersion(file, version); changed != nil {
		return nil, changed
	}
	return tree, err
}
