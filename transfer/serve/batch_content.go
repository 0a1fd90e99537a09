package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the content of a batch of files, end to end, as the primary and the secondaries
// open it.

// A batchDescriptor is the descriptor of the stream of a batch.
type batchDescriptor struct {
	base  string // the directory of the files, relative to the served one
	files []byte // as wire.ReadFiles reads them
}

// parseBatchDescriptor returns the descriptor of a batch. ok is false if it is not the descriptor
// of a batch.
func parseBatchDescriptor(descriptor []byte) (d batchDescriptor, ok bool) {
	var m transferpb.FileDescriptor
	if proto.Unmarshal(descriptor, &m) != nil || m.GetBatch() == nil {
		return d, false
	}
	return batchDescriptor{base: string(m.GetPath()), files: m.GetBatch().GetFiles()}, true
}

// openBatchContent opens the content of a batch. If this server opened its stream, it knows the
// versions of the files. If not, it serves its copies that have the primary's size and time, or
// the primary's root. The other files are missing.
func (s *Server) openBatchContent(
	ctx context.Context, d batchDescriptor, r kwik.ContentRequest, why purpose,
) (kwik.Content, error) {
	files, err := wire.ReadFiles(d.files, r.Size)
	if err != nil {
		return nil, err
	}
	if d.base != "" && wire.CheckPath(d.base) != nil {
		return nil, errNoContent
	}
	c := &batchContent{ctx: ctx, server: s, log: s.logOf(r.Session), base: d.base, files: files, why: why}
	c.ahead = newBatchAhead(c, clientOf(r.Session))
	if served, ok := s.batches.newest(string(r.Descriptor)); ok {
		if len(served.versions) != len(files) {
			return nil, errNoContent // cannot happen
		}
		c.versions = served.versions
		return c, nil
	}
	if c.why == secondaryVerifies && !s.hashesCopies() {
		c.Close()
		return nil, errUnverified
	}
	timeout := treeTimeout
	if c.why == secondaryVerifies {
		timeout = verifyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s.findCopies(ctx, clientOf(r.Session), c)
	return c, nil
}

// findCopies fills in the versions of the local copies of a batch's files, and the ranges of the
// missing ones.
func (s *Server) findCopies(ctx context.Context, of client, c *batchContent) {
	var faults faults
	c.versions = make([]disk.Version, len(c.files))
	failed := make([]error, len(c.files))
	find := func(i int) {
		f := c.files[i]
		failed[i] = kwik.Contain(func() (err error) {
			c.versions[i], err = s.findCopy(ctx, of, c, disk.JoinPath(c.base, f.Path), f)
			return err
		})
	}
	if s.caps.IsRemote {
		s.inParallel(c.ctx, of, len(c.files), find, failed)
	} else {
		for i := range c.files {
			find(i)
		}
	}
	for i, f := range c.files {
		if err := failed[i]; err != nil {
			path := disk.JoinPath(c.base, f.Path)
			c.log.Debug("a file of a batch is not here", "path", path, "err", err)
			faults.note(path, err)
			c.addMissing(f, missingError(err))
		}
	}
	faults.report(c.log)
	if len(c.missing) > 0 {
		c.log.Info("files of a batch are not here", "path", c.base, "files", len(c.files), "ranges", len(c.missing))
	}
}

// inParallel calls find for the numbers below n, each with a slot for a client, several at a time.
// It sets the error of those for which there is none until ctx ends.
func (s *Server) inParallel(ctx context.Context, of client, n int, find func(i int), failed []error) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(s.tiny.workers, n) {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < n; i = int(next.Add(1) - 1) {
				release, err := s.tiny.acquire(ctx, of)
				if failed[i] = err; err == nil {
					find(i)
					release()
				}
			}
		})
	}
	wg.Wait()
}

// missingError returns the error that a client is sent for a file that this server cannot serve.
// The client does not learn whether the server has another version or none.
func missingError(err error) error {
	if isServersFault(err) {
		return contentError(err)
	}
	return errNoContent
}

