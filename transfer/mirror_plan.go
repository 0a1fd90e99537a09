package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"strings"
	"time"
)

// A plan follows a listing, makes directories and links, and gathers files into batches. It is
// used by one goroutine. Its memory does not grow with the tree. It holds a page, a batch, the
// directories around the current entry and, with Delete, the extra entries.
type plan struct {
	*mirror
	order treeOrder
	dirs  []*mirrorDir // around the current entry; the first is the target
	extra []extraEntry
	// temporary has what earlier mirrors left and no entry needs.
	temporary []extraEntry
	// isFailing is set if the entries that treeOrder hides are below a directory that failed.
	isFailing bool
	// walking is the context of walk.
	walking context.Context
	// deferred entries wait until a directory in their place is deleted.
	deferred []deferredEntry
	now      time.Time // of the server, when it listed the current page
	chosen   selector
	links    linkPlan
	moves    movePlan
	kept     int64 // entries of the target so far that are in the listing, and that the filter includes
	listed   int64 // entries of the listing so far that the filter includes
	grown    int64 // bytes of the batches so far
}

// An extraEntry is in a directory of the target and not in the listing.
type extraEntry struct {
	dir    *mirrorDir
	name   string
	reason extraReason
}

// An extraReason is why an entry is extra.
type extraReason int

const (
	notListed   extraReason = iota
	forDeferred             // the listing has an entry of another type with that name, made after the deletions
	forStaged               // likewise a file, which has arrived before the deletions
)

func newPlan(m *mirror) *plan {
	return &plan{mirror: m, chosen: newSelector(m.Filter, m.Paths), links: newLinkPlan()}
}

// walk follows the listing to its end and passes batches to fetch. It stops at the first error of
// either.
func (p *plan) walk(ctx context.Context, fetch func(*batch) error) (err error) {
	p.walking = ctx
	top := &mirrorDir{users: 1, fresh: p.root == nil, restricted: !p.Paths.covers("")}
	p.dirs = []*mirrorDir{top}
	defer func() {
		p.abandon(p.moves.held)
		for len(p.dirs) > 0 {
			p.leaveDir()
		}
	}()
	if !top.fresh {
		if err := p.readNames(top); err != nil {
			return LocalError(fmt.Sprintf("mirror into %q", p.Target), disk.Cause(err))
		}
		p.moves.isPossible = len(top.names) > 0
	}
	b := newBatch()
	for after := ""; ; {
		page, err := p.list(ctx, &p.order, after, false)
		top.restricted = top.restricted || page.restricted
		if err == nil && after == "" {
			err = p.checkLoop(page)
		}
		if page.partial {
			p.holdRest()
		}
		p.now = page.now
		if err == nil {
			p.noteTop(page.top)
			b, err = p.visitAll(page.entries, b, fetch)
		}
		if err == nil {
			b, err = p.releaseHeld(b, fetch, page.complete)
		}
		if err == nil {
			b, err = p.linkWaiting(ctx, b, fetch, false)
		}
		if err != nil {
			return err
		}
		if page.complete {
			break
		}
		after = page.entries[len(page.entries)-1].Path
	}
	p.failMissing()
	if b.empty() {
		return nil
	}
	return fetch(b)
}

