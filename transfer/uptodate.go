package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
)

// upToDate reports whether what is at the target is the manifest's file already, and gives it the source's mode and time then. It is
// hashed only if it has the right size, and once for each version of the source. An error is one of setting these or of
// having it on disk, or the end of ctx: what cannot be read is not up to date.
func (g *get) upToDate(ctx context.Context) (bool, error) {
	root := g.tree.Root()
	if g.KeepsOld || g.compared != nil && *g.compared == root {
		return false, nil
	}
	f, info := g.part.standing()
	if f == nil {
		return false, nil
	}
	defer f.Close()
	same, err := matches(ctx, f, info.Size(), g.tree, g.observer.checking)
	if err != nil {
		return false, err
	}
	g.compared = &root
	if !same || disk.CheckVersion(f, disk.VersionOf(info)) != nil {
		return false, nil
	}
	if !g.Plain {
		if err := g.part.dress(f, info, g.manifest); err != nil {
			return false, LocalError(fmt.Sprintf("set mode and time of %q, which is up to date", g.Target), err)
		}
	}
	if err := g.part.settle(f); err != nil {
		return false, LocalError(fmt.Sprintf("put %q on disk, which is up to date", g.Target), err)
	}
	g.part.useless = true
	g.result.UpToDate = true
	if g.manifest.Size > 0 {
		g.observer.resume(g.manifest.Size)
	}
	g.seeAll()
	return true, nil
}

// standing opens what is at the target. f is nil if that is no regular file or cannot be read; links are not followed, since a new
// file would replace them.
func (p *partFile) standing() (f disk.File, info fs.FileInfo) {
	there, err := p.dir.Lstat(p.name)
	if err != nil || !there.Mode().IsRegular() {
		return nil, nil
	}
	if f, err = p.dir.Open(p.name); err != nil {
		return nil, nil
	}
	if info, err = f.Stat(); err != nil || !disk.SameFile(info, there) {
		f.Close()
		return nil, nil
	}
	return f, info
}

// settle makes the file at the target durable, and its name: whoever put it there may have been killed before it did.
func (p *partFile) settle(f disk.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrPermission) { // Windows wants a file that is open for writing
		return err
	}
	return p.dir.Sync()
}

// dress gives the file at the target the mode and time of a manifest, as far as it has not got them: then it may be anybody's.
func (p *partFile) dress(f disk.File, info fs.FileInfo, m Manifest) error {
	if mode := fs.FileMode(m.Mode) &^ disk.Umask; info.Mode() != mode { // its setuid bit, too, would go with a new file
		if err := f.Chmod(mode); err != nil {
			return err
		}
	}
	if info.ModTime().Equal(m.MTime) {
		return nil
	}
	return p.dir.Chtimes(p.name, m.MTime)
}
