package serve

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the response to a request for a batch of files: a description of each file, and one
// aggregate stream.

// maxBatches bounds the batches of one session that the server responds to at a time; more wait.
const maxBatches = 4

// A batch is a request for several files while the server responds to it. Its files are decoded and
// inspected as the client takes their descriptions.
type batch struct {
	client    client
	allowed   scope        // the paths that the client may read
	base      string       // the directory of the files, relative to the served one
	paths     []byte       // encoded, and checked
	holes     bool         // the client wants holes
	count     int          // of paths
	treeBytes atomic.Int64 // chaining values of the files after the first that are hashed or about to be

	mu   sync.Mutex            // guards the field below
	tiny map[fileKey]*tinyTree // the tiny files that were found so far
}

// A batchFile is one file of a batch, as the server finds it.
type batchFile struct {
	path    string // below base
	isFirst bool
	done    chan struct{} // closed when the fields below are set
	version disk.Version
	tree    *integrity.Tree
	mtime   time.Time
	mode    uint32
	holes   announcedHoles
	err     error
}

// parseBatch returns the batch that a request describes. The error is errRequest.
func parseBatch(c client, request *transferpb.Request) (*batch, error) {
	b := &batch{
		client: c, base: string(request.GetPath()), paths: request.GetBatch().GetPaths(),
		holes: request.GetHoles(), tiny: make(map[fileKey]*tinyTree),
	}
	if b.base != "" && wire.CheckPath(b.base) != nil {
		return nil, errRequest
	}
	for r := b.reader(); r.More(); b.count++ {
		if _, err := r.Path(); err != nil || b.count == wire.MaxBatchFiles {
			return nil, errRequest
		}
	}
	if b.count == 0 {
		return nil, errRequest
	}
	return b, nil
}

// reader returns a reader of the paths of the batch.
func (b *batch) reader() wire.PathReader { return wire.PathReader{Rest: b.paths, Ordered: true} }

// memory returns about the memory of a batch besides its trees, in bytes: its paths, and a file of
// the descriptor for each.
func (b *batch) memory() int64 {
	const perFile = 512
	return perFile*int64(b.count) + 2*int64(len(b.paths))
}

// respondBatch responds to a BatchRequest.
func (s *Server) respondBatch(
	ctx context.Context, allowed scope, session *kwik.ServerSession, w replyWriter, request *transferpb.Request,
) (servedContent, error) {
	leave, err := s.batches.enter(ctx, session)
	if err != nil {
		return servedContent{}, err
	}
	defer leave()
	b, err := parseBatch(clientOf(session), request)
	if err != nil {
		return servedContent{}, err
	}
	b.allowed = allowed
	if err := w.memory.add(b.memory()); err != nil {
		return servedContent{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	files, wait := s.inspectFiles(ctx, b)
	defer wait()
	defer cancel()
	out := &batchWriter{replyWriter: w}
	stream := &batchStream{served: &servedBatch{}}
	if err := out.describe(ctx, b, files, stream.add); err != nil {
		return servedContent{}, err
	}
	if err := w.memory.add(stream.served.treeMemory()); err != nil {
		return servedContent{}, err
	}
	content, err := s.openBatch(session, b, stream)
	if err != nil {
		return servedContent{}, err
	}
	end := &transferpb.BatchEnd{WebMirrors: s.webMirrorsFor(request)}
	if content.stream != nil {
		end.KwikStreamId = uint64(content.stream.StreamID())
	}
	if err := out.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{BatchEnd: end}}); err != nil {
		return content, err
	}
	return content, out.flush()
}

// A batchStream is the stream of a batch before it is opened: the files that were found and have
// bytes.
type batchStream struct {
	spec   kwik.AggregateStreamSpec
	served *servedBatch
	raw    []byte         // the files as the descriptor has them
	last   wire.BatchFile // that was added
}

// add adds a file. The error is errTooMuch.
func (b *batchStream) add(f *batchFile) error {
	if f.err != nil || f.tree.Size() == 0 {
		return nil
	}
	if f.tree.Size() > math.MaxInt64/4-b.spec.Size {
		return errTooMuch
	}
	root := f.tree.Root()
	file := wire.BatchFile{
		Path: f.path, Size: f.tree.Size(), MTime: f.version.MTime, Root: [wire.RootPrefix]byte(root[:]),
	}
	b.raw = wire.AppendFile(b.raw, b.last, file)
	b.last = file
	b.spec.Size += f.tree.Size()
	b.spec.Segments = append(b.spec.Segments, f.tree.Size())
	b.spec.Alignment = max(b.spec.Alignment, f.tree.GroupSize().Bytes())
	b.served.versions, b.served.trees = append(b.served.versions, f.version), append(b.served.trees, f.tree)
	return nil
}

// openBatch opens the stream of the files of a batch. If they have no bytes there is no stream. The
// server knows their versions until the client has released the stream.
func (s *Server) openBatch(session *kwik.ServerSession, b *batch, of *batchStream) (servedContent, error) {
	if of.spec.Size == 0 {
		return servedContent{}, nil
	}
	var err error
	of.spec.Descriptor, err = proto.Marshal(&transferpb.FileDescriptor{
		Path: []byte(b.base), Batch: &transferpb.BatchDescriptor{Files: of.raw},
	})
	if err != nil {
		return servedContent{}, err
	}
	descriptor := string(of.spec.Descriptor)
	s.batches.add(descriptor, of.served) // before a client can request content of the stream
	stream, err := session.OpenAggregateStream(of.spec)
	if err != nil {
		s.batches.remove(descriptor, of.served)
		return servedContent{}, err
	}
	context.AfterFunc(stream.Context(), func() { s.batches.remove(descriptor, of.served) })
	return servedContent{size: of.spec.Size, stream: stream}, nil
}
