package serve

import (
	"context"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is how a server answers a request for a file: with a manifest, the file's tree, and an aggregate stream of its content. A file
// that has been hashed is answered at once and whole. One that has not is answered at once as well: its content can be fetched
// while it is hashed, as far as its chaining values have been sent, and its root comes last.

const (
	// coldAfter is how long a request waits for a tree before it is answered without the root.
	coldAfter = 20 * time.Millisecond
	// growthInterval is how often what was hashed meanwhile is sent.
	growthInterval = 20 * time.Millisecond
)

// An offered file.
type offered struct {
	size   int64
	stream *kwik.AggregateStream // nil for an empty file
}

// An offering is an answer under way. It is used by one goroutine.
type offering struct {
	ctx     context.Context
	server  *Server
	session *kwik.ServerSession
	w       answerWriter
	path    string
	info    fs.FileInfo
	entry   *indexEntry
	// headStart is how much of the content the client wants to have unasked, in bytes.
	headStart int64
	answered  chan struct{} // closed when the head start may begin: it follows the tree, with which it would compete
	// byteRange is the part of the content that the client wants; nil for all of it.
	byteRange *wire.ByteRange
	offered   offered
	told      time.Time // when the client last heard how far hashing is
}

func (s *Server) offer(ctx context.Context, session *kwik.ServerSession, w answerWriter, request *transferpb.Request) (offered, error) {
	path := string(request.GetPath())
	if request.GetVersion() != wire.ProtocolVersion {
		return offered{}, errVersion
	}
	switch {
	case request.GetList() != nil:
		return offered{}, s.list(ctx, w, request)
	case request.GetPack() != nil:
		return s.offerPack(ctx, session, w, request)
	}
	if wire.CheckPath(path) != nil {
		return offered{}, fs.ErrNotExist // no hint at why
	}
	byteRange, err := wire.ReadByteRange(request.GetRange())
	if err != nil {
		return offered{}, errRequest
	}
	f, err := s.dir.Open(path)
	if err != nil {
		return offered{}, err
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return offered{}, err
	}
	o := &offering{ctx: ctx, server: s, session: session, w: w, path: path, info: info, told: time.Now(), answered: make(chan struct{})}
	defer close(o.answered)
	if request.GetRange() == nil {
		o.headStart = int64(min(request.GetHeadStart(), math.MaxInt64))
	} else {
		o.byteRange = &byteRange
	}
	o.entry = s.index.lookup(path, disk.VersionOf(info), func() (disk.File, error) { return s.dir.Open(path) })
	err = o.answer()
	return o.offered, err
}

func (o *offering) answer() error {
	size := o.entry.version.Size
	group := integrity.GroupSizeFor(size)
	patience := coldAfter
	if group.Groups(size) < 2 {
		patience = -1 // it has no chaining values, so nothing of it can be proved without the root
	}
	if o.byteRange != nil {
		patience = -1 // the proof of a range needs the whole tree
	}
	hashed, err := o.wait(patience)
	if err != nil {
		return err
	}
	if !hashed {
		o.headStart = 0 // the client could not prove it
		if err := o.manifest(size, group, nil); err != nil {
			return err
		}
		return o.grow()
	}
	tree := o.entry.tree
	root := tree.Root()
	if err := o.manifest(size, tree.GroupSize(), root[:]); err != nil {
		return err
	}
	if o.byteRange != nil {
		return o.proveRange(tree)
	}
	return o.sendTree(tree.CVs())
}

// wait waits until the file is hashed, for as long as patience says, which is for ever if it is negative. The client hears how far it
// is.
func (o *offering) wait(patience time.Duration) (hashed bool, err error) {
	ticker := time.NewTicker(wire.HashingInterval)
	defer ticker.Stop()
	var over <-chan time.Time
	if patience >= 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		over = timer.C
	}
	for {
		select {
		case <-o.entry.done:
			return true, o.entry.err
		case <-over:
			return false, nil
		case <-o.ctx.Done():
			return false, o.ctx.Err()
		case <-ticker.C:
			if err := o.tellHashing(); err != nil {
				return false, err
			}
		}
	}
}

// tellHashing tells the client how far hashing is, unless it heard something a moment ago.
func (o *offering) tellHashing() error {
	if time.Since(o.told) < wire.HashingInterval {
		return nil
	}
	end, _ := o.entry.growth.since(0)
	o.told = time.Now()
	hashing := &transferpb.Hashing{Bytes: uint64(end), Total: uint64(o.entry.version.Size)}
	return o.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: hashing}})
}

// manifest offers the content and says what it is. root is empty if it is not known.
func (o *offering) manifest(size int64, group integrity.GroupSize, root []byte) error {
	o.offered.size = size
	manifest := &transferpb.Manifest{
		Size: uint64(size), Root: root, Group: uint32(group), MtimeNs: o.info.ModTime().UnixNano(), Mode: uint32(o.info.Mode().Perm()),
	}
	if size > 0 {
		descriptor, err := proto.Marshal(&transferpb.FileDescriptor{
			Path: []byte(o.path), Size: uint64(size), Root: root, MtimeNs: manifest.MtimeNs,
		})
		if err != nil {
			return err
		}
		o.offered.stream, err = o.session.OpenAggregateStream(kwik.AggregateStreamSpec{
			Size: size, Alignment: group.Bytes(), Descriptor: descriptor, HeadStart: o.headStart, HeadStartAfter: o.answered,
		})
		if err != nil {
			return err
		}
		manifest.KwikStreamId = uint64(o.offered.stream.StreamID())
	}
	return o.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Manifest{Manifest: manifest}})
}

// grow sends chaining values as they come, and the root in the end.
func (o *offering) grow() error {
	ticker := time.NewTicker(growthInterval)
	defer ticker.Stop()
	pieces, sent := 0, 0
	for {
		select {
		case <-o.entry.done:
			if o.entry.err != nil {
				return o.entry.err
			}
			if err := o.sendTree(o.entry.tree.CVs()[sent:]); err != nil {
				return err
			}
			root := o.entry.tree.Root()
			return o.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: root[:]}}})
		case <-o.ctx.Done():
			return o.ctx.Err()
		case <-ticker.C:
		}
		_, more := o.entry.growth.since(pieces)
		if len(more) == 0 {
			if err := o.tellHashing(); err != nil {
				return err
			}
			continue
		}
		o.told = time.Now()
		var cvs []byte
		for _, piece := range more {
			cvs = append(cvs, piece...)
		}
		pieces, sent = pieces+len(more), sent+len(cvs)
		if err := o.sendTree(cvs); err != nil {
			return err
		}
	}
}

// sendTree sends chaining values.
func (o *offering) sendTree(cvs []byte) error {
	for part := range slices.Chunk(cvs, wire.TreePart) {
		tree := &transferpb.Tree{ChainingValues: part}
		if err := o.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Tree{Tree: tree}}); err != nil {
			return err
		}
	}
	return nil
}
