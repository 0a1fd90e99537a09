package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"sync"
	"time"

	"github.com/zeebo/blake3"
)

// This file finds the content of new files in other files of the target. Of a file that was
// moved or copied on the server no byte is fetched. The plan holds new files back until it knows
// the names of the target that the listing does not have. Files of the same size are then
// compared with the root of a new file. A copy is verified like bytes of a server.

const (
	// maxHeld bounds the new files that a plan holds back.
	maxHeld = 16 << 10
	// maxDonors bounds the files that a mirror remembers as donors, and maxLeftovers the names of
	// the target that are not in the listing. Each takes about 200 bytes.
	maxDonors    = 256 << 10
	maxLeftovers = 64 << 10
	// smallDonor is the size up to which a donor's root is remembered, and its content copied in
	// memory. A larger one is compared group by group.
	smallDonor = 1 << 20
	// maxGuesses bounds the donors that are read for one file though neither name nor time speaks
	// for them, and that stay.
	maxGuesses = 64
)

// A donor is a file of the target that may have the content of another one.
type donor struct {
	path  string
	mtime time.Time
	// isLeft is set if the listing does not have the path.
	isLeft bool

	read sync.Once
	root integrity.Root // after read; zero if the file cannot be read
}

// donors are the possible donors of an attempt. The plan adds to them, and goroutines of batches
// look for them.
type donors struct {
	mu     sync.Mutex
	bySize map[int64][]*donor
	count  int
}

func (d *donors) add(info fs.FileInfo, path string, isLeft bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count >= maxDonors || info.Size() == 0 {
		return
	}
	if d.bySize == nil {
		d.bySize = make(map[int64][]*donor)
	}
	d.count++
	d.bySize[info.Size()] = append(d.bySize[info.Size()], &donor{path: path, mtime: info.ModTime(), isLeft: isLeft})
}

func (d *donors) of(size int64) []*donor {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bySize[size]
}

// A movePlan is what a plan knows about files that may have moved.
type movePlan struct {
	// isPossible is set if there were files in the target before.
	isPossible bool
	held       []*mirrorFile // new files, in tree order
	leftovers  []string      // paths of the target that the listing does not have
}

// holdBack returns a file that is to be requested, or nil if it is requested later.
func (p *plan) holdBack(f *mirrorFile) *mirrorFile {
	if f == nil || !p.moves.isPossible || p.DryRun {
		return f
	}
	isNew := f.local == nil || f.local.Size() != f.entry.Size
	if f.local != nil {
		p.donors.add(f.local, f.entry.Path, false)
	}
	if !isNew || f.resumes || f.entry.Size == 0 {
		return f
	}
	f.isHeld = true
	p.moves.held = append(p.moves.held, f)
	return nil
}

// noteDonor remembers a file that is up to date.
func (p *plan) noteDonor(f *mirrorFile) {
	if p.moves.isPossible && f.local != nil {
		p.donors.add(f.local, f.entry.Path, false)
	}
}

// noteLeftover remembers a name that the listing does not have.
func (p *plan) noteLeftover(d *mirrorDir, name string) {
	if p.moves.isPossible && len(p.moves.leftovers) < maxLeftovers && !wire.IsTemporary(name) {
		p.moves.leftovers = append(p.moves.leftovers, disk.JoinPath(d.path, name))
	}
}

// releaseHeld adds the files that were held back to batch b, once there is no more to wait for
// or to remember. It returns the batch to continue with.
func (p *plan) releaseHeld(b *batch, fetch func(*batch) error, isComplete bool) (*batch, error) {
	isFull := len(p.moves.held) >= maxHeld || len(p.links.waiting) >= maxWaiting
	if !isComplete && !isFull {
		return b, nil
	}
	if isComplete {
		for len(p.dirs) > 0 { // they have leftovers
			p.leaveDir()
		}
	}
	held := p.moves.held
	p.moves.held = nil
	if len(held) > 0 {
		p.findDonors(held)
	}
	for i, f := range held {
		var err error
		if b, err = p.gather(b, f, fetch); err != nil {
			p.abandon(held[i+1:])
			return nil, err
		}
	}
	return b, nil
}

// findDonors looks at the leftovers so far, as far as they have the size of one of files.
func (p *plan) findDonors(files []*mirrorFile) {
	sizes := make(map[int64]bool)
	for _, f := range files {
		sizes[f.entry.Size] = true
	}
	seen := 0
	for _, at := range p.moves.leftovers {
		p.lookAtLeftover(at, sizes, &seen)
	}
}

