package serve

import (
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// patienceForTree is how long a server that never hashed a file waits for its tree, before it serves a copy that may be another
// version, because it has another time than the primary's.
const patienceForTree = 300 * time.Millisecond

// OpenContent opens the file that a descriptor names. It is the kwik.ServerConfig.OpenContent of both roles.
//
// A server that hashed the file knows whether it is what the descriptor says. One that did not believes it of a copy that has the
// primary's size and modification time. A copy with another time is hashed: at first the server serves it all the same, if that takes
// long, and leaves the rest to the client's proof.
func (s *Server) OpenContent(ctx context.Context, r kwik.ContentRequest) (kwik.Content, error) {
	if base, raw := packDescriptor(r.Descriptor); raw != nil {
		return s.openPackContent(ctx, base, raw, r)
	}
	switch {
	case r.Session == nil:
		return s.open(ctx, r, askedByPrimary)
	case r.Session.Role() == kwik.ServerRolePrimary:
		return s.open(ctx, r, askedOfPrimary)
	}
	return s.open(ctx, r, askedOfSecondary)
}

// An asker is who wants to have a content.
type asker int

const (
	askedOfPrimary   asker = iota // a client, of the server that said what the file is
	askedOfSecondary              // a client
	askedByPrimary                // a secondary's primary: a client could not prove bytes
)

func (s *Server) open(ctx context.Context, r kwik.ContentRequest, who asker) (content kwik.Content, err error) {
	d, err := parseDescriptor(r.Descriptor)
	if err != nil {
		return nil, err
	}
	if wire.CheckPath(d.path) != nil {
		return nil, errNoContent
	}
	f, err := s.dir.Open(d.path)
	if err != nil {
		s.log.Info("asked for a file that cannot be opened", "path", d.path, "err", err)
		return nil, errNoContent
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, errNoContent
	}
	c := &fileContent{file: f, version: disk.VersionOf(info), want: d.root, entry: s.index.entry(d.path)}
	if c.entry != nil && c.entry.version != c.version && (d.root == nil || c.entry.known() == nil) {
		if who == askedOfPrimary {
			return nil, errFileChanged // since it was answered for
		}
		c.entry = nil // it says nothing about this version
	}
	hash := time.Duration(0)
	switch {
	case who == askedByPrimary:
		hash = time.Hour // until ctx ends
	case who == askedOfSecondary && d.root != nil && c.entry.known() == nil && c.version.Size == d.size && c.version.MTime != d.mtime:
		hash = patienceForTree
	}
	if hash > 0 {
		c.entry = s.index.lookup(d.path, c.version, func() (disk.File, error) { return s.dir.Open(d.path) })
		timer := time.NewTimer(hash)
		defer timer.Stop()
		select {
		case <-c.entry.done:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if c.stale() {
		if who == askedOfPrimary {
			return nil, errFileChanged
		}
		s.log.Warn("stale file: not the version that the primary serves", "path", d.path)
		return nil, errStale
	}
	if c.version.Size != r.Size && !c.has() {
		s.log.Warn("stale file: not of the size that the primary serves", "path", d.path, "size", c.version.Size, "primary_size", r.Size)
		return nil, errNoContent
	}
	if who == askedOfSecondary && r.Session != nil { // a primary tells of its clients' requests
		log, start := s.log.With("client", r.Session.RemoteAddr().String(), "session", r.Session.ID().String()[:8], "path", d.path), time.Now()
		c.closed = func(bytes int64, err error) {
			outcome := "done"
			if err != nil {
				outcome = err.Error()
			}
			log.Info("served", "bytes", bytes, "seconds", time.Since(start).Seconds(), "outcome", outcome)
		}
	}
	return c, nil
}

// Verify checks bytes of the file that a descriptor names, against its tree. It is the kwik.ServerConfig.Verify of a primary. A
// file that is not the one of the descriptor any more is nobody's business.
func (s *Server) Verify(_ context.Context, descriptor []byte, off int64, p []byte) error {
	if _, raw := packDescriptor(descriptor); raw != nil {
		return s.verifyPack(descriptor, off, p)
	}
	d, err := parseDescriptor(descriptor)
	if err != nil {
		return err
	}
	if tree := s.index.entry(d.path).known(); tree != nil && tree.Size() == d.size && (d.root == nil || tree.Root() == *d.root) {
		return tree.Verify(off, p)
	}
	return nil
}

// A fileDescriptor is what a descriptor says.
type fileDescriptor struct {
	path  string
	size  int64
	root  *integrity.Root // nil if it was not known yet
	mtime int64           // of the primary's file, nanoseconds since the Unix epoch
}

func parseDescriptor(raw []byte) (d fileDescriptor, err error) {
	var m transferpb.FileDescriptor
	if proto.Unmarshal(raw, &m) != nil || m.GetSize() > math.MaxInt64 {
		return d, errDescriptor
	}
	d = fileDescriptor{path: string(m.GetPath()), size: int64(m.GetSize()), mtime: m.GetMtimeNs()}
	switch len(m.GetRoot()) {
	case 0:
	case len(d.root):
		root := integrity.Root(m.GetRoot())
		d.root = &root
	default:
		return d, errDescriptor
	}
	return d, nil
}

var (
	errDescriptor = errors.New("descriptor not understood")
	errNoContent  = errors.New("no such version of the file here")
	errStale      = kwik.NewError(kwik.ErrContentChanged, "its copy is another version of the file")
)

// A fileContent is an open file of a known version.
type fileContent struct {
	file    disk.File
	version disk.Version    // when it was opened
	want    *integrity.Root // nil if it was not known then
	entry   *indexEntry     // what this server knows, or is about to know, of the file of that path; may be nil

	closed func(bytes int64, err error) // told how many bytes were read, and what the last reading met; may be nil
	bytes  int64
	err    error
}

// has reports whether this server knows that it had what is wanted when it hashed it.
func (c *fileContent) has() bool {
	tree := c.entry.known()
	return tree != nil && (c.want == nil || tree.Root() == *c.want)
}

// stale reports whether the file is known to be another one than is wanted.
func (c *fileContent) stale() bool {
	tree := c.entry.known()
	return tree != nil && c.want != nil && tree.Root() != *c.want && c.entry.version == c.version
}

// ReadAt reads whole chunk groups of the version that is wanted. If the file was written to, moved, replaced or had its mode changed since
// it was opened or hashed, its bytes are served as long as they are still those of the tree, and are an error otherwise, so that a reader never
// sees a mixture.
func (c *fileContent) ReadAt(p []byte, off int64) (n int, err error) {
	defer func() {
		c.bytes += int64(n)
		if c.err = nil; n < len(p) {
			c.err = err
		}
	}()
	n, err = c.file.ReadAt(p, off)
	switch {
	case c.stale():
		return 0, errFileChanged
	case c.has():
		if c.entry.version == c.version && checkVersion(c.file, c.version) == nil {
			return n, err
		}
		if n < len(p) || c.entry.tree.Verify(off, p) != nil {
			return 0, errFileChanged
		}
		return n, nil
	}
	if changed := checkVersion(c.file, c.version); changed != nil {
		return 0, changed
	}
	return n, err
}

// Close closes the file.
func (c *fileContent) Close() error {
	if c.closed != nil {
		c.closed(c.bytes, c.err)
	}
	return c.file.Close()
}
