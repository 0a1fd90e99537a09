package transfer

import (
	"context"
	"errors"
	"io"
	"kwikcp/transfer/disk"
)

// This file proves the checksums of a mirror's files. A small file is hashed in memory before it is
// written. Any other is read once from its part file before it is renamed, by the placer, so that
// the stream does not wait.

// errInterrupted reports that the context ended while a part file was hashed.
var errInterrupted = errors.New("interrupted")

// proveFile returns an error if a file that has its root does not have its checksums.
func (f *mirrorFile) proveFile(ctx context.Context, content io.ReaderAt) error {
	if len(f.checksums) == 0 {
		return nil
	}
	h := newOrderedHasher(content, f.checksums)
	return h.finish(ctx, f.tree.Size(), f.tree.Root(), nil)
}

// proveInPlace is proveFile for the file in place. The end of ctx is no error.
func (m *mirror) proveInPlace(ctx context.Context, f *mirrorFile, file disk.File) error {
	err := checksumError(ctx, "compare it", f.proveFile(ctx, file))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// proveContent is proveFile for a file of which all bytes are in memory.
func (f *mirrorFile) proveContent(content []byte) error {
	if len(f.checksums) == 0 {
		return nil
	}
	h, root := newHasher(f.checksums), f.tree.Root()
	if h.Needed(root[:]) {
		h.Write(content)
	}
	if err := verifyHasher(h, root); err != nil {
		return &Error{Kind: KindIntegrity, Op: "fetch it", Err: err}
	}
	return nil
}

// provePart is proveFile for a part file that is about to be renamed. It removes one that is wrong.
// At the end of the context it returns errInterrupted.
func (p *placer) provePart(f *mirrorFile) error {
	if f.part == nil || len(f.checksums) == 0 {
		return nil
	}
	err := f.proveFile(p.ctx, f.part)
	if p.ctx.Err() != nil {
		return errInterrupted
	}
	if _, wrong := errors.AsType[*ChecksumError](err); wrong {
		f.part.Discard()
	}
	return checksumError(p.ctx, "fetch it", err)
}

// leaveWhole gives up a file that is whole and not in place: the mirror ends. Its part file stays.
func (m *mirror) leaveWhole(f *mirrorFile) {
	f.mu.Lock()
	f.state = fileLost
	f.mu.Unlock()
	f.leave()
	m.releaseDir(f.dir)
}

// localErrorOf returns an error of the local file system in operation op, and an *Error as it is.
func localErrorOf(op string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return LocalError(op, disk.Cause(err))
}