// findCopy returns the version of the local copy of a batch's file. The error says why the copy
// is not that file.
func (s *Server) findCopy(
	ctx context.Context, of client, c *batchContent, path string, f wire.BatchFile,
) (version disk.Version, err error) {
	info, err := s.dir.Stat(c.ctx, path)
	if err != nil {
		return version, err
	}
	version = disk.VersionOf(info)
	if !info.Mode().IsRegular() {
		return version, disk.ErrNotAFile
	}
	if version.Size != f.Size {
		return version, fmt.Errorf("it has %d bytes, the primary's has %d: %w", version.Size, f.Size, errNoContent)
	}
	if s.suspects.has(path, version) {
		return version, errCopyDamaged
	}
	tree := s.index.entryOf(path, version).finishedTree()
	if tree == nil {
		// The times of a store may be rounded.
		isLikely := version.MTime == f.MTime || !s.hashesCopies()
		if isLikely && c.why != secondaryVerifies {
			return version, nil
		}
		if tree, err = s.treeOfCopy(ctx, of, c, path, version); err != nil {
			return version, err
		}
	}
	if err = checkRoot(f, tree); err != nil {
		s.suspectStale(path, version, f.Size, f.MTime)
	}
	return version, err
}

// treeOfCopy hashes a local copy. A large one that is not hashed when ctx ends is hashed further
// until the content is closed, so that a later request succeeds.
func (s *Server) treeOfCopy(
	ctx context.Context, of client, c *batchContent, path string, version disk.Version,
) (*integrity.Tree, error) {
	if version.Size < tinyFile {
		return s.treeOfTinyCopy(ctx, of, path, version)
	}
	if ctx.Err() != nil && len(c.hashing) == maxCopiesHashed {
		return nil, errNoContent
	}
	claim := s.claim(of, path, version)
	select {
	case <-claim.done:
		claim.release()
		return claim.tree, claim.err
	case <-ctx.Done():
	}
	if len(c.hashing) == maxCopiesHashed {
		claim.release()
	} else {
		c.hashing = append(c.hashing, claim)
	}
	return nil, errNoContent
}

func (s *Server) treeOfTinyCopy(
	ctx context.Context, of client, path string, version disk.Version,
) (*integrity.Tree, error) {
	release, err := s.tiny.acquire(ctx, of)
	if err != nil {
		return nil, errNoContent
	}
	defer release()
	file, err := s.dir.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return hashTiny(ctx, file, version)
}

// checkRoot returns errFileChanged if a tree is not that of the batch's file.
func checkRoot(f wire.BatchFile, tree *integrity.Tree) error {
	if root := tree.Root(); [wire.RootPrefix]byte(root[:]) != f.Root {
		return errFileChanged
	}
	return nil
}

// verifyBatch checks bytes of a batch whose stream this server opened against the trees of its
// files. If the stream is not open any more, there is nothing to check them against, and it
// returns nil.
func (s *Server) verifyBatch(ctx context.Context, descriptor []byte, off int64, p []byte) error {
	served, ok := s.batches.newest(string(descriptor))
	if !ok {
		return nil
	}
	d, _ := parseBatchDescriptor(descriptor)
	files, err := wire.ReadFiles(d.files, served.size())
	if err != nil || len(files) != len(served.trees) {
		return err // cannot happen
	}
	start := int64(0) // of the tree's file in the stream
	for i, tree := range served.trees {
		if len(p) == 0 {
			return nil
		}
		end := start + tree.Size()
		if off < end {
			n := min(int64(len(p)), end-off)
			if err := s.verifyFile(ctx, disk.JoinPath(d.base, files[i].Path), tree, off-start, p[:n]); err != nil {
				return err
			}
			p, off = p[n:], off+n
		}
		start = end
	}
	return nil
}

// maxCopiesHashed bounds the files that a server hashes for one content of a batch after their
// timeout is over. The others follow when the content is requested again.
const maxCopiesHashed = 4

// A batchContent is the content of the files of a batch, each of a known version. A file is
// opened when it is read.
type batchContent struct {
	ctx      context.Context // ends when the client releases the content
	server   *Server
	log      *slog.Logger // of the client
	base     string
	files    []wire.BatchFile
	versions []disk.Version // of files
	missing  []kwik.MissingRange
	hashing  []*claim // to copies that are still hashed
	why      purpose
	ahead    *batchAhead // nil if no file is opened before it is read
}

