// Package partfile is the file that a transfer writes before it has the name of its target.
//
// A [Place] is a name in a directory. The part file of a place is in the same directory under
// another name, locked against other transfers, until all of it is proved. Then it gets mode
// and time and is renamed. Nothing but a whole file is ever under the name of the target, and a
// file that was there stays until then. A transfer that ends early leaves its part file if
// anything in it is proved. The next transfer to the same place resumes from it. Only the bytes
// are kept. Their worth is found by hashing them ([PartFile.Prove]).
//
// Errors are those of the directory and its files, [ErrBusy], [ErrExists], [ErrGone] and
// *disk.SpaceError. They do not name the target. Methods that take a context return its cause
// when it ends.
package partfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sync"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

var (
	// ErrBusy reports that another transfer holds the part file.
	ErrBusy = errors.New("another kwikcp is fetching to it")
	// ErrIsDirectory reports that the target is a directory.
	ErrIsDirectory = errors.New("it is a directory")
	// ErrExists reports that the target exists and must not be replaced.
	ErrExists = errors.New("there is a file of that name")
	// ErrGone reports that the part file was removed while it was in use.
	ErrGone = errors.New("the part file or its directory was removed during the transfer")
)

// A Tree proves the groups of a file, or of a range of it. *integrity.Tree is one.
type Tree interface {
	// Root identifies the content.
	Root() integrity.Root
	Size() int64
	GroupBytes() int64
	Verify(off int64, p []byte) error
}

func sameTree(a, b Tree) bool {
	return a != nil && a.Root() == b.Root() && a.Size() == b.Size() && a.GroupBytes() == b.GroupBytes()
}

// A State says what is known of a part file.
//
//	state      on disk                              methods, and the state that they lead to
//	Unproved   bytes of an earlier transfer,        Prove -> Proved; Restart -> Proved; Forget -> Cold; SetWindow -> Windowed
//	           or none
//	Cold       bytes that arrived, each verified;   WriteAt; ReadAt; Accept -> Proved; Forget; Prove -> Proved
//	           the root is not known
//	Proved     had is verified against tree, other  WriteAt; ReadAt; Prove with another tree; Forget -> Cold; the Pool parks it -> Parked;
//	           bytes count for nothing              Finish of a whole file -> Finished
//	Windowed   a range of the file from offset 0,   WriteAt; SetWindow; Content; Finish of a whole range -> Finished
//	           useless to another transfer
//	Parked     as Proved, but closed and not locked WriteAt, ReadAt -> Proved, unless another process wrote to it
//	Finishing  mode and time may be the final ones  none: Finish failed
//	Finished   mode and time are the final ones;    ReadAt; Rename, SetAside -> Ended
//	           the content is durable if requested
//	Unsafe     a sync failed: bytes that can be     none; all return that error
//	           read may not be on the disk
//	Ended      the target, a part file that is      none
//	           kept, or nothing
//
// Leave and Discard end each state. Leave keeps a part file with proved bytes, and one whose
// bytes were not looked at. Both have the mode of part files then. It removes any other, a
// range and an Unsafe one. Discard keeps nothing. A Prove that fails leaves the part file
// Unproved. State, Whole, InPlace, Prefix and Have are legal in each state, Empty wherever the
// file is open.
type State int

// The states of a part file.
const (
	Unproved State = iota
	Cold
	Proved
	Windowed
	Parked
	Finishing
	Finished
	Unsafe
	Ended
)

var stateNames = [...]string{"Unproved", "Cold", "Proved", "Windowed", "Parked", "Finishing", "Finished", "Unsafe",
	"Ended"}

// String returns the name of the state.
func (s State) String() string { return stateNames[s] }

// partMode is the mode of a part file: the final one is not known at first, and may let others
// write.
const partMode fs.FileMode = 0o600

// Options says how a part file is used.
type Options struct {
	// NoClobber makes it an error if the target exists, at Open or at Rename.
	NoClobber bool
	// SyncName makes the first checkpoint sync the directory, too, so that the part file's name
	// survives a power cut.
	SyncName bool
	// Unchecked is set if something that the file cannot replace may be in its place. The caller
	// removes it before Rename.
	Unchecked bool
	// Run is empty, or names the run that alone uses the file. Then it is under another name than
	// other transfers to the place use, and nothing of it is kept for them.
	Run string
	// Pool bounds the part files that are open at a time; nil means that this one stays open.
	Pool *Pool
	// Preallocate says whether free space is reserved; empty means auto.
	Preallocate disk.Preallocation
}