// visitAll visits entries and adds their files to batch b. It returns the batch to continue with.
func (p *plan) visitAll(entries []Entry, b *batch, fetch func(*batch) error) (*batch, error) {
	for _, e := range entries {
		f, err := p.visit(e)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		if b, err = p.gather(b, f, fetch); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// gather adds a file to a batch, and first passes the batch to fetch if it is full. It returns
// the batch to continue with.
func (p *plan) gather(b *batch, f *mirrorFile, fetch func(*batch) error) (*batch, error) {
	// The first batches are small, so that the transfer starts early.
	smallEnough := b.empty() || b.bytes+f.entry.Size <= max(firstBatch, p.grown)
	// A batch is in tree order. Files that had to wait may precede those in it.
	inOrder := b.empty() || wire.CompareTree(b.files[len(b.files)-1].entry.Path, f.entry.Path) < 0
	if b.fits(f.entry) && smallEnough && inOrder {
		b.add(f)
		return b, nil
	}
	p.grown += b.bytes
	if err := fetch(b); err != nil {
		p.releaseDir(f.dir)
		return nil, err
	}
	b = newBatch()
	b.add(f)
	return b, nil
}

// present reports whether a directory of the target has a name. The names before it that were not
// visited are extra, since entries are in order.
func (p *plan) present(d *mirrorDir, name string) bool {
	for d.next < len(d.names) && d.names[d.next] < name {
		p.addExtra(d, d.names[d.next])
		d.next++
	}
	if d.next == len(d.names) || d.names[d.next] != name {
		return false
	}
	d.next++
	return true
}

func (p *plan) addExtra(d *mirrorDir, name string) {
	if d.isAside { // it is not the user's
		p.temporary = append(p.temporary, extraEntry{dir: d, name: name})
		return
	}
	p.noteLeftover(d, name)
	if p.Delete && !d.restricted && !d.held {
		p.extra = append(p.extra, extraEntry{dir: d, name: name})
	}
}

// replaceDir deletes the directory in the place of an entry after the listing, and makes the
// entry then.
func (p *plan) replaceDir(e deferredEntry) {
	p.extra = append(p.extra, extraEntry{e.dir, disk.Base(e.entry.Path), forDeferred})
	p.deferred = append(p.deferred, e)
	p.kept--
}

// holdAll keeps the directories around the current entry from deletions, because the listing leaves
// out an entry that is in one of them.
func (p *plan) holdAll() {
	for _, d := range p.dirs {
		d.held = true
	}
}

// holdRest reports that the server could not read the rest of a directory, one of those around the
// last entry of the page before.
func (p *plan) holdRest() {
	p.holdAll()
	path := p.dirs[len(p.dirs)-1].path
	if path == "" {
		path = "."
	}
	op := fmt.Sprintf("list %q on %s", p.url.Path, p.url.Host)
	p.fail(path, "", &Error{Kind: KindOther, Op: op, Err: errors.New("the server could not read all of it")})
}

// leaveDir ends the innermost directory: the listing has no more entries in it.
func (p *plan) leaveDir() {
	d := p.dirs[len(p.dirs)-1]
	p.dirs = p.dirs[:len(p.dirs)-1]
	for _, name := range d.names[d.next:] {
		p.addExtra(d, name)
	}
	p.noteTemporary(d)
	for name := range d.parts {
		if !d.isAside {
			p.addExtra(d, name)
		}
	}
	if d.held {
		p.extra = slices.DeleteFunc(p.extra, func(x extraEntry) bool { return x.dir == d })
	}
	if p.folds { // an entry with another spelling of the name is the same file
		p.extra = slices.DeleteFunc(p.extra, func(x extraEntry) bool {
			_, listed := d.folded[strings.ToLower(x.name)]
			return x.dir == d && listed && x.reason == notListed
		})
	}
	d.names, d.folded = nil, nil
	p.releaseDir(d)
}

// visit handles an entry of the listing. It returns the file to request, if the entry needs one.
// An error ends the listing.
func (p *plan) visit(e Entry) (*mirrorFile, error) {
	if e.Path == "" {
		op := fmt.Sprintf("list %q on %s", p.url.Path, p.url.Host)
		return nil, &Error{Kind: KindNotFound, Op: op, Err: ErrIsFile}
	}
	hidden, err := p.order.next(e)
	if _, bad := errors.AsType[badPath](err); bad {
		p.holdAll()
		p.fail(e.Path, "", &Error{Kind: KindOther, Op: "take its name", Err: err})
		return nil, nil
	}
	if err != nil {
		return nil, p.malformedListing(err)
	}
	if hidden {
		if p.isFailing {
			p.noteAbsent(e)
		}
		return nil, nil
	}
	above, decision := p.chosen.next(e)
	if decision == selectionPending {
		return nil, nil
	}
	for _, dir := range above {
		if _, err := p.visitSelected(dir, selectionAbove); err != nil {
			return nil, err
		}
		if p.order.hidden == dir.Path { // it failed
			return nil, nil
		}
	}
	return p.visitSelected(e, decision)
}

// visitSelected handles an entry of the listing about which the selector has decided.
func (p *plan) visitSelected(e Entry, decision selection) (*mirrorFile, error) {
	for p.dirs[len(p.dirs)-1].path != disk.Parent(e.Path) {
		p.leaveDir()
	}
	d := p.dirs[len(p.dirs)-1]
	isPresent := p.present(d, disk.Base(e.Path))
	mayExist := isPresent || p.folds // with folds, in another spelling
	if mayExist && p.Delete && decision == selectionNone {
		p.noteOtherType(d, e)
	}
	if decision == selectionNone {
		d.keepPart(disk.Base(e.Path))
	}
	if decision == selectionNone || !p.accept(d, e) {
		p.leaveOut(e)
		return nil, nil
	}
	if isPresent {
		p.kept++
	}
	if e.isTarget {
		return nil, p.loopError(LoopInside)
	}
	p.countLosses(e)
	switch e.Type {
	case EntryDir:
		p.enterDir(d, e, mayExist, decision)
	case EntryLink:
		p.planLink(d, e, mayExist)
	case EntryFile:
		return p.planFile(d, e, mayExist), nil
	case EntryOther:
		if p.Specials && e.metadata != nil && e.metadata.kind != 0 {
			p.planSpecial(d, e, mayExist)
			return nil, nil
		}
		p.countSkipped(e)
		p.skip(e, errors.New("it is no regular file, directory or link"))
	}
	return nil, nil
}

// noteOtherType notes that the entry in the place of an excluded one is extra if the filter
// includes it. One of the two is a directory.
func (p *plan) noteOtherType(d *mirrorDir, e Entry) {
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return // the directory fails anyway
	}
	defer p.cache.Release(h)
	switch info, err := h.Lstat(disk.Base(e.Path)); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		p.fail(e.Path, "look at it", err)
	case p.Filter.Wants(e.Path, info.IsDir()):
		p.addExtra(d, disk.Base(e.Path))
	}
}

