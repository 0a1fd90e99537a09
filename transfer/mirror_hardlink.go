package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"syscall"
)

// This file keeps hard links. The listing numbers the files that have several names. The first
// name of such a file in the listing is fetched or compared as any other. The others wait until
// it is in place, and are then linked to it.
//
// It also keeps files apart that are one in the target and several on the server. Nothing is ever
// written into a file of several names, neither content nor metadata: a copy replaces it first.

const (
	// maxLinkGroups bounds the files of several names that a mirror remembers, those of the server
	// and those of the target. Each takes about 200 bytes. The names of further ones are fetched
	// separately.
	maxLinkGroups = 1 << 20
	// maxWaiting bounds the names that wait for the first one of their group.
	maxWaiting = 16 << 10
)

// A linkGroup is a file of several names on the server.
type linkGroup struct {
	first string // the path that the other names are linked to
	// settled is closed when the outcome of first is known. The fields below do not change then.
	settled  chan struct{}
	isPlaced bool
	root     [32]byte
	// isChanged is set if first is no longer the file of the listing. It may be another one than
	// the other names are of.
	isChanged bool
	// cannotLink is set if no other name can be linked to first. Only the plan uses it.
	cannotLink bool
}

// A linkPlan is what a plan knows about hard links.
type linkPlan struct {
	// isTold is set if the server tells which names are one file.
	isTold  bool
	groups  map[uint64]*linkGroup // by Entry.link
	claims  map[localFile]claim   // files of the target that have several names
	links   map[uint64]string     // the first path of each symlink of several names, by Entry.link
	waiting []*mirrorFile         // for the first name of their groups
}

// A localFile identifies a file of the target.
type localFile struct{ device, inode uint64 }

// A claim is the entry whose place a file of the target was first found in.
type claim struct {
	link uint64 // of the entry; 0 for none
	path string // of an entry without link
}

func newLinkPlan() linkPlan {
	return linkPlan{
		groups: make(map[uint64]*linkGroup), claims: make(map[localFile]claim), links: make(map[uint64]string),
	}
}

// localFileOf returns the identity of a file with several names. ok is false for any other.
func localFileOf(info fs.FileInfo) (id localFile, ok bool) {
	if info == nil || disk.Links(info) < 2 {
		return id, false
	}
	v := disk.VersionOf(info)
	return localFile{v.Device, v.Inode}, v.IsIdentified()
}

// isTaken reports whether the file in an entry's place is in the place of another entry as well,
// which is another file on the server.
func (l *linkPlan) isTaken(info fs.FileInfo, e Entry) bool {
	id, ok := localFileOf(info)
	if !ok || !l.isTold {
		return false
	}
	mine := claim{link: e.link}
	if e.link == 0 {
		mine.path = e.Path
	}
	first, taken := l.claims[id]
	if !taken && len(l.claims) < maxLinkGroups {
		l.claims[id] = mine
	}
	return taken && first != mine
}

// settle reports the outcome of the first name of a group. It is called once. isChanged is that of
// mirrorFile.
func (g *linkGroup) settle(isPlaced, isChanged bool, root [32]byte) {
	if g == nil {
		return
	}
	g.isPlaced, g.isChanged, g.root = isPlaced, isChanged, root
	close(g.settled)
}

