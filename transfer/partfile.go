package transfer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"
)

// A partFile is a file on its way: it has another name, in the same directory, until it is whole.
//
//	open -> prove -> WriteAt ... -> commit      or      leave
//
// Nothing is ever under the final name but a whole file, and what stood there stays until then. A transfer that ends before
// leaves the part file if it holds anything that is proved, and the next one to the same target goes on with it. Nothing but
// the bytes themselves is kept: what they are worth is found out by hashing them (resume.go).
type partFile struct {
	dir   disk.Dir
	file  disk.File
	path  string // of the target, as the user said it, for messages
	name  string // of the target in dir
	part  string // of the part file in dir
	ended bool
	// keepsOld says that what is at the target must not be replaced.
	keepsOld bool

	writeback *writeback
	named     bool // the part file's name is durable; of checkpoint
	// committing says that the file may have its final mode already, lost that what was written may not be on disk though it
	// can be read.
	committing, lost bool
	// reserved says that room for the whole file was asked for, refused that there was none. Both are guarded by mu.
	reserved, refused bool
	// useless says that what is at the target already is the file.
	useless bool

	// tree is what had is proved against; nil while nobody knows what the file's bytes are worth.
	tree fileTree

	// window says which part of a file this is to hold; nil for all. What had and fetched say are offsets in the whole file.
	window *window

	mu      sync.Mutex
	had     rangeset.Set // proved and in the file
	fetched rangeset.Set // written by this transfer, perhaps for another tree
	wrote   int64        // bytes; what was written twice counts twice
}

// partName returns the name of the part file of a target: of a fixed length, so that a target's name may be as long as the
// system allows, and always the same, so that two transfers to one target notice each other and the second goes on where
// the first ended.
func partName(name string) string {
	sum := blake3.Sum256([]byte(name))
	return ".kwikcp-" + hex.EncodeToString(sum[:10]) + ".part"
}

// openPart prepares to receive a file at path. It fails if path is a directory or not one that can be written, and with keepsOld if
// there is anything of that name.
func openPart(openDir func(string) (disk.Dir, error), path string, keepsOld bool) (*partFile, error) {
	op := fmt.Sprintf("write %q", path)
	parent, name := filepath.Split(path)
	if parent == "" {
		parent = "."
	}
	if name == "" || name == "." || name == ".." {
		return nil, LocalError(op, ErrIsDirectory)
	}
	dir, err := openDir(parent)
	if err != nil {
		return nil, LocalError(op, fmt.Errorf("directory %q: %w", strings.TrimSuffix(parent, string(filepath.Separator)), cause(err)))
	}
	p := &partFile{dir: dir, path: path, name: name, part: partName(name), keepsOld: keepsOld}
	if err := p.open(); err != nil {
		dir.Close()
		return nil, p.wrap(err)
	}
	p.writeback = startWriteback(p.checkpoint)
	return p, nil
}

func (p *partFile) open() error {
	if info, err := p.dir.Stat(p.name); err == nil && info.IsDir() {
		return ErrIsDirectory
	}
	if info, err := p.dir.Lstat(p.name); err == nil && !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeSymlink {
		return disk.ErrNotAFile
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // such as a name that is too long, which the part file's is not
	} else if err == nil && p.keepsOld {
		return errTargetExists
	}
	for range 3 { // another process may make or remove a part file between our attempts
		f, err := p.dir.Create(p.part)
		if errors.Is(err, fs.ErrExist) {
			if f, err = p.adopt(); err == nil && f == nil {
				continue
			}
		} else if err == nil {
			if err = p.hold(f); err != nil {
				if err != errTargetBusy {
					p.dir.Remove(p.part)
				}
				f.Close()
			}
		}
		if err != nil {
			return err
		}
		p.file = f
		return nil
	}
	return errTargetBusy
}

var (
	errTargetBusy   = errors.New("another kwikcp is fetching to it")
	errTargetExists = errors.New("there is a file of that name")
	errPartGone     = errors.New("what was received of it was removed meanwhile, or its directory")
)

// hold locks f and makes sure that it is still the part file: before the lock another process may have put it in place or
// removed it, and begun its own. Whoever holds the lock of the file of that name is its owner.
func (p *partFile) hold(f disk.File) error {
	if locked, err := f.TryLock(); err != nil {
		return fmt.Errorf("lock: %w", cause(err))
	} else if !locked {
		return errTargetBusy
	}
	if err := p.isPart(f); err != errPartGone {
		return err
	}
	return errTargetBusy
}

// isPart returns nil if f is the file of the part file's name, errPartGone if there is none, and errTargetBusy if there is another.
func (p *partFile) isPart(f disk.File) error {
	held, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := p.dir.Lstat(p.part)
	if errors.Is(err, fs.ErrNotExist) {
		return errPartGone
	}
	if err != nil {
		return err
	}
	if !disk.SameFile(held, there) {
		return errTargetBusy
	}
	return nil
}

// adopt opens and holds the part file of a transfer that ended early. One that is locked belongs to a live one. What
// is of that name and cannot be such a part file is removed; f is nil if there may be none any more. It fails only with
// errTargetBusy or if what is there cannot be removed.
func (p *partFile) adopt() (f disk.File, err error) {
	f, err = p.dir.OpenPart(p.part)
	locked := errors.Is(err, fs.ErrPermission) // it may have its final mode, which may be read-only, already
	if locked {
		f, err = p.dir.Open(p.part)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, disk.ErrNotAFile), errors.Is(err, fs.ErrPermission):
		return nil, p.clear()
	case errors.Is(err, disk.ErrReplaced):
		return nil, errTargetBusy
	case err != nil:
		return nil, err
	}
	if err := p.hold(f); err != nil {
		f.Close()
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !disk.PrivateToUser(info) || info.Mode().Perm() != partMode && f.Chmod(partMode) != nil {
		defer f.Close()
		return nil, p.clear()
	}
	if locked {
		return nil, f.Close() // now it can be opened for writing
	}
	return f, nil
}

