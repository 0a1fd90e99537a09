package transfer

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"kwikcp/integrity"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
)

// OpenContent opens the file that a descriptor names. It is the kwik.Config.OpenContent of both roles.
//
// A server that hashed the file knows whether it is still what the descriptor says; one that did not checks the size, and
// leaves the rest to the client's proof.
func (s *Server) OpenContent(_ context.Context, r kwik.ContentRequest) (kwik.Content, error) {
	path, want, err := parseDescriptor(r.Descriptor)
	if err != nil {
		return nil, err
	}
	if CheckPath(path) != nil {
		return nil, errNoContent
	}
	f, err := s.dir.Open(path)
	if err != nil {
		s.log.Info("asked for a file that cannot be opened", "path", path, "err", err)
		return nil, errNoContent
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, errNoContent
	}
	version := versionOf(info)
	tree, hashed, known := s.index.known(path)
	switch {
	case known && (tree.Root() == want) != (hashed == version):
		f.Close() // it was what is wanted and was changed since, or it is known to be something else now
		return nil, errChanged
	case version.size != r.Size:
		f.Close()
		s.log.Warn("stale file: not of the size that the primary serves", "path", path, "size", version.size, "primary_size", r.Size)
		return nil, errNoContent
	}
	return &fileContent{file: f, version: version}, nil
}

// Verify checks bytes of the file that a descriptor names, against its tree. It is the kwik.Config.Verify of a primary. A
// file that is not the one of the descriptor any more is nobody's business.
func (s *Server) Verify(_ context.Context, descriptor []byte, off int64, p []byte) error {
	path, want, err := parseDescriptor(descriptor)
	if err != nil {
		return err
	}
	if tree, _, known := s.index.known(path); known && tree.Root() == want {
		return tree.Verify(off, p)
	}
	return nil
}

func parseDescriptor(raw []byte) (path string, root integrity.Root, err error) {
	var d transferpb.FileDescriptor
	if err := proto.Unmarshal(raw, &d); err != nil || len(d.GetRoot()) != len(root) {
		return "", root, errors.New("descriptor not understood")
	}
	return string(d.GetPath()), integrity.Root(d.GetRoot()), nil
}

var errNoContent = errors.New("no such version of the file here")

// A fileContent is an open file of a known version.
type fileContent struct {
	file    File
	version fileVersion
}

// ReadAt reads bytes of the version that was opened. A file that was changed meanwhile is an error, so that a reader
// never sees a mixture.
func (c *fileContent) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.file.ReadAt(p, off)
	if changed := sameVersion(c.file, c.version); changed != nil {
		return 0, changed
	}
	return n, err
}

func (c *fileContent) Close() error { return c.file.Close() }