// lookAtLeftover adds the files at and below a path to the donors. It looks at maxDonors entries
// at most in all.
func (p *plan) lookAtLeftover(at string, sizes map[int64]bool, seen *int) {
	if *seen++; *seen > maxDonors {
		return
	}
	h, err := p.cache.Acquire(disk.Parent(at))
	if err != nil {
		return
	}
	defer p.cache.Release(h)
	info, err := h.Lstat(disk.Base(at))
	switch {
	case err != nil:
	case p.isElsewhere(h, disk.Base(at), info):
	case info.Mode().IsRegular() && sizes[info.Size()]:
		p.donors.add(info, at, true)
	case info.IsDir():
		for _, name := range p.namesIn(at) {
			if !wire.IsTemporary(name) {
				p.lookAtLeftover(disk.JoinPath(at, name), sizes, seen)
			}
		}
	}
}

// namesIn returns the names in a directory of the target, none if it cannot be read.
func (p *plan) namesIn(dir string) []string {
	h, err := p.cache.Acquire(dir)
	if err != nil {
		return nil
	}
	defer p.cache.Release(h)
	names, err := h.Names(maxDonors)
	if err != nil {
		return nil
	}
	return names
}

// findDonor sets the donor of a file whose tree is known, if there is one. A donor that was
// found is verified again when it is copied.
func (m *mirror) findDonor(ctx context.Context, f *mirrorFile) {
	all := m.donors.of(f.tree.Size())
	if !f.isHeld || f.donor != "" || len(all) == 0 {
		return
	}
	isLikely := func(d *donor) bool {
		return disk.Base(d.path) == f.name || d.mtime.Equal(f.manifest.MTime)
	}
	guesses := 0
	for _, likely := range []bool{true, false} {
		for _, d := range all {
			if isLikely(d) != likely || d.path == f.entry.Path || ctx.Err() != nil {
				continue
			}
			if !likely && !d.isLeft {
				if guesses++; guesses > maxGuesses {
					continue
				}
			}
			if m.hasContent(ctx, d, f) {
				f.donor = d.path
				return
			}
		}
	}
}

// hasContent reports whether a donor has the content of a file.
func (m *mirror) hasContent(ctx context.Context, d *donor, f *mirrorFile) bool {
	if f.tree.Size() > smallDonor {
		file := m.openAt(d.path)
		if file == nil {
			return false
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return false
		}
		same, err := partfile.Matches(ctx, file, info.Size(), f.tree, nil)
		return same && err == nil
	}
	d.read.Do(func() { d.root = m.rootOf(d.path) })
	return d.root == f.tree.Root()
}

// rootOf returns the root of a file of at most smallDonor bytes, the zero Root if it cannot be
// read.
func (m *mirror) rootOf(path string) (root integrity.Root) {
	content, err := m.readSmall(path)
	if err != nil {
		return root
	}
	return blake3.Sum256(content)
}

// readSmall reads a file of the target of at most smallDonor bytes.
func (m *mirror) readSmall(path string) ([]byte, error) {
	file := m.openAt(path)
	if file == nil {
		return nil, fs.ErrNotExist
	}
	defer file.Close()
	content, err := io.ReadAll(io.NewSectionReader(file, 0, smallDonor+1))
	if err == nil && len(content) > smallDonor {
		err = errors.New("it is not small")
	}
	return content, err
}

// openAt opens a regular file of the target; nil if there is none or it cannot be read.
func (m *mirror) openAt(path string) disk.File {
	file, _ := partfile.Place{Dir: m.cache.Dir(disk.Parent(path)), Name: disk.Base(path)}.Existing()
	return file
}

// openDonor opens the file that may have the content of f; nil if there is none.
func (m *mirror) openDonor(f *mirrorFile) disk.File {
	if f.donor == "" {
		return nil
	}
	return m.openAt(f.donor)
}

// copySmall writes a small file from its donor. It reports whether it did.
func (m *mirror) copySmall(f *mirrorFile, place *placer) bool {
	if f.donor == "" || f.resumes || f.tree.Size() > smallDonor {
		return false
	}
	content, err := m.readSmall(f.donor)
	if err != nil || int64(len(content)) != f.tree.Size() || f.tree.Verify(0, content) != nil {
		return false
	}
	f.isCopied = true
	m.writeWhole(f, content, place)
	return true
}

// action returns the action of a file that was put in place.
func (f *mirrorFile) action() FileAction {
	if f.isCopied {
		return FileCopied
	}
	return FileFetched
}