// A PartFile receives a file beside its target. WriteAt is safe for concurrent use; the other
// methods that change the state are called by one goroutine at a time. Leave and Discard wait
// for the methods that use the file.
type PartFile struct {
	Options
	place Place
	part  string // the name in place.Dir, which may be of this process alone (takeOwn)
	// isUnlocked is set if the file system has no locks.
	isUnlocked bool
	writeback  *writeback
	nameSafe   bool // the directory was synced; belongs to checkpoint

	// mu guards what follows. It is held while a parked file is reopened and while an open one
	// is parked. No lock of another part file or of the pool is taken under it.
	mu    sync.Mutex
	state State
	file  *ownFile   // stays as it is while there are users
	users int        // methods that use file now
	idle  *sync.Cond // users fell to 0

	tree Tree // verifies had; nil in Unproved and Cold
	// window is the held part of the file; nil for all. had and fetched are offsets in the whole
	// file.
	window  *window
	had     rangeset.Set // verified and in the file
	zeros   rangeset.Set // of had, what was not fetched because it is zeros in a hole of the source
	fetched rangeset.Set // written with WriteAt, perhaps for another tree
	wrote   int64        // bytes given to WriteAt; bytes that were written twice count twice

	holes *Holes // of the source; nil if all bytes are written. It does not change.
	blank bool   // all bytes that are not in had are holes, or beyond the end of the file

	reserved bool         // free space for the whole file was requested
	saved    disk.Version // of a parked or finished file
	failure  error        // of an Unsafe file
}

// Open opens and locks the part file of a place, and creates it if it is missing. It fails if
// the place is a directory or cannot be written. After success the part file owns place.Dir and
// closes it at its end. On a file system without locks the part file is this process's alone.
func (place Place) Open(o Options) (*PartFile, error) {
	if o.Run != "" {
		return place.open(NewName(place.Name, o.Run), o)
	}
	return place.open(PartName(place.Name), o)
}

// Name returns the name of the part file in the directory of its place.
func (p *PartFile) Name() string { return p.part }

// Lock takes a file of the place's own name as a lock. It is released, and the file removed,
// with Discard. Anything else of that name that can be removed is removed.
func (place Place) Lock() (*PartFile, error) {
	if err := disk.CheckReplaceable(place.Dir, place.Name); err != nil { // it could not be removed
		return nil, err
	}
	return place.take(place.Name, Options{})
}

func (place Place) open(part string, o Options) (*PartFile, error) {
	if !o.Unchecked {
		if err := place.check(o.NoClobber); err != nil {
			return nil, err
		}
	}
	return place.take(part, o)
}

func (place Place) take(part string, o Options) (*PartFile, error) {
	c := claim{Place: place, name: part}
	file, err := c.take()
	isShared := part == PartName(place.Name)
	_, isInTheWay := errors.AsType[*inTheWayError](err)
	isOthers := isInTheWay && errors.Is(err, fs.ErrPermission)
	switch {
	case err == errUnlockable:
		c.isUnlocked = true
		c, file, err = c.takeOwn(!isShared)
	case isOthers && isShared:
		c, file, err = c.takeOwn(false)
	}
	if err != nil {
		return nil, err
	}
	p := &PartFile{Options: o, place: place, part: c.name, isUnlocked: c.isUnlocked, file: newOwnFile(file)}
	p.idle = sync.NewCond(&p.mu)
	p.writeback = newWriteback(p.checkpoint)
	p.Pool.admit(p)
	return p, nil
}

// State returns the state.
func (p *PartFile) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// begin counts a user of the open file, which is neither parked nor closed before end. It
// reopens a parked one. The state must be one of legal.
func (p *PartFile) begin(method string, legal ...State) error {
	p.mu.Lock()
	if err := p.require(method, legal...); err != nil {
		p.mu.Unlock()
		return err
	}
	parked := p.state == Parked
	if parked {
		if err := p.reopen(); err != nil {
			p.mu.Unlock()
			return err
		}
		p.state = Proved
	}
	p.users++
	p.mu.Unlock()
	if parked {
		p.Pool.admit(p)
	}
	return nil
}

func (p *PartFile) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users == 0 {
		p.idle.Broadcast()
	}
}

// require returns nil if the state is one of legal. Called with the lock held.
func (p *PartFile) require(method string, legal ...State) error {
	switch {
	case slices.Contains(legal, p.state):
		return nil
	case p.state == Unsafe:
		return p.failure
	}
	return fmt.Errorf("the part file is %v: %s is not possible", p.state, method) // an error of the caller's
}

// spoil makes the part file Unsafe. Called with the lock held.
func (p *PartFile) spoil(err error) { p.state, p.failure = Unsafe, err }

