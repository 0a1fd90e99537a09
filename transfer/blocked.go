package transfer

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// This file is about targets that cannot be written, which is known before the first byte. They
// are on a read-only mount or are a mount themselves. Others are immutable, in a directory without
// write permission, or another user's in a sticky directory. Such a file may be up to date.

// isUnwritable reports whether an error of the system means that a directory takes no new file, or
// none of a name: a mount is busy.
func isUnwritable(err error) bool {
	isMount := errors.Is(err, syscall.EBUSY)
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) || isMount
}

// openBlocked takes a place whose file cannot be replaced because of err. It returns err at once
// unless the file there may be up to date. After success the get owns the directory.
func (g *get) openBlocked(place partfile.Place, err error) error {
	mayBeUpToDate := !g.NoClobber && g.Range == nil && g.Output == nil
	if !mayBeUpToDate {
		return err
	}
	f, _ := place.Existing()
	if f == nil {
		return err
	}
	f.Close()
	g.blocked, g.at = err, place
	return nil
}

// compareBlocked reports the file at a blocked target as up to date if it is, and returns the error
// of the target if not. No content is fetched.
func (g *get) compareBlocked(ctx context.Context, tree partfile.Tree) error {
	done, err := g.upToDate(ctx, tree)
	if err == nil && !done {
		err = g.blocked
	}
	return err
}

// isBlocked reports whether a file of a mirror cannot be put in its place, as far as that is known
// before its bytes are requested. It drops such a file.
func (m *mirror) isBlocked(h disk.TreeDir, f *mirrorFile) bool {
	err := m.readOnly
	if err == nil && !f.dir.takesFiles.Load() {
		err = disk.CheckWritable(h)
		f.dir.takesFiles.Store(err == nil)
	}
	if err == nil {
		err = disk.CheckReplaceable(h, f.name)
	}
	if err != nil {
		m.drop(f, LocalError("write it", err))
	}
	return err != nil
}
