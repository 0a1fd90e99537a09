package serve

import (
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/internal/procs"
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

// This file is how a primary answers for a batch of files: what each of them is, and one aggregate stream of them all.

const (
	// tinyFile is below which size a file is hashed for each batch that it is in, in bytes: that takes less time than to keep what came out.
	tinyFile = 1 << 20
)

var (
	errRequest = errors.New("the request makes no sense")
	errTooMuch = errors.New("there are too many chunk groups for one batch")
)

// A pack is a batch that is being answered or was offered.
type pack struct {
	base  string // the directory, relative to the served one
	files []*offeredFile
	trees atomic.Int64 // bytes of chaining values of the files after the first that are hashed or about to be
}

// An offeredFile is a file of a batch, as the server found it.
type offeredFile struct {
	path    string        // below base
	done    chan struct{} // closed when the rest is set
	version disk.Version
	tree    *integrity.Tree
	mtime   time.Time
	mode    uint32
	err     error
}

// offerPack answers a BatchRequest.
func (s *Server) offerPack(ctx context.Context, session *kwik.ServerSession, w answerWriter, request *transferpb.Request) (offered, error) {
	p := &pack{base: string(request.GetPath())}
	if p.base != "" && wire.CheckPath(p.base) != nil {
		return offered{}, errRequest
	}
	for r := (wire.PathReader{Rest: request.GetBatch().GetPaths()}); r.More(); {
		path, err := r.Path()
		if err != nil || len(p.files) >= wire.MaxBatchFiles {
			return offered{}, errRequest
		}
		p.files = append(p.files, &offeredFile{path: path, done: make(chan struct{})})
	}
	if len(p.files) == 0 {
		return offered{}, errRequest
	}
	ctx, cancel := context.WithCancel(ctx)
	defer s.packs.looking(ctx, s, p)() // waits
	defer cancel()
	out := &packWriter{answerWriter: w}
	if err := s.describe(ctx, out, p); err != nil {
		return offered{}, err
	}
	offer, err := s.openPack(session, p)
	if err != nil {
		return offered{}, err
	}
	end := &transferpb.BatchEnd{}
	if offer.stream != nil {
		end.KwikStreamId = uint64(offer.stream.StreamID())
	}
	if err := out.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{BatchEnd: end}}); err != nil {
		return offer, err
	}
	return offer, out.flush()
}

// describe says of each file what it is, in order, while others are still looked at.
func (s *Server) describe(ctx context.Context, out *packWriter, p *pack) error {
	ticker := time.NewTicker(wire.HashingInterval)
	defer ticker.Stop()
	for i, f := range p.files {
		for waiting := true; waiting; {
			select {
			case <-f.done:
				waiting = false
				continue
			default:
			}
			if err := out.flush(); err != nil {
				return err
			}
			select {
			case <-f.done:
			case <-ctx.Done():
				return ctx.Err()
			case <-ticker.C:
				hashing := &transferpb.Hashing{Bytes: uint64(i), Total: uint64(len(p.files))}
				if err := out.put(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: hashing}}); err != nil {
					return err
				}
			}
		}
		if err := out.file(f); err != nil {
			return err
		}
	}
	return nil
}

// openPack offers the stream of what there is of a batch; the offer is empty if that is nothing. Until the client has released it the server knows
// which versions of the files it is about.
func (s *Server) openPack(session *kwik.ServerSession, p *pack) (offer offered, err error) {
	var raw []byte
	spec := kwik.AggregateStreamSpec{}
	known := &knownPack{}
	before := wire.BatchFile{}
	for _, f := range p.files {
		if f.err != nil || f.tree.Size() == 0 {
			continue
		}
		if f.tree.Size() > math.MaxInt64/4-spec.Size {
			return offered{}, errTooMuch
		}
		root := f.tree.Root()
		packed := wire.BatchFile{Path: f.path, Size: f.tree.Size(), MTime: f.version.MTime, Root: [wire.RootPrefix]byte(root[:])}
		raw = wire.AppendFile(raw, before, packed)
		before = packed
		spec.Size += f.tree.Size()
		spec.Segments = append(spec.Segments, f.tree.Size())
		spec.Alignment = max(spec.Alignment, f.tree.GroupSize().Bytes())
		known.versions, known.trees = append(known.versions, f.version), append(known.trees, f.tree)
	}
	if spec.Size == 0 {
		return offered{}, nil
	}
	spec.Descriptor, err = proto.Marshal(&transferpb.FileDescriptor{Path: []byte(p.base), Batch: &transferpb.BatchDescriptor{Files: raw}})
	if err != nil {
		return offered{}, err
	}
	s.packs.remember(string(spec.Descriptor), known) // before a source may be asked for it
	stream, err := session.OpenAggregateStream(spec)
	if err != nil {
		s.packs.forget(string(spec.Descriptor), known)
		return offered{}, err
	}
	context.AfterFunc(stream.Context(), func() { s.packs.forget(string(spec.Descriptor), known) })
	return offered{size: spec.Size, stream: stream}, nil
}

// packs is what a server knows of the batches that it has offered. Its zero value is ready.
type packs struct {
	gate  chan struct{} // bounds how many small files are hashed at once
	mu    sync.Mutex
	known map[string][]*knownPack // by descriptor; several clients may have the same
}