// WriteAt writes verified bytes: whole groups of the file, at their offsets in it.
func (p *PartFile) WriteAt(b []byte, off int64) (int, error) {
	if err := p.begin("WriteAt", Cold, Proved, Windowed, Parked); err != nil {
		return 0, err
	}
	defer p.end()
	var err error
	if p.window != nil {
		err = p.write(p.window.narrow(b, off))
	} else {
		err = p.writeData(b, off)
	}
	if err != nil {
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

// write writes bytes at an offset of the part file. The bytes that an error leaves may end
// anywhere in a group, and count for nothing.
func (p *PartFile) write(b []byte, at int64) error {
	n, err := p.file.WriteAt(b, at)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.mu.Lock()
		p.blank = false
		p.mu.Unlock()
	}
	if unsafe := p.writeback.wrote(n); unsafe != nil {
		p.mu.Lock()
		p.spoil(unsafe)
		p.mu.Unlock()
		if err == nil {
			err = unsafe
		}
	}
	return err
}

// writeVerified writes a verified group that was not fetched.
func (p *PartFile) writeVerified(group []byte, off int64) error {
	if err := p.writeData(group, off); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.had.Add(off, off+int64(len(group)))
	return nil
}

// checkpoint makes durable what was written so far, and with SyncName the part file's name.
func (p *PartFile) checkpoint() error {
	err := p.place.Lacks.Allow(disk.OpCheckpoint, p.file.Checkpoint())
	if err != nil || p.nameSafe || !p.SyncName {
		return err
	}
	p.nameSafe = true
	return p.place.syncDir()
}

// Forget starts a transfer whose root is not known yet. Nothing that is in the file counts. The
// caller verifies the bytes for WriteAt against chaining values that belong to no tree yet.
func (p *PartFile) Forget() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.require("Forget", Unproved, Cold, Proved); err != nil {
		return err
	}
	info, err := p.file.Stat()
	p.state, p.tree, p.had = Cold, nil, rangeset.Set{}
	p.zeros, p.blank = rangeset.Set{}, err == nil && info.Size() == 0
	p.reserved = false
	return nil
}

// Accept names the tree of a Cold file: all bytes that were written since Forget are verified
// against it.
func (p *PartFile) Accept(tree Tree) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.require("Accept", Cold); err != nil {
		return err
	}
	p.state, p.tree = Proved, tree
	return nil
}

// Restart removes what is in the file without a look at it, and names the tree for the bytes
// that follow.
func (p *PartFile) Restart(tree Tree) error {
	if err := p.begin("Restart", Unproved); err != nil {
		return err
	}
	defer p.end()
	info, err := p.file.Stat()
	if err == nil && info.Size() > 0 {
		err = p.file.Truncate(0)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.tree, p.had = Proved, tree, rangeset.Set{}
	p.zeros, p.blank = rangeset.Set{}, true
	return nil
}

// Exists reports whether there may be something at the target.
func (p *PartFile) Exists() bool {
	_, err := p.place.Dir.Lstat(p.place.Name)
	return !errors.Is(err, fs.ErrNotExist)
}

// Place returns the place of the target.
func (p *PartFile) Place() Place { return p.place }

// Empty reports whether there is nothing in the part file.
func (p *PartFile) Empty() bool {
	info, err := p.file.Stat()
	return err == nil && info.Size() == 0
}

// InPlace returns how many verified bytes are in the file, and how many of them were there
// before this transfer, not counting Holes. lost is how many bytes WriteAt took that are useless
// now, because another version of the file is wanted.
func (p *PartFile) InPlace() (had, resumed, lost int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	had = p.had.Total()
	if p.window != nil {
		return p.had.Overlap(p.window.want.Start, p.window.want.End), 0, p.wrote - (had - p.zeros.Total())
	}
	fetched := int64(0) // zeros that were fetched, perhaps for another tree, count as holes
	for r := range p.had.All() {
		fetched += p.fetched.Overlap(r.Start, r.End)
	}
	for r := range p.zeros.All() {
		fetched -= p.fetched.Overlap(r.Start, r.End)
	}
	return had, had - fetched - p.zeros.Total(), p.wrote - fetched
}

// Whole reports whether nothing is missing of the file, or of the range of it, whose tree is known.
func (p *PartFile) Whole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.whole()
}

// whole is called with the lock held.
func (p *PartFile) whole() bool {
	switch {
	case p.tree == nil:
		return false
	case p.window != nil:
		return p.had.ContainsRange(p.window.cover.Start, p.window.cover.End)
	}
	return p.had.Total() == p.tree.Size()
}

// Prefix returns how many bytes at the start of the file are verified.
func (p *PartFile) Prefix() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	missing, _ := p.had.NextMissing(0, math.MaxInt64)
	return missing.Start
}

// ReadAt reads bytes of the file, all of which must be verified.
func (p *PartFile) ReadAt(b []byte, off int64) (int, error) {
	if err := p.begin("ReadAt", Cold, Proved, Parked, Finished); err != nil {
		return 0, err
	}
	defer p.end()
	return p.file.ReadAt(b, off)
}

// Have returns the ranges of the file, in whole groups, that need not be fetched: they are
// verified, or not wanted.
func (p *PartFile) Have() []rangeset.Range {
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