// wait blocks until the group is settled or ctx ends, and reports whether it is settled.
func (g *linkGroup) wait(ctx context.Context) bool {
	select {
	case <-g.settled:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *linkGroup) isSettled() bool {
	select {
	case <-g.settled:
		return true
	default:
		return false
	}
}

// join admits a file. It returns nil if the file need not be requested, or not yet because it
// waits for another name.
func (p *plan) join(f *mirrorFile) *mirrorFile {
	f.detach = p.links.isTaken(f.local, f.entry)
	if f.entry.link == 0 {
		return p.admit(f)
	}
	g := p.links.groups[f.entry.link]
	switch {
	case g == nil && len(p.links.groups) < maxLinkGroups:
		f.group = &linkGroup{first: f.entry.Path, settled: make(chan struct{})}
		p.links.groups[f.entry.link] = f.group
		return p.admit(f)
	case g == nil, p.NoHardLinks:
		p.notKept.add(func(n *NotKept) { n.HardLinks++ })
		return p.admit(f)
	}
	p.count(f)
	p.links.waiting = append(p.links.waiting, f)
	return nil
}

// linkWaiting links the names whose first name is in place, and adds those to batch b that
// cannot be linked. With all it waits for every first name. It returns the batch to continue
// with.
func (p *plan) linkWaiting(
	ctx context.Context, b *batch, fetch func(*batch) error, all bool,
) (_ *batch, err error) {
	files := p.links.waiting
	all = all || len(files) >= maxWaiting && !p.Stage // with Stage no file is in place before the end
	p.links.waiting = nil
	for i, f := range files {
		g := p.links.groups[f.entry.link]
		if !all && !g.isSettled() {
			p.links.waiting = append(p.links.waiting, f)
			continue
		}
		if !g.isSettled() && !b.empty() { // it may have the first name
			if err := fetch(b); err != nil {
				p.abandon(files[i:])
				return nil, err
			}
			b = newBatch()
		}
		if !g.wait(ctx) {
			p.abandon(files[i:])
			return nil, context.Cause(ctx)
		}
		if b, err = p.linkOrFetch(b, f, g, fetch); err != nil {
			p.abandon(files[i+1:])
			return nil, err
		}
	}
	return b, nil
}

// linkRest links the names that still wait after the listing, whose outcome is walked. All first
// names are settled then.
func (p *plan) linkRest(ctx context.Context, walked error) error {
	switch {
	case walked != nil || p.fatalError() != nil:
		p.abandon(p.links.waiting)
		return walked
	case len(p.links.waiting) == 0:
		return nil
	}
	return p.runBatches(ctx, func(ctx context.Context, fetch func(*batch) error) error {
		b, err := p.linkWaiting(ctx, newBatch(), fetch, true)
		if err != nil || b.empty() {
			return err
		}
		return fetch(b)
	})
}

// linkOrFetch links a name to the first one of its group, or adds it to batch b. It returns the
// batch to continue with.
func (p *plan) linkOrFetch(b *batch, f *mirrorFile, g *linkGroup, fetch func(*batch) error) (*batch, error) {
	if g.isPlaced && !g.isChanged && !g.cannotLink {
		err := p.hardLink(f, g)
		if err == nil {
			return b, nil
		}
		if !disk.CannotLink(err) && !errors.Is(err, errFirstGone) {
			p.drop(f, LocalError("link it", disk.Cause(err)))
			return b, nil
		}
		if g.cannotLink = true; errors.Is(err, syscall.EMLINK) { // the next names are linked to this one
			f.group = &linkGroup{first: f.entry.Path, settled: make(chan struct{})}
			p.links.groups[f.entry.link] = f.group
		}
	}
	p.notKept.add(func(n *NotKept) { n.HardLinks++ })
	if g.isPlaced {
		f.donor = g.first
	}
	if p.DryRun && f.local == nil {
		p.finishFile(f, FileReport{Path: f.entry.Path, Action: FileFetched, Size: f.entry.Size})
		return b, nil
	}
	return p.gather(b, f, fetch)
}

// errFirstGone is the error of a link to a file that is no longer in its place.
var errFirstGone = errors.New("the first name of the file is gone")

// hardLink links a name to the first one of its group, unless it is linked already.
func (p *plan) hardLink(f *mirrorFile, g *linkGroup) error {
	report := FileReport{Path: f.entry.Path, Action: FileHardLinked, Size: f.entry.Size, Root: g.root}
	if p.DryRun && (p.root == nil || f.local == nil) {
		p.finishFile(f, report)
		return nil
	}
	from, err := p.cache.Acquire(disk.Parent(g.first))
	if err != nil {
		return err
	}
	defer p.cache.Release(from)
	info, err := from.Lstat(disk.Base(g.first))
	switch {
	case p.DryRun && errors.Is(err, fs.ErrNotExist):
		p.finishFile(f, report)
		return nil
	case err != nil || !info.Mode().IsRegular():
		return errFirstGone
	case f.local != nil && disk.SameFile(f.local, info):
		report.Action, report.Type = FileUpToDate, EntryFile
	case !p.DryRun:
		if err := p.linkTo(from, disk.Base(g.first), info, f.dir, f.name); err != nil {
			return err
		}
	}
	f.state = fileSame
	p.live.addPresent(report.Size)
	p.finishFile(f, report)
	return nil
}

// linkTo gives the file or symlink that info describes another name, in place of a file or link.
func (p *plan) linkTo(from *disk.CachedDir, name string, info fs.FileInfo, d *mirrorDir, as string) error {
	to, err := p.cache.Acquire(d.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(to)
	p.noteChange(d)
	temp := p.freshName(as)
	if err := disk.LinkInto(disk.Innermost(from.TreeDir), name, disk.Innermost(to.TreeDir), temp); err != nil {
		return err
	}
	linked, err := to.Lstat(temp)
	if err == nil && !disk.SameFile(linked, info) {
		err = disk.ErrReplaced
	}
	if err == nil {
		err = p.backup.keep(to, disk.JoinPath(d.path, as))
	}
	if err == nil {
		err = to.Rename(temp, as)
	}
	to.Remove(temp) // rename(2) leaves it if both names are of one file already
	return err
}

// linkSymlink makes a name of a symlink that has another name already. ok is false if there is no
// such name or the system cannot link it. same reports whether it is in place.
func (p *plan) linkSymlink(d *mirrorDir, e Entry, there fs.FileInfo) (same, ok bool) {
	first, known := p.links.links[e.link]
	if !known || p.NoHardLinks {
		return false, false
	}
	from, err := p.cache.Acquire(disk.Parent(first))
	if err != nil {
		return false, false
	}
	defer p.cache.Release(from)
	info, err := from.Lstat(disk.Base(first))
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return false, false
	}
	if there != nil && disk.SameFile(there, info) {
		return true, true
	}
	return false, p.DryRun || p.linkTo(from, disk.Base(first), info, d, disk.Base(e.Path)) == nil
}

// noteSymlink remembers a symlink that is in place as the first name of its group.
func (p *plan) noteSymlink(e Entry) {
	if _, known := p.links.links[e.link]; known {
		p.notKept.add(func(n *NotKept) { n.HardLinks++ })
		return
	}
	if e.link != 0 && len(p.links.links) < maxLinkGroups {
		p.links.links[e.link] = e.Path
	}
}