// addMissing adds the range of a file to those that this server does not have, and why.
func (c *batchContent) addMissing(f wire.BatchFile, err error) {
	if n := len(c.missing); n > 0 && c.missing[n-1].End == f.Start && c.missing[n-1].Err == err {
		c.missing[n-1].End = f.End()
		return
	}
	c.missing = append(c.missing, kwik.MissingRange{Start: f.Start, End: f.End(), Err: err})
}

// Missing implements kwik.PartialContent.
func (c *batchContent) Missing() []kwik.MissingRange { return c.missing }

// ReadAt reads across files. If a file is gone or changed, the error is a kwik.MissingRange with
// its range: the other files can still be read.
func (c *batchContent) ReadAt(p []byte, off int64) (read int, err error) {
	i := c.fileAt(off)
	for ; len(p) > 0 && i < len(c.files); i++ {
		f := c.files[i]
		n := min(int64(len(p)), f.End()-off)
		if err := c.readFile(i, p[:n], off-f.Start); err != nil {
			return read, &kwik.MissingRange{Start: f.Start, End: f.End(), Err: err}
		}
		p, off, read = p[n:], off+n, read+int(n)
	}
	if len(p) > 0 {
		return read, errNoContent
	}
	return read, nil
}

// fileAt returns the index of the file that has an offset, len(c.files) if none has it.
func (c *batchContent) fileAt(off int64) int {
	return sort.Search(len(c.files), func(i int) bool { return c.files[i].End() > off })
}

// readFile reads len(p) bytes of a file from off on. The file existed when the batch was opened. If
// it cannot be opened now it changed: the client must not learn how.
func (c *batchContent) readFile(i int, p []byte, off int64) error {
	open := func() (source.Object, error) { return c.server.dir.Open(c.ctx, disk.JoinPath(c.base, c.files[i].Path)) }
	if err := c.ahead.await(i); err != nil {
		return c.failed(i, err, errFileChanged)
	}
	file, err := c.server.opened.acquire(openKey{c, i}, open)
	if err != nil {
		return c.failed(i, err, errFileChanged)
	}
	defer c.server.opened.release(file)
	defer c.server.endReads(c.ctx, file)()
	n, err := file.ReadAt(p, off)
	if changed := checkVersion(file, c.versions[i]); changed != nil {
		return c.failed(i, changed, errFileChanged)
	}
	if n == len(p) {
		return c.checkDamage(i, p, off)
	}
	if errors.Is(err, disk.ErrChanged) {
		return errFileChanged
	}
	return c.failed(i, err, errNoContent)
}

// checkDamage checks bytes of a file that the primary challenges, if its tree is known. Tiny files
// were hashed when the batch was opened.
func (c *batchContent) checkDamage(i int, p []byte, off int64) error {
	if c.why != secondaryVerifies {
		return nil
	}
	path := disk.JoinPath(c.base, c.files[i].Path)
	tree := c.server.index.entryOf(path, c.versions[i]).finishedTree()
	if tree == nil || !isWhole(tree, off, int64(len(p))) || tree.Verify(off, p) == nil {
		return nil
	}
	c.server.suspect(path, c.versions[i], "challenge of the primary")
	return errCopyDamaged
}

// failed returns the error that a client is sent for one of a file: other, unless it is this
// server's fault, which is logged.
func (c *batchContent) failed(i int, err, other error) error {
	if err == nil || err == io.EOF || !isServersFault(err) {
		return other
	}
	c.log.Warn("file cannot be read", "path", disk.JoinPath(c.base, c.files[i].Path), "err", err)
	return contentError(err)
}

// Close implements io.Closer. The server stops hashing for this content. If the primary challenges
// this server it goes on, since the primary gives up after seconds and challenges it again.
func (c *batchContent) Close() error {
	for _, claim := range c.hashing {
		if c.why == secondaryVerifies {
			claim.linger()
		} else {
			claim.release()
		}
	}
	c.hashing = nil
	c.ahead.stop()
	c.server.opened.closeAll(c)
	return nil
}