// leaveOut ignores the entries below one.
func (p *plan) leaveOut(e Entry) {
	p.order.hidden, p.isFailing = e.Path, false
	p.chosen.leaveOut(e)
}

// failMissing reports the selected paths that the listing does not have.
func (p *plan) failMissing() {
	for _, path := range p.chosen.missing() {
		err := errors.New("no such file or directory on the server")
		p.fail(path, "", &Error{Kind: KindNotFound, Op: "find it", Err: err})
	}
}

// accept reports whether a selected entry should be in the target. If not, it reports why.
func (p *plan) accept(d *mirrorDir, e Entry) bool {
	isDir := e.Type == EntryDir
	switch {
	case e.Problem != "" && disk.Base(e.Path) == lostFound:
		return false
	case e.Problem != "":
		d.held = true
		p.noteAbsent(e)
		remote := &RemoteError{Path: e.Path, Message: e.Problem}
		p.fail(e.Path, "", &Error{Kind: e.problemKind, Op: "list it", Err: remote})
		return false
	case wire.IsTemporary(disk.Base(e.Path)):
		p.skip(e, errors.New("the name is reserved for kwikcp's temporary files"))
		return false
	case isDir && strings.Count(e.Path, "/") >= maxDepth:
		d.held = true
		p.fail(e.Path, "make the directory", fmt.Errorf("it is more than %d directories deep", maxDepth))
		return false
	}
	if disk.Base(e.Path) != lostFound {
		p.listed++
	}
	return !p.folds || p.acceptSpelling(d, e)
}

// acceptSpelling reports whether an entry's name differs from all others in its directory when
// case is ignored. If not, the entry fails.
func (p *plan) acceptSpelling(d *mirrorDir, e Entry) bool {
	name := disk.Base(e.Path)
	folded := strings.ToLower(name)
	if other, taken := d.folded[folded]; taken {
		err := fmt.Errorf("to this file system it is the same name as %q", other)
		p.fail(e.Path, "", &Error{Kind: KindExists, Op: "make it", Err: err})
		return false
	}
	if d.folded == nil {
		d.folded = make(map[string]string)
	}
	d.folded[folded] = name
	return true
}

