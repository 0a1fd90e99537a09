package serve

import (
	"context"
	"errors"
	"io"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// treeTimeout bounds the wait for the tree of a copy whose time is not the primary's, and
	// which may therefore be another version. After it the copy is served, and the client's
	// verification decides.
	treeTimeout = 300 * time.Millisecond
	// verifyTimeout bounds the wait for the tree of a copy that a client rejected. The request's
	// context ends earlier.
	verifyTimeout = time.Hour
)

// OpenContent opens the content of the file or batch that a descriptor names. It is the
// OpenContent of the kwik.ServerConfig, in either role.
//
// A server that has hashed its file knows whether it is the described version. Before that, it
// accepts a copy that has the primary's size and modification time. It hashes a copy with another
// time. If that takes long, the server serves the copy meanwhile, and the client's verification
// decides.
func (s *Server) OpenContent(ctx context.Context, r kwik.ContentRequest) (kwik.Content, error) {
	if d, ok := parseBatchDescriptor(r.Descriptor); ok {
		return s.openBatchContent(ctx, d, r, purposeOf(r))
	}
	return s.openFile(ctx, r, purposeOf(r))
}

// A purpose is what content is requested for.
type purpose int

const (
	primaryServes     purpose = iota // a client requests it from the primary, which has described the file
	secondaryServes                  // a client requests it from this secondary
	secondaryVerifies                // the primary requests it from this secondary, because a client rejected its bytes
)

func purposeOf(r kwik.ContentRequest) purpose {
	switch {
	case r.Session == nil:
		return secondaryVerifies
	case r.Session.Role() == kwik.ServerRolePrimary:
		return primaryServes
	}
	return secondaryServes
}

func (s *Server) openFile(ctx context.Context, r kwik.ContentRequest, why purpose) (kwik.Content, error) {
	d, err := parseDescriptor(r.Descriptor)
	if err != nil {
		return nil, err
	}
	if wire.CheckPath(d.path) != nil {
		return nil, errNoContent
	}
	if why == secondaryVerifies && !s.hashesCopies() {
		return nil, errUnverified
	}
	f, err := s.dir.Open(ctx, d.path)
	if err != nil {
		s.logOf(r.Session).Info("requested file cannot be opened", "path", d.path, "err", err)
		return nil, contentError(err)
	}
	c := &fileContent{file: f, want: d.root, log: s.logOf(r.Session).With("path", d.path)}
	c.stop = s.endReads(ctx, f)
	if err := s.checkCopy(ctx, r, d, why, c); err != nil {
		c.Close()
		return nil, err
	}
	if why == secondaryVerifies {
		c.onDamage = func() { s.suspect(d.path, c.version, "challenge of the primary") }
	}
	if why == secondaryServes && r.Session != nil { // the primary logs its requests itself
		c.onClose = s.logServed(r.Session, d.path)
	}
	return c, nil
}

// checkCopy fills in the version and the entry of an open file. The error says why it is not the
// described version.
func (s *Server) checkCopy(
	ctx context.Context, r kwik.ContentRequest, d fileDescriptor, why purpose, c *fileContent,
) error {
	info, err := c.file.Stat()
	if err != nil {
		c.log.Info("requested file cannot be opened", "err", err)
		return contentError(err)
	}
	c.version = disk.VersionOf(info)
	if why != primaryServes && s.suspects.has(d.path, c.version) {
		return errCopyDamaged
	}
	if c.entry = s.index.entryOf(d.path, c.version); c.entry == nil {
		c.entry = s.index.entry(d.path)
	}
	if !c.entryApplies() {
		if why == primaryServes {
			return errFileChanged // since the server described it
		}
		c.entry = nil
	}
	if timeout := c.treeTimeout(d, why); timeout > 0 && s.hashesCopies() {
		claim := s.claim(clientOf(r.Session), d.path, c.version)
		if c.entry, c.release = claim.indexEntry, claim.release; why == secondaryVerifies {
			c.release = claim.linger // the primary gives up after seconds, and challenges this server again
		}
		c.entry.await(ctx, timeout)
	}
	state := c.state()
	isUnsure := state == copyUnverified || d.root == nil && c.version.MTime != d.mtime
	switch {
	case why == secondaryVerifies && c.entry.failure() != nil && isServersFault(c.entry.failure()):
		c.log.Warn("requested file cannot be read", "err", c.entry.err)
		return contentError(c.entry.err)
	case why == secondaryVerifies && state != copyStale && isUnsure:
		return errUnverified
	case state == copyStale && why == primaryServes:
		return errFileChanged
	case state == copyStale:
		c.log.Warn("stale file: not the version that the primary serves")
		s.suspectStale(d.path, c.version, d.size, d.mtime)
		return errStale
	case state == copyUnverified && c.version.Size != r.Size:
		c.log.Warn("stale file: not of the size that the primary serves",
			"size", c.version.Size, "primary_size", r.Size)
		return errNoContent
	}
	return nil
}

