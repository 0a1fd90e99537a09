package serve

import (
	"context"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the response to a request for one file: a manifest, the file's tree, and an
// aggregate stream of its content. If the file has been hashed, the response is complete at once.
// If not, the client gets the stream at once as well. It then fetches content as far as chaining
// values have been sent, and the root is last.

const (
	// coldAfter is how long a request waits for a tree before the response starts without the
	// root.
	coldAfter = 20 * time.Millisecond
	// treeInterval is how often new chaining values are sent while a file is hashed.
	treeInterval = 20 * time.Millisecond
)

// A servedContent is the content that a response gives the client access to.
type servedContent struct {
	size   int64                 // bytes
	stream *kwik.AggregateStream // nil if there is no content
}

// A response is the response to a request for one file. One goroutine uses it.
type response struct {
	ctx     context.Context
	server  *Server
	session *kwik.ServerSession
	w       replyWriter
	path    string
	info    fs.FileInfo
	entry   *claim
	holes   announcedHoles
	// headStart is how many bytes the server may send before the client requests them.
	headStart int64
	// byteRange is the requested part of the content; nil for all of it.
	byteRange *wire.ByteRange
	mirrors   []*transferpb.WebMirror // to name to the client
	// complete is closed when the response ends. The head start follows it, so that it does not
	// compete with the tree.
	complete chan struct{}
	content  servedContent
	lastSent time.Time // when the client was last sent a sign of progress
}

// respond writes the response to a request, except for a failure: that is the returned error.
func (s *Server) respond(
	ctx context.Context, session *kwik.ServerSession, w replyWriter, request *transferpb.Request,
) (servedContent, error) {
	if request.GetVersion() != wire.ProtocolVersion {
		return servedContent{}, errVersion
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.stream.Context(), cancel)() // no work for a client that is gone or gave up
	allowed, err := s.checkScope(session, request)
	if err != nil {
		return servedContent{}, err
	}
	switch {
	case request.GetList() != nil:
		return servedContent{}, s.list(ctx, allowed, session, w, request)
	case request.GetBatch() != nil:
		return s.respondBatch(ctx, allowed, session, w, request)
	}
	return s.respondFile(ctx, session, w, request)
}

// respondFile responds to a request for one file.
func (s *Server) respondFile(
	ctx context.Context, session *kwik.ServerSession, w replyWriter, request *transferpb.Request,
) (servedContent, error) {
	path := string(request.GetPath())
	if wire.CheckPath(path) != nil {
		return servedContent{}, fs.ErrNotExist // the client does not learn why
	}
	byteRange, err := wire.ReadByteRange(request.GetRange())
	if err != nil {
		return servedContent{}, errRequest
	}
	f, err := s.openInTime(ctx, path)
	if err != nil {
		return servedContent{}, err
	}
	info, err := f.Stat()
	var holes announcedHoles
	if err == nil && request.GetHoles() {
		holes = findHoles(f, info.Size())
	}
	f.Close()
	if err != nil {
		return servedContent{}, err
	}
	r := &response{
		ctx: ctx, server: s, session: session, w: w, path: path, info: info, holes: holes,
		lastSent: time.Now(), complete: make(chan struct{}), mirrors: s.webMirrorsFor(request),
	}
	defer close(r.complete)
	if request.GetRange() == nil {
		r.headStart = int64(min(request.GetHeadStart(), math.MaxInt64))
	} else {
		r.byteRange = &byteRange
	}
	r.entry = s.claim(clientOf(session), path, disk.VersionOf(info))
	defer r.entry.release()
	err = r.send()
	return r.content, err
}

// openInTime opens a file before the client gives up, which gets no sign of progress meanwhile.
func (s *Server) openInTime(ctx context.Context, path string) (source.Object, error) {
	if s.caps.IsRemote {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout/2)
		defer cancel()
	}
	return s.dir.Open(ctx, path)
}

// send sends the whole response.
func (r *response) send() error {
	size := r.entry.version.Size
	group := integrity.GroupSizeFor(size)
	if err := r.reserveTree(group.Groups(size)); err != nil {
		return err
	}
	hashed, err := r.awaitTree(r.treeTimeout(size, group))
	if err != nil {
		return err
	}
	if !hashed {
		r.headStart = 0 // the client could not verify it
		if err := r.sendManifest(size, group, nil); err != nil {
			return err
		}
		return r.sendGrowingTree()
	}
	tree := r.entry.tree
	root := tree.Root()
	if err := r.sendManifest(size, tree.GroupSize(), root[:]); err != nil {
		return err
	}
	if r.byteRange != nil {
		return r.proveRange(tree)
	}
	return r.sendTree(0)
}

// reserveTree charges the tree of the file to the session until the content is released, which
// keeps it in memory. While the session has no memory for it the client waits, as it does while
// the file is hashed. Other contents of the session may end meanwhile. A tree that is larger than
// half of a session's memory counts as that half, so that a small server can serve large files.
func (r *response) reserveTree(groups int64) error {
	if groups < 2 {
		return nil // no chaining values
	}
	ticker := time.NewTicker(wire.HashingInterval)
	defer ticker.Stop()
	n := min(cvSize*groups, r.session.MemoryShare()/2)
	for r.w.memory.add(n) != nil {
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
		if err := r.sendHashing(); err != nil {
			return err
		}
	}
	return nil
}