// A knownPack says what the files of a batch were when they were offered, in the order of the descriptor.
type knownPack struct {
	versions []disk.Version
	trees    []*integrity.Tree
}

func (k *packs) remember(descriptor string, p *knownPack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = make(map[string][]*knownPack)
	}
	k.known[descriptor] = append(k.known[descriptor], p)
}

func (k *packs) forget(descriptor string, p *knownPack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, o := range k.known[descriptor] {
		if o == p {
			k.known[descriptor] = append(k.known[descriptor][:i:i], k.known[descriptor][i+1:]...)
			break
		}
	}
	if len(k.known[descriptor]) == 0 {
		delete(k.known, descriptor)
	}
}

// look returns what is known of the newest offer of a descriptor, nil if it was not offered here.
func (k *packs) look(descriptor string) *knownPack {
	k.mu.Lock()
	defer k.mu.Unlock()
	if all := k.known[descriptor]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// slot returns the gate through which those go who hash small files, of all clients.
func (k *packs) slot() chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gate == nil {
		k.gate = make(chan struct{}, procs.Max)
	}
	return k.gate
}

// looking begins to look at the files of a batch, several at a time and in order, until ctx ends. The returned function waits for that.
func (k *packs) looking(ctx context.Context, s *Server, p *pack) (wait func()) {
	gate := k.slot()
	var wg sync.WaitGroup
	next := make(chan *offeredFile)
	wg.Go(func() {
		defer close(next)
		for _, f := range p.files {
			select {
			case next <- f:
			case <-ctx.Done():
				return
			}
		}
	})
	for range min(procs.Max+1, len(p.files)) {
		wg.Go(func() {
			for f := range next {
				f.err = s.look(ctx, gate, p, f)
				close(f.done)
			}
		})
	}
	return wg.Wait
}

// look finds out what a file is. Of many large files it hashes only as many as there is room for; the first is always among them.
func (s *Server) look(ctx context.Context, gate chan struct{}, p *pack, f *offeredFile) error {
	path := disk.JoinPath(p.base, f.path)
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
	need := 32 * integrity.GroupSizeFor(f.version.Size).Groups(f.version.Size) // or 0 for one group, which counts nevertheless
	if f != p.files[0] && p.trees.Add(need) > wire.MaxBatchTrees {
		p.trees.Add(-need)
		return errTooMuch
	}
	if f.version.Size < tinyFile {
		select {
		case gate <- struct{}{}:
			defer func() { <-gate }()
		case <-ctx.Done():
			return ctx.Err()
		}
		f.tree, err = buildTiny(ctx, file, f.version)
		return err
	}
	f.tree, err = s.bigTree(ctx, path, f.version)
	return err
}

// buildTiny hashes a file of a version.
func buildTiny(ctx context.Context, file disk.File, version disk.Version) (*integrity.Tree, error) {
	tree, err := integrity.Build(ctx, file, version.Size, integrity.GroupSizeFor(version.Size), nil)
	if changed := checkVersion(file, version); changed != nil {
		return nil, changed
	}
	return tree, err
}

// bigTree returns the tree of a file that is worth to be remembered.
func (s *Server) bigTree(ctx context.Context, path string, version disk.Version) (*integrity.Tree, error) {
	entry := s.index.lookup(path, version, func() (disk.File, error) { return s.dir.Open(path) })
	select {
	case <-entry.done:
		return entry.tree, entry.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A packWriter gathers messages: those of small files are short.
type packWriter struct {
	answerWriter
	buf []byte
}

// packWrite is how much is gathered, in bytes.
const packWrite = 32 << 10

func (w *packWriter) put(r *transferpb.Reply) error {
	var err error
	if w.buf, err = wire.AppendMessage(w.buf, r); err != nil {
		return err
	}
	if len(w.buf) < packWrite {
		return nil
	}
	return w.flush()
}

func (w *packWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.stream.SetWriteDeadline(time.Now().Add(requestTimeout))
	_, err := w.stream.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// file says what a file is, or why there is none.
func (w *packWriter) file(f *offeredFile) error {
	if f.err != nil {
		failure := &transferpb.Failure{Code: failureCode(f.err), Message: failureMessage(f.err)}
		return w.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchFile{BatchFile: &transferpb.BatchFile{File: &transferpb.BatchFile_Failure{Failure: failure}}}})
	}
	root, cvs := f.tree.Root(), f.tree.CVs()
	n := min(len(cvs), wire.TreePart-1024)
	message := &transferpb.BatchFile{
		File: &transferpb.BatchFile_Manifest{Manifest: &transferpb.Manifest{
			Size: uint64(f.tree.Size()), Root: root[:], Group: uint32(f.tree.GroupSize()),
			MtimeNs: f.mtime.UnixNano(), Mode: f.mode,
		}},
		ChainingValues: cvs[:n],
	}
	err := w.put(&transferpb.Reply{Reply: &transferpb.Reply_BatchFile{BatchFile: message}})
	for cvs = cvs[n:]; len(cvs) > 0 && err == nil; cvs = cvs[n:] {
		n = min(len(cvs), wire.TreePart)
		err = w.put(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: &transferpb.Tree{ChainingValues: cvs[:n]}}})
	}
	return err
}