// logServed returns a function that logs how much of a file a secondary has sent in a session.
func (s *Server) logServed(session *kwik.ServerSession, path string) func(bytes int64, err error) {
	log := s.logOf(session).With("path", path)
	start := time.Now()
	return func(bytes int64, err error) {
		outcome := "done"
		if err != nil {
			outcome = err.Error()
		}
		log.Info("served", "bytes", bytes, "seconds", time.Since(start).Seconds(), "outcome", outcome)
	}
}

// Verify checks bytes of the file or batch that a descriptor names against its tree. It is the
// Verify of a primary's kwik.ServerConfig. It returns nil if the server has no tree of the
// described version, and if its own file differs from the tree as well.
func (s *Server) Verify(ctx context.Context, descriptor []byte, off int64, p []byte) error {
	if _, ok := parseBatchDescriptor(descriptor); ok {
		return s.verifyBatch(ctx, descriptor, off, p)
	}
	d, err := parseDescriptor(descriptor)
	if err != nil {
		return err
	}
	tree := s.knownEntry(ctx, d.path).finishedTree()
	if tree == nil || tree.Size() != d.size {
		return nil
	}
	if _, err := s.dir.Stat(ctx, d.path); err != nil {
		return nil // it is gone, or has been hidden since it was hashed
	}
	if isOtherVersion := d.root != nil && tree.Root() != *d.root; isOtherVersion {
		return nil
	}
	return s.verifyFile(ctx, d.path, tree, off, p)
}

// ChallengeDescriptor completes the descriptor of a file that was not hashed when its stream was
// opened: it adds the root of that version. A secondary can then tell that its own copy of the
// same size and time is damaged. It is the ChallengeDescriptor of a primary's kwik.ServerConfig.
func (s *Server) ChallengeDescriptor(descriptor []byte) []byte {
	d, err := parseDescriptor(descriptor)
	_, isBatch := parseBatchDescriptor(descriptor) // it has the roots
	if err != nil || isBatch || d.root != nil || wire.CheckPath(d.path) != nil {
		return descriptor
	}
	entry := s.knownEntry(s.ctx, d.path)
	tree := entry.finishedTree()
	if tree == nil || tree.Size() != d.size || entry.version.MTime != d.mtime {
		return descriptor
	}
	root := tree.Root()
	completed, err := proto.Marshal(&transferpb.FileDescriptor{
		Path: []byte(d.path), Size: uint64(d.size), Root: root[:], MtimeNs: d.mtime,
	})
	if err != nil {
		return descriptor
	}
	return completed
}

// verifyFile checks bytes of a file against its tree. If they are wrong it checks its own file:
// the tree may be that of an earlier content.
func (s *Server) verifyFile(ctx context.Context, path string, tree *integrity.Tree, off int64, p []byte) error {
	err := tree.Verify(off, p)
	if err != nil && s.recheck(ctx, part{path, off, off + int64(len(p))}, tree) {
		return nil
	}
	return err
}

// knownEntry returns the entry of the version of a file that was requested last by the path. If
// there is none, it returns that of the file that is there, which has other names. It may be nil.
func (s *Server) knownEntry(ctx context.Context, path string) *indexEntry {
	entry := s.index.entry(path)
	if entry != nil || wire.CheckPath(path) != nil {
		return entry
	}
	info, err := s.dir.Stat(ctx, path)
	if err != nil {
		return nil
	}
	return s.index.entryOf(path, disk.VersionOf(info))
}

// A fileDescriptor is the descriptor of the stream of one file.
type fileDescriptor struct {
	path  string
	size  int64           // bytes
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
	errDescriptor = errors.New("malformed descriptor")
	errNoContent  = errors.New("no such version of the file here")
	// errUnverified excuses a secondary that the primary asks for bytes. It does not know whether
	// its copy is the right version, and wrong bytes would suspend it. One of a remote root never
	// knows: it hashes nothing.
	errUnverified = kwik.NewError(kwik.ErrServerBusy, "its copy is not hashed yet, or is of another time")
	errStale      = kwik.NewError(kwik.ErrContentChanged, "its copy is another version of the file")
)