// clear removes what is in the part file's place.
func (p *partFile) clear() error {
	err := p.dir.Remove(p.part)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%q is in the way and cannot be removed: %w", p.part, cause(err))
}

// partMode is the mode of a part file: the final one is not known at first, and may let others write.
const partMode fs.FileMode = 0o600

// WriteAt writes proved bytes.
func (p *partFile) WriteAt(b []byte, off int64) (int, error) {
	in, at := b, off
	if p.window != nil {
		in, at = p.window.narrow(b, off)
	}
	if err := p.write(in, at); err != nil {
		return 0, err
	}
	p.mu.Lock()
	p.had.Add(off, off+int64(len(b)))
	p.fetched.Add(off, off+int64(len(b)))
	p.wrote += int64(len(b))
	p.mu.Unlock()
	if err := p.reserve(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// write writes bytes at an offset of the part file. What an error leaves of them ends anywhere in a group, and is proved by nothing.
func (p *partFile) write(b []byte, at int64) error {
	n, err := p.file.WriteAt(b, at)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if unsafe := p.writeback.wrote(n); err == nil {
		err = unsafe
	}
	if err != nil {
		return p.wrap(err)
	}
	return nil
}

// checkpoint makes what was written so far survive a power cut, and the part file's name with it.
func (p *partFile) checkpoint() error {
	if err := p.file.Checkpoint(); err != nil || p.named {
		return err
	}
	p.named = true
	return p.dir.Sync()
}

// inPlace returns how many proved bytes are in the file, how many of them were there before the transfer, and how many bytes
// it wrote that are of no use any more, because another version of the file is wanted.
func (p *partFile) inPlace() (had, resumed, lost int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	had = p.had.Total()
	if p.window != nil {
		return p.had.Overlap(p.window.want.Start, p.window.want.End), 0, p.wrote - had
	}
	fetched := int64(0)
	for r := range p.had.All() {
		fetched += p.fetched.Overlap(r.Start, r.End)
	}
	return had, had - fetched, p.wrote - fetched
}

// whole reports whether nothing is missing of the file that it was proved to be.
func (p *partFile) whole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.window != nil {
		return p.had.ContainsRange(p.window.cover.Start, p.window.cover.End)
	}
	return p.tree != nil && p.had.Total() == p.tree.Size()
}

// ranges returns which bytes of the file need not be fetched, whole groups: they are proved, or not wanted.
func (p *partFile) ranges() []rangeset.Range {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.window == nil {
		return p.had.Ranges()
	}
	all := p.had.Clone()
	all.Add(0, p.window.cover.Start)
	all.Add(p.window.cover.End, p.tree.Size())
	return all.Ranges()
}

// commit puts the whole file in place: mode, time, all of it to disk, rename, directory to disk.
func (p *partFile) commit(mode fs.FileMode, mtime time.Time) (err error) {
	defer func() {
		if err != nil {
			err = p.wrap(err)
		}
	}()
	if p.tree != nil && !p.whole() {
		return errors.New("a part of it is not proved") // cannot be
	}
	if err := p.writeback.stop(); err != nil {
		p.lost = true
		return err
	}
	p.committing = true
	if err := p.file.Chmod(mode.Perm() &^ disk.Umask); err != nil {
		return err
	}
	if err := p.isPart(p.file); err != nil { // what has its name now would get the time
		return err
	}
	if err := p.dir.Chtimes(p.part, mtime); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		p.lost = true // and a later Sync might not say so again
		return err
	}
	if err := p.isPart(p.file); err != nil { // the sync may have taken long
		return err
	}
	if err := p.rename(); err != nil {
		return err
	}
	p.ended = true
	return errors.Join(p.dir.Sync(), p.file.Close(), p.dir.Close())
}

func (p *partFile) rename() error {
	if !p.keepsOld {
		return p.dir.Rename(p.part, p.name)
	}
	err := p.dir.RenameNew(p.part, p.name)
	if errors.Is(err, fs.ErrExist) { // it came meanwhile
		return errTargetExists
	}
	return err
}

// leave ends the transfer without a file in place, unless there was a commit. It reports whether it left a part file from which the
// next transfer can go on.
func (p *partFile) leave() (kept bool) {
	if p.ended {
		return false
	}
	p.ended = true
	if p.writeback.stop() != nil {
		p.lost = true
	}
	if kept = p.worthKeeping(); kept && p.committing {
		kept = p.file.Chmod(partMode) == nil
	}
	switch ours := p.isPart(p.file) == nil; {
	case !ours:
		kept = false
	case kept:
		p.release()
	default:
		p.dir.Remove(p.part) // before its lock goes
	}
	p.file.Close()
	p.dir.Close()
	return kept
}

func (p *partFile) worthKeeping() bool {
	if p.lost || p.useless {
		return false
	}
	if p.tree != nil {
		had, _, _ := p.inPlace()
		return had > 0
	}
	info, err := p.file.Stat()
	return err == nil && info.Size() > 0 // of an earlier transfer, and nobody said yet what the file is
}

func (p *partFile) wrap(err error) error {
	op := fmt.Sprintf("write %q", p.path)
	switch {
	case errors.Is(err, errTargetBusy):
		return &Error{Kind: KindBusy, Op: op, Err: errTargetBusy}
	case errors.Is(err, errTargetExists):
		return &Error{Kind: KindExists, Op: op, Err: errTargetExists}
	}
	return LocalError(op, err)
}

// cause strips the path that package fs put before an error.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