// skip reports an entry that is left out on purpose.
func (p *plan) skip(e Entry, reason error) {
	p.reportFile(FileReport{Path: e.Path, Action: FileSkipped, Err: reason})
}

// maxDepth bounds the depth of a tree: opening a directory takes a step for each level.
const maxDepth = 1024

var (
	errLinkInTheWay = errors.New("there is a link in its place, which is not followed (--delete replaces it)")
	errDirInTheWay  = errors.New("there is a directory in its place (--delete replaces it)")
	// errExcludedInTheWay is the error for a filter that includes directories of a name only.
	errExcludedInTheWay = errors.New("there is an entry in its place that the filter excludes")
	errDirStays         = errors.New("the directory in its place could not be deleted completely")
)

// enterDir enters a directory of the listing, and makes it if it is missing.
func (p *plan) enterDir(d *mirrorDir, e Entry, mayExist bool, decision selection) {
	isRestricted := e.Restricted || decision != selectionWhole
	sub := &mirrorDir{path: e.Path, parent: d, entry: e, users: 1, restricted: isRestricted}
	if err := p.makeDir(sub, mayExist); err != nil {
		p.failOrSkip(e, "make the directory", err)
		p.leaveOut(e)
		p.isFailing = true
		return
	}
	p.retainDir(d)
	p.dirs = append(p.dirs, sub)
	isPublished := !sub.isAside || d.isAside // otherwise publishDir reports it
	if sub.fresh && isPublished {
		p.reportFile(FileReport{Path: e.Path, Action: FileMade})
	}
}

// planFile returns the file to request for an entry, or nil if none is needed.
func (p *plan) planFile(d *mirrorDir, e Entry, mayExist bool) *mirrorFile {
	f := &mirrorFile{entry: e, dir: d, name: disk.Base(e.Path)}
	p.claimPart(f)
	if p.isYoung(e) { // a directory in its place stays, too
		p.noteAbsent(e)
		p.skip(e, ErrYoung)
		return nil
	}
	err := p.inspect(f, mayExist)
	isOverDir := errors.Is(err, errDirInTheWay) && p.Delete
	switch {
	case isOverDir && p.stagesOverDir(p.walking, d, e):
	case isOverDir:
		p.replaceDir(deferredEntry{d, e, f.resumes})
		return nil
	case err != nil:
		p.failOrSkip(e, "write it", err)
		return nil
	case p.isNewerThan(f.local, e.MTime):
		p.discardPart(f)
		p.skip(e, ErrNewer)
		return nil
	}
	return p.holdBack(p.join(f))
}

// failOrSkip reports an entry that cannot be made. An entry in the place of something protected, of
// a newer file, or on another file system, is left out on purpose.
func (p *plan) failOrSkip(e Entry, op string, err error) {
	for _, reason := range []error{disk.ErrProtected, ErrElsewhere, ErrNewer, ErrYoung} {
		if errors.Is(err, reason) {
			p.skip(e, reason)
			return
		}
	}
	p.noteAbsent(e)
	p.fail(e.Path, op, err)
}

// admit counts a file of the target. It returns nil if the file need not be requested.
func (p *plan) admit(f *mirrorFile) *mirrorFile {
	p.count(f)
	if p.Quick && p.looksUpToDate(f) && !p.mustCompare(f.entry.Path) && p.refreshMetadata(f) {
		p.noteDonor(f)
		p.live.addPresent(f.entry.Size)
		report := FileReport{Path: f.entry.Path, Action: FileUpToDate, Type: EntryFile, Size: f.entry.Size}
		p.finishFile(f, report)
		return nil
	}
	if p.DryRun && f.local == nil { // it would be fetched, whatever the server replies
		p.finishFile(f, FileReport{Path: f.entry.Path, Action: FileFetched, Size: f.entry.Size})
		return nil
	}
	return f
}

// count counts a file of the target, which uses its directory from now on.
func (p *plan) count(f *mirrorFile) {
	p.mu.Lock()
	p.result.Files++
	p.mu.Unlock()
	p.retainDir(f.dir)
	p.live.addFile(f.entry.Size)
}