// treeTimeout returns how long to wait for the tree before the response starts without the root;
// 0 means for ever.
func (r *response) treeTimeout(size int64, group integrity.GroupSize) time.Duration {
	if r.byteRange != nil {
		return 0 // the proof of a range needs the whole tree
	}
	if hasChainingValues := group.Groups(size) >= 2; !hasChainingValues {
		return 0 // without chaining values nothing can be verified before the root is known
	}
	return coldAfter
}

// awaitTree waits until the file is hashed, at most for timeout; 0 means for ever. It reports
// whether the file is hashed. Meanwhile it sends the client the progress of hashing.
func (r *response) awaitTree(timeout time.Duration) (hashed bool, err error) {
	ticker := time.NewTicker(wire.HashingInterval)
	defer ticker.Stop()
	var expired <-chan time.Time // nil never fires
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	for {
		select {
		case <-r.entry.done:
			return true, r.entry.err
		case <-expired:
			return false, nil
		case <-r.ctx.Done():
			return false, r.ctx.Err()
		case <-ticker.C:
			if err := r.sendHashing(); err != nil {
				return false, err
			}
		}
	}
}

// sendHashing sends the progress of hashing, unless something was sent within the last
// HashingInterval.
func (r *response) sendHashing() error {
	if time.Since(r.lastSent) < wire.HashingInterval {
		return nil
	}
	r.lastSent = time.Now()
	hashing := &transferpb.Hashing{Bytes: uint64(r.entry.partial.hashed()), Total: uint64(r.entry.version.Size)}
	return r.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: hashing}})
}

// sendManifest opens the aggregate stream of the content and sends the manifest. root is empty if
// it is not known.
func (r *response) sendManifest(size int64, group integrity.GroupSize, root []byte) error {
	r.content.size = size
	manifest := &transferpb.Manifest{
		Size: uint64(size), Root: root, Group: uint32(group), Mode: uint32(r.info.Mode().Perm()),
		WebMirrors: r.mirrors,
	}
	manifest.MtimeNs, manifest.MtimeEra = wire.SplitTime(r.info.ModTime())
	r.holes.announce(manifest)
	if size > 0 {
		descriptor, err := proto.Marshal(&transferpb.FileDescriptor{
			Path: []byte(r.path), Size: uint64(size), Root: root, MtimeNs: manifest.MtimeNs,
		})
		if err != nil {
			return err
		}
		r.content.stream, err = r.session.OpenAggregateStream(kwik.AggregateStreamSpec{
			Size: size, Alignment: group.Bytes(), Descriptor: descriptor,
			HeadStart: r.holes.headStart(r.headStart, group.Bytes()), HeadStartAfter: r.complete,
		})
		if err != nil {
			return err
		}
		manifest.KwikStreamId = uint64(r.content.stream.StreamID())
	}
	return r.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Manifest{Manifest: manifest}})
}

// sendGrowingTree sends chaining values while the file is hashed, and then the root.
func (r *response) sendGrowingTree() error {
	ticker := time.NewTicker(treeInterval)
	defer ticker.Stop()
	pieces, sent := 0, 0 // of chaining values, and their bytes
	for {
		select {
		case <-r.entry.done:
			return r.sendRestOfTree(sent)
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-ticker.C:
		}
		added := r.entry.partial.after(pieces)
		pieces += len(added)
		n, err := r.sendPieces(added)
		sent += n
		if err == nil && n == 0 {
			err = r.sendHashing()
		}
		if err != nil {
			return err
		}
	}
}

// sendPieces sends pieces of chaining values, and returns their length. A piece is shorter than a
// Tree message.
func (r *response) sendPieces(pieces [][]byte) (sent int, err error) {
	var part []byte
	for i, piece := range pieces {
		part = append(part, piece...)
		isLast := i == len(pieces)-1
		if !isLast && len(part)+len(pieces[i+1]) <= wire.TreePart {
			continue
		}
		r.lastSent = time.Now()
		if err := r.sendTreePart(part); err != nil {
			return sent, err
		}
		sent, part = sent+len(part), part[:0]
	}
	return sent, nil
}

// sendRestOfTree sends the root of a hashed file, and its chaining values after the first sent
// bytes of them.
func (r *response) sendRestOfTree(sent int) error {
	if r.entry.err != nil {
		return r.entry.err
	}
	if err := r.sendTree(sent); err != nil {
		return err
	}
	root := r.entry.tree.Root()
	return r.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: root[:]}}})
}

// sendTree sends the chaining values of the finished tree from byte off on.
func (r *response) sendTree(off int) error {
	var part []byte
	for {
		part = r.entry.tree.AppendCVs(part[:0], off, r.w.values())
		if len(part) == 0 {
			return nil
		}
		if err := r.sendTreePart(part); err != nil {
			return err
		}
		off += len(part)
	}
}

func (r *response) sendTreePart(cvs []byte) error {
	tree := &transferpb.Tree{ChainingValues: cvs}
	return r.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: tree}})
}
