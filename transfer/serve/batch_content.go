package serve

import (
	"context"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the content of a batch of files, end to end, as every source opens it.

// packDescriptor returns what a descriptor of a batch says; raw is nil if it is none.
func packDescriptor(descriptor []byte) (base string, raw []byte) {
	var d transferpb.FileDescriptor
	if proto.Unmarshal(descriptor, &d) != nil || d.GetPack() == nil {
		return "", nil
	}
	return string(d.GetPath()), append([]byte{}, d.GetPack().GetFiles()...)
}

// openPackContent opens a batch. A server that offered it knows which versions of the files are meant. Another one serves the files of which it
// has a copy of the primary's size and time, or with the primary's root, and lacks the others.
func (s *Server) openPackContent(ctx context.Context, base string, raw []byte, r kwik.ContentRequest) (kwik.Content, error) {
	files, err := wire.ReadFiles(raw, r.Size)
	if err != nil {
		return nil, err
	}
	if base != "" && wire.CheckPath(base) != nil {
		return nil, errNoContent
	}
	c := &packContent{dir: s.dir, base: base, files: files}
	if known := s.packs.look(string(r.Descriptor)); known != nil {
		if len(known.versions) != len(files) {
			return nil, errNoContent // cannot be
		}
		c.versions = known.versions
		return c, nil
	}
	patience := patienceForTree
	if r.Session == nil {
		patience = time.Hour // it is the primary that asks: until ctx ends
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.versions = make([]disk.Version, len(files))
	for i, f := range files {
		if c.versions[i], err = s.hasPacked(ctx, disk.JoinPath(base, f.Path), f); err == nil {
			continue
		}
		s.log.Debug("a file of a batch is not here", "path", disk.JoinPath(base, f.Path), "err", err)
		if n := len(c.lacks); n > 0 && c.lacks[n-1].End == f.Start {
			c.lacks[n-1].End = f.End()
		} else {
			c.lacks = append(c.lacks, kwik.MissingRange{Start: f.Start, End: f.End(), Err: errNoContent})
		}
	}
	if len(c.lacks) > 0 {
		s.log.Info("files of a batch are not here", "path", base, "files", len(files), "ranges", len(c.lacks))
	}
	return c, nil
}

// hasPacked finds out whether a file is the one of a batch, and which version that is.
func (s *Server) hasPacked(ctx context.Context, path string, f wire.BatchFile) (version disk.Version, err error) {
	info, err := s.dir.Stat(path)
	if err != nil {
		return version, err
	}
	version = disk.VersionOf(info)
	entry := s.index.entry(path)
	switch tree := entry.known(); {
	case !info.Mode().IsRegular():
		return version, disk.ErrNotAFile
	case version.Size != f.Size:
		return version, fmt.Errorf("it has %d bytes, the primary's has %d", version.Size, f.Size)
	case tree != nil && entry.version == version:
		return version, checkRoot(f, tree)
	case version.MTime == f.MTime:
		return version, nil
	}
	if version.Size >= tinyFile {
		s.index.lookup(path, version, func() (disk.File, error) { return s.dir.Open(path) }) // so that it is known the next time
	}
	if ctx.Err() != nil {
		return version, errNoContent
	}
	tree, err := s.treeNow(ctx, path, version)
	if err != nil {
		return version, err
	}
	return version, checkRoot(f, tree)
}

// treeNow returns the tree of a version of a file, if ctx lasts.
func (s *Server) treeNow(ctx context.Context, path string, version disk.Version) (*integrity.Tree, error) {
	if version.Size >= tinyFile {
		return s.bigTree(ctx, path, version)
	}
	file, err := s.dir.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return buildTiny(ctx, file, version)
}

// checkRoot returns an error if a tree is not the one of the file.
func checkRoot(f wire.BatchFile, tree *integrity.Tree) error {
	if root := tree.Root(); [wire.RootPrefix]byte(root[:]) != f.Root {
		return errFileChanged
	}
	return nil
}

// verifyPack checks bytes of a batch that this server has offered, against the trees of its files. A batch that it does not know any more is
// nobody's business.
func (s *Server) verifyPack(descriptor []byte, off int64, p []byte) error {
	known := s.packs.look(string(descriptor))
	if known == nil {
		return nil
	}
	for i, start := 0, int64(0); i < len(known.trees) && len(p) > 0; i++ {
		tree := known.trees[i]
		end := start + tree.Size()
		if off < end {
			n := min(int64(len(p)), end-off)
			if err := tree.Verify(off-start, p[:n]); err != nil {
				return err
			}
			p, off = p[n:], off+n
		}
		start = end
	}
	return nil
}

// maxPackOpen is how many files of a batch a content keeps open: an extent begins in one and ends in another, and the next one may begin
// where this one did.
const maxPackOpen = 4

// A packContent is the files of a batch, each of a known version. They are opened as they are read.
type packContent struct {
	dir      disk.Dir
	base     string
	files    []wire.BatchFile
	versions []disk.Version
	lacks    []kwik.MissingRange
	open     []openPacked // the last used at the end
}

// Missing implements kwik.PartialContent.
func (c *packContent) Missing() []kwik.MissingRange { return c.lacks }

type openPacked struct {
	index int
	file  disk.File
}

// ReadAt reads across files. One that is not there any more, or not as it was, is lacking from then on.
func (c *packContent) ReadAt(p []byte, off int64) (read int, err error) {
	i := sort.Search(len(c.files), func(i int) bool { return c.files[i].End() > off })
	for ; len(p) > 0 && i < len(c.files); i++ {
		f := c.files[i]
		n := min(int64(len(p)), f.End()-off)
		if err := c.read(i, p[:n], off-f.Start); err != nil {
			return read, &kwik.MissingRange{Start: f.Start, End: f.End(), Err: err} // the others are as they were
		}
		p, off, read = p[n:], off+n, read+int(n)
	}
	if len(p) > 0 {
		return read, errNoContent
	}
	return read, nil
}

func (c *packContent) read(i int, p []byte, off int64) error {
	file, err := c.file(i)
	if err != nil {
		return errFileChanged // it was there when the batch was opened; what is the matter with it now is nobody's business
	}
	n, err := file.ReadAt(p, off)
	if changed := checkVersion(file, c.versions[i]); changed != nil {
		return changed
	}
	if n == len(p) {
		return nil
	}
	return err
}

// file returns a file of the batch, opened.
func (c *packContent) file(i int) (disk.File, error) {
	for at, o := range c.open {
		if o.index == i {
			c.open = append(append(c.open[:at:at], c.open[at+1:]...), o)
			return o.file, nil
		}
	}
	file, err := c.dir.Open(disk.JoinPath(c.base, c.files[i].Path))
	if err != nil {
		return nil, err
	}
	if len(c.open) == maxPackOpen {
		c.open[0].file.Close()
		c.open = c.open[1:]
	}
	c.open = append(c.open, openPacked{i, file})
	return file, nil
}

// Close implements io.Closer.
func (c *packContent) Close() error {
	for _, o := range c.open {
		o.file.Close()
	}
	c.open = nil
	return nil
}
