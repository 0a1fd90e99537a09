package transfer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/zeebo/blake3"
)

// A partFile is a file on its way: it has another name, in the same directory, until it is whole.
//
//	open -> WriteAt ... -> commit      or      discard
//
// Nothing is ever under the final name but a whole file, and what stood there stays until then.
type partFile struct {
	dir   Dir
	file  File
	path  string // of the target, as the user said it, for messages
	name  string // of the target in dir
	part  string // of the part file in dir
	ended bool

	writeback *writeback
}

// partName returns the name of the part file of a target: of a fixed length, so that a target's name may be as long as the
// system allows, and always the same, so that two transfers to one target notice each other.
func partName(name string) string {
	sum := blake3.Sum256([]byte(name))
	return ".kwikcp-" + hex.EncodeToString(sum[:10]) + ".part"
}

// openPart prepares to receive a file at path. It fails if path is a directory or not one that can be written.
func openPart(openDir func(string) (Dir, error), path string) (*partFile, error) {
	op := fmt.Sprintf("write %q", path)
	parent, name := filepath.Split(path)
	if parent == "" {
		parent = "."
	}
	if name == "" || name == "." || name == ".." {
		return nil, LocalError(op, errors.New("it is a directory; name a file"))
	}
	dir, err := openDir(parent)
	if err != nil {
		return nil, LocalError(op, fmt.Errorf("directory %q: %w", strings.TrimSuffix(parent, string(filepath.Separator)), cause(err)))
	}
	p := &partFile{dir: dir, path: path, name: name, part: partName(name)}
	if err := p.open(); err != nil {
		dir.Close()
		return nil, p.wrap(err)
	}
	p.writeback = startWriteback(p.file)
	return p, nil
}

func (p *partFile) open() error {
	if info, err := p.dir.Stat(p.name); err == nil && info.IsDir() {
		return errors.New("it is a directory; name a file in it")
	}
	if info, err := p.dir.Lstat(p.name); err == nil && !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeSymlink {
		return ErrNotAFile
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // such as a name that is too long, which the part file's is not
	}
	for range 3 { // another process may leave its part file between our two attempts
		f, err := p.dir.Create(p.part)
		if errors.Is(err, fs.ErrExist) {
			if err := p.removeStale(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := p.hold(f); err != nil {
			if err != errTargetBusy {
				p.dir.Remove(p.part)
			}
			f.Close()
			return err
		}
		p.file = f
		return nil
	}
	return errTargetBusy
}

var errTargetBusy = errors.New("another kwikcp is fetching to it")

// hold locks f and makes sure that it is still the part file: before the lock another process may take it for that of a
// transfer that was killed, remove it and begin its own. Whoever holds the lock of the file of that name is its owner.
func (p *partFile) hold(f File) error {
	if locked, err := f.TryLock(); err != nil {
		return fmt.Errorf("lock: %w", cause(err))
	} else if !locked {
		return errTargetBusy
	}
	held, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := p.dir.Lstat(p.part)
	if errors.Is(err, fs.ErrNotExist) {
		return errTargetBusy
	}
	if err != nil {
		return err
	}
	if !sameFile(held, there) {
		return errTargetBusy
	}
	return nil
}

// removeStale removes the part file of a transfer that was killed. One that is locked belongs to a live one.
func (p *partFile) removeStale() error {
	f, err := p.dir.OpenPart(p.part)
	if errors.Is(err, fs.ErrPermission) { // it had its final mode already; reading suffices for a lock
		f, err = p.dir.Open(p.part)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, ErrNotAFile):
		return p.dir.Remove(p.part)
	case errors.Is(err, errReplaced):
		return errTargetBusy
	case err != nil:
		return err
	}
	defer f.Close()
	if err := p.hold(f); err != nil {
		return err
	}
	return p.dir.Remove(p.part)
}

// WriteAt writes proved bytes.
func (p *partFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := p.file.WriteAt(b, off)
	p.writeback.wrote(n)
	if err != nil {
		err = p.wrap(err)
	}
	return n, err
}

// commit puts the whole file in place: mode, content to disk, time, rename, directory to disk.
func (p *partFile) commit(mode fs.FileMode, mtime time.Time) (err error) {
	defer func() {
		if err != nil {
			err = p.wrap(err)
		}
	}()
	if err := p.file.Chmod(mode.Perm() &^ umask); err != nil {
		return err
	}
	p.writeback.stop()
	if err := p.file.Sync(); err != nil {
		return err
	}
	if err := p.dir.Chtimes(p.part, mtime); err != nil {
		return err
	}
	if err := p.dir.Rename(p.part, p.name); err != nil {
		return err
	}
	p.ended = true
	return errors.Join(p.dir.Sync(), p.file.Close(), p.dir.Close())
}

// discard removes the part file, unless it was committed.
func (p *partFile) discard() {
	if p.ended {
		return
	}
	p.ended = true
	p.writeback.stop()
	p.dir.Remove(p.part) // before its lock goes
	p.file.Close()
	p.dir.Close()
}

func (p *partFile) wrap(err error) error {
	if errors.Is(err, errTargetBusy) {
		return &Error{Kind: KindBusy, Op: fmt.Sprintf("write %q", p.path), Err: errTargetBusy}
	}
	return LocalError(fmt.Sprintf("write %q", p.path), err)
}

// cause strips the path that package fs put before an error.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