// A fileContent is an open file of a known version. One goroutine at a time uses it.
type fileContent struct {
	file    source.Object
	stop    func() bool     // of Server.endReads
	log     *slog.Logger    // of the client and the file
	version disk.Version    // when the file was opened
	want    *integrity.Root // nil if it is not known
	entry   *indexEntry     // of the file's path, perhaps of another version; nil if there is none

	// onDamage is called if bytes do not match the tree of the file's version. It is set on a
	// challenge alone: a client verifies the bytes itself.
	onDamage func()

	release func()                       // ends the claim to the entry; nil if there is none
	onClose func(bytes int64, err error) // called with the two fields below; may be nil
	bytes   int64                        // that were read
	err     error                        // of the last read
}

// A copyState is what a server knows about its copy of a file.
type copyState int

const (
	copyUnverified copyState = iota // nothing, or not yet
	copyHashed                      // the server has the tree of the wanted version
	copyStale                       // the open file is another version
)

// state returns the state of the copy. It changes when the file has been hashed.
func (c *fileContent) state() copyState {
	tree := c.entry.finishedTree()
	switch {
	case tree == nil:
		return copyUnverified
	case c.want == nil || tree.Root() == *c.want:
		return copyHashed
	case c.entry.version == c.version:
		return copyStale
	}
	return copyUnverified
}

// entryApplies reports whether the entry, if there is one, tells something about the wanted
// version. Either it is of the open file's version, or it has a tree whose root can be compared.
func (c *fileContent) entryApplies() bool {
	if c.entry == nil || c.entry.version == c.version {
		return true
	}
	return c.want != nil && c.entry.finishedTree() != nil
}

// treeTimeout returns how long to wait for the tree of the copy, 0 if it need not be hashed now.
func (c *fileContent) treeTimeout(d fileDescriptor, why purpose) time.Duration {
	switch why {
	case secondaryVerifies:
		return verifyTimeout
	case secondaryServes:
		isHashed := c.entry.finishedTree() != nil
		isSuspect := c.version.Size == d.size && c.version.MTime != d.mtime
		if d.root != nil && !isHashed && isSuspect {
			return treeTimeout
		}
	}
	return 0
}

// ReadAt reads bytes of the wanted version. If the file or its metadata changed since it was
// opened or hashed, the bytes are verified against the tree. Without a tree the read fails, so
// that a reader never gets a mixture of versions. p must consist of whole chunk groups.
func (c *fileContent) ReadAt(p []byte, off int64) (n int, err error) {
	n, err = c.read(p, off)
	c.bytes += int64(n)
	c.err = nil
	if n < len(p) && err != nil && err != io.EOF {
		if isServersFault(err) {
			c.log.Warn("file cannot be read", "offset", off, "err", err)
		}
		c.err, err = err, contentError(err)
	}
	return n, err
}

func (c *fileContent) read(p []byte, off int64) (n int, err error) {
	n, err = c.file.ReadAt(p, off)
	switch c.state() {
	case copyStale:
		return 0, errFileChanged
	case copyUnverified:
		if changed := checkVersion(c.file, c.version); changed != nil {
			return 0, changed
		}
		return n, err
	}
	if isUnchanged := c.entry.version == c.version && checkVersion(c.file, c.version) == nil; isUnchanged {
		isChallenge := c.onDamage != nil && n == len(p) && isWhole(c.entry.tree, off, int64(n))
		if isChallenge && c.entry.tree.Verify(off, p) != nil {
			c.onDamage()
			return 0, errCopyDamaged
		}
		return n, err
	}
	if isFault := n < len(p) && err != nil && err != io.EOF && isServersFault(err); isFault {
		return 0, err
	}
	if n < len(p) || c.entry.tree.Verify(off, p) != nil {
		return 0, errFileChanged
	}
	return n, nil
}

// Close closes the file. If the server still hashes it for this content, it stops.
func (c *fileContent) Close() error {
	if c.release != nil {
		c.release()
	}
	if c.onClose != nil {
		c.onClose(c.bytes, c.err)
	}
	c.stop()
	return c.file.Close()
}

// Prefetch implements kwik.Prefetcher.
func (c *fileContent) Prefetch(start, end int64) {
	if ahead, ok := c.file.(source.Prefetcher); ok {
		ahead.Prefetch(start, end)
	}
}
