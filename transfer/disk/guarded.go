package disk

import (
	"errors"
	"io/fs"
	"time"
)

// Hide returns a directory as it would be without the secrets: their names lead to nothing. The
// caller closes root.
func (s *Secrets) Hide(root TreeDir) (TreeDir, error) {
	return s.guard(root, fs.ErrNotExist)
}

// Protect returns a directory in which the secrets can be neither changed nor removed: their
// names give ErrProtected. The caller closes root.
func (s *Secrets) Protect(root TreeDir) (TreeDir, error) {
	return s.guard(root, ErrProtected)
}

func (s *Secrets) guard(root TreeDir, refusal error) (TreeDir, error) {
	if err := s.exemptDir(root); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return guardedDir{TreeDir: root, secrets: s, refusal: refusal, isOwn: s.ownNames(root), top: root}, nil
}

// A guardedDir is a TreeDir that refuses the secrets in it.
type guardedDir struct {
	TreeDir
	secrets *Secrets
	refusal error // for a secret
	// isOwn reports whether a name in the directory is that of a secret file; nil if none is.
	isOwn func(name string) bool
	// top is the guarded directory that this one was opened from, and at the path below it. A
	// link may lead out of a directory and stay inside top.
	top TreeDir
	at  string
}

// system is for LinkInto, whose caller has looked at the name with Lstat.
func (d guardedDir) system() (osDir, bool) { return systemOf(d.TreeDir) }

// refuseName returns an error if a name is that of a secret file, whether it exists or not.
func (d guardedDir) refuseName(op, name string) error {
	if d.isOwn != nil && d.isOwn(name) {
		return &fs.PathError{Op: op, Path: name, Err: d.refusal}
	}
	return nil
}

// refuse returns an error if what was found under a name is secret. maxAge is how old the last
// look at the secrets may be.
func (d guardedDir) refuse(op, name string, info fs.FileInfo, maxAge time.Duration) error {
	isSecret, err := d.secrets.has(info, maxAge)
	switch {
	case err != nil:
		return err
	case isSecret:
		return &fs.PathError{Op: op, Path: name, Err: d.refusal}
	}
	return nil
}

// refuseMoved returns an error if a directory on the way to a name is a secret one that was
// moved.
func (d guardedDir) refuseMoved(op, name string) error {
	if !d.secrets.hasMovedDirs() {
		return nil
	}
	for at := Parent(name); at != ""; at = Parent(at) {
		if info, err := d.TreeDir.Stat(at); err == nil {
			if err := d.refuse(op, name, info, lookInterval); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuseFile returns an error if an open file is secret.
func (d guardedDir) refuseFile(name string, f File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// The look follows the open: a file that became secret before is refused.
	if err := d.refuse("open", name, info, 0); err != nil {
		return err
	}
	return d.refuseMoved("open", name)
}

func (d guardedDir) Open(name string) (File, error) { return d.open(name, d.TreeDir.Open) }

func (d guardedDir) OpenPart(name string) (File, error) { return d.open(name, d.TreeDir.OpenPart) }

func (d guardedDir) open(name string, open func(string) (File, error)) (File, error) {
	if err := d.refuseName("open", name); err != nil {
		return nil, err
	}
	f, err := open(name)
	if errors.Is(err, ErrNotAFile) {
		if _, secret := d.Stat(name); secret != nil { // a missing file is no directory, either
			return nil, secret
		}
	}
	if err != nil {
		return nil, err
	}
	if err := d.refuseFile(name, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d guardedDir) Stat(name string) (fs.FileInfo, error) {
	if err := d.refuseName("stat", name); err != nil {
		return nil, err
	}
	info, err := d.TreeDir.Stat(name)
	if err != nil {
		return nil, err
	}
	if err := d.refuse("stat", name, info, lookInterval); err != nil {
		return nil, err
	}
	if err := d.refuseMoved("stat", name); err != nil {
		return nil, err
	}
	return info, nil
}

// Lstat refuses a link that leads to a secret as well.
func (d guardedDir) Lstat(name string) (fs.FileInfo, error) {
	if err := d.refuseName("lstat", name); err != nil {
		return nil, err
	}
	info, err := d.TreeDir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if err := d.refuse("lstat", name, info, lookInterval); err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if to, err := d.top.Stat(JoinPath(d.at, name)); err == nil {
			if err := d.refuse("lstat", name, to, lookInterval); err != nil {
				return nil, err
			}
		}
	}
	if err := d.refuseMoved("lstat", name); err != nil {
		return nil, err
	}
	return info, nil
}

func (d guardedDir) Readlink(name string) (string, error) {
	if _, err := d.Lstat(name); err != nil {
		return "", err
	}
	return d.TreeDir.Readlink(name)
}

func (d guardedDir) Sub(name string) (TreeDir, error) { return d.openDir(name, d.TreeDir.Sub) }
func (d guardedDir) At(name string) (TreeDir, error)  { return d.openDir(name, d.TreeDir.At) }

func (d guardedDir) openDir(name string, open func(string) (TreeDir, error)) (TreeDir, error) {
	sub, err := open(name)
	if errors.Is(err, ErrNotADirectory) {
		if _, secret := d.Lstat(name); secret != nil { // a missing directory is no file, either
			return nil, secret
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := sub.Stat(".")
	if err == nil {
		err = d.refuse("open", name, info, 0)
	}
	if err == nil {
		err = d.refuseMoved("open", name)
	}
	if err != nil {
		sub.Close()
		return nil, err
	}
	below := d
	below.TreeDir = sub
	if name != "." {
		below.isOwn, below.at = nil, JoinPath(d.at, name)
	}
	return below, nil
}

// refuseChange returns an error if a name is that of a secret, or in a secret directory.
func (d guardedDir) refuseChange(names ...string) error {
	for _, name := range names {
		if err := d.refuseName("change", name); err != nil {
			return err
		}
		for _, at := range []string{name, Parent(name)} {
			if at == "" {
				continue
			}
			info, err := d.TreeDir.Lstat(at)
			if err != nil {
				continue
			}
			if err := d.refuse("change", name, info, lookInterval); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d guardedDir) Create(name string) (File, error) {
	if err := d.refuseChange(name); err != nil {
		return nil, err
	}
	return d.TreeDir.Create(name)
}

func (d guardedDir) Mkdir(name string) error {
	if err := d.refuseChange(name); err != nil {
		return err
	}
	return d.TreeDir.Mkdir(name)
}

func (d guardedDir) Symlink(target, name string) error {
	if err := d.refuseChange(name); err != nil {
		return err
	}
	return d.TreeDir.Symlink(target, name)
}

func (d guardedDir) Rename(old, new string) error {
	if err := d.refuseChange(old, new); err != nil {
		return err
	}
	return d.TreeDir.Rename(old, new)
}

func (d guardedDir) RenameNew(old, new string) error {
	if err := d.refuseChange(old, new); err != nil {
		return err
	}
	return d.TreeDir.RenameNew(old, new)
}

func (d guardedDir) Remove(name string) error {
	if err := d.refuseChange(name); err != nil {
		return err
	}
	return d.TreeDir.Remove(name)
}

func (d guardedDir) Chtimes(name string, mtime time.Time) error {
	if _, err := d.Stat(name); err != nil {
		return err
	}
	return d.TreeDir.Chtimes(name, mtime)
}

func (d guardedDir) ChmodDir(name string, mode fs.FileMode) error {
	if err := d.refuseChange(name); err != nil {
		return err
	}
	return d.TreeDir.ChmodDir(name, mode)
}
