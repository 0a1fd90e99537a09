package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"slices"
	"strings"
)

// A plan follows a listing, makes directories and links, and gathers files into batches. Besides the present page and batch it holds only the
// directories that the listing is in and, with Delete, what is to be deleted; so its memory does not grow with the tree. It is
// used by one goroutine.
type plan struct {
	*mirror
	order treeOrder
	dirs  []*mirrorDir // that the listing is in; the first is the target
	extra []extraneous
	// late has to wait until a directory in its place has been deleted.
	late []lateEntry
	// damaged says that the listing does not tell everything: nothing may be deleted.
	damaged bool
	grown   int64 // bytes of the batches so far
}

// extraneous is what is in a directory and not in the listing.
type extraneous struct {
	dir      *mirrorDir
	name     string
	inTheWay bool // of something of that name in the listing
}

type lateEntry struct {
	dir   *mirrorDir
	entry Entry
}

func newPlan(m *mirror) *plan { return &plan{mirror: m} }

// walk follows the listing to its end, or until ask fails.
func (p *plan) walk(ctx context.Context, ask func(*batch) error) error {
	top := &mirrorDir{users: 1, fresh: p.root == nil}
	p.dirs = []*mirrorDir{top}
	defer func() {
		for len(p.dirs) > 0 {
			p.leave()
		}
	}()
	if !top.fresh {
		if err := p.look(top); err != nil {
			return LocalError(fmt.Sprintf("mirror into %q", p.Target), cause(err))
		}
	}
	b := newBatch()
	for after := ""; ; {
		page, err := p.list(ctx, after, false)
		if err != nil {
			p.damaged = true
			return err
		}
		p.damaged = p.damaged || page.partial
		for _, e := range page.entries {
			f, err := p.visit(e)
			if err != nil {
				p.damaged = true
				return err
			}
			if f == nil {
				continue
			}
			if b, err = p.gather(b, f, ask); err != nil {
				p.damaged = true
				return err
			}
		}
		if page.complete {
			break
		}
		after = page.entries[len(page.entries)-1].Path
	}
	if b.empty() {
		return nil
	}
	return ask(b)
}

// gather puts a file into the batch, and has the batch asked for before if it is full. It returns the batch to go on with.
func (p *plan) gather(b *batch, f *mirrorFile, ask func(*batch) error) (*batch, error) {
	// The first batches are small, so that something flows soon.
	if b.fits(f.entry) && (b.empty() || b.bytes+f.entry.Size <= max(firstBatch, p.grown)) {
		b.add(f)
		return b, nil
	}
	p.grown += b.bytes
	if err := ask(b); err != nil {
		p.releaseDir(f.dir)
		return nil, err
	}
	b = newBatch()
	b.add(f)
	return b, nil
}

// has reports whether there is something of a name, and takes what comes before it in the directory for extraneous: entries come in order.
func (p *plan) has(d *mirrorDir, name string) bool {
	for d.next < len(d.names) && d.names[d.next] < name {
		p.surplus(d, d.names[d.next])
		d.next++
	}
	if d.next == len(d.names) || d.names[d.next] != name {
		return false
	}
	d.next++
	return true
}

func (p *plan) surplus(d *mirrorDir, name string) {
	if p.Delete {
		p.extra = append(p.extra, extraneous{dir: d, name: name})
	}
}

// replace has a directory deleted that is in the place of an entry, and the entry made after that.
func (p *plan) replace(d *mirrorDir, e Entry) {
	p.extra = append(p.extra, extraneous{d, disk.Base(e.Path), true})
	p.late = append(p.late, lateEntry{d, e})
}

// leave is called when the listing leaves its innermost directory.
func (p *plan) leave() {
	d := p.dirs[len(p.dirs)-1]
	p.dirs = p.dirs[:len(p.dirs)-1]
	for _, name := range d.names[d.next:] {
		p.surplus(d, name)
	}
	for name := range d.parts {
		p.surplus(d, name)
	}
	if p.folds { // what seems to be missing may be there in another spelling
		p.extra = slices.DeleteFunc(p.extra, func(x extraneous) bool {
			_, listed := d.folded[strings.ToLower(x.name)]
			return x.dir == d && listed && !x.inTheWay
		})
	}
	d.names, d.folded = nil, nil
	p.releaseDir(d)
}

// visit takes an entry. It returns the file to ask for, if it is one; the error is one of the whole listing.
func (p *plan) visit(e Entry) (*mirrorFile, error) {
	op := fmt.Sprintf("list %q on %s", p.url.Path, p.url.Host)
	if e.Path == "" {
		return nil, &Error{Kind: KindNotFound, Op: op, Err: errors.New("it is a file, not a directory: leave -r out")}
	}
	skip, err := p.order.next(e)
	if _, bad := errors.AsType[badPath](err); bad {
		p.damaged = true
		p.tell(FileReport{Path: e.Path, Action: FileFailed, Err: &Error{Kind: KindOther, Op: "take its name", Err: err}})
		return nil, nil
	} else if err != nil {
		return nil, &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the listing makes no sense: %w", err)}
	}
	if skip {
		return nil, nil
	}
	for p.dirs[len(p.dirs)-1].path != disk.Parent(e.Path) {
		p.leave()
	}
	d := p.dirs[len(p.dirs)-1]
	name := disk.Base(e.Path)
	there := p.has(d, name) || p.folds // in another spelling
	if !p.Filter.Wants(e.Path, e.Type == EntryDir) {
		p.order.hide()
		return nil, nil
	}
	switch {
	case e.Problem != "":
		p.damaged = true
		p.tell(FileReport{Path: e.Path, Action: FileFailed, Err: &Error{Kind: KindNotFound, Op: op, Err: &RemoteError{Path: e.Path, Message: e.Problem}}})
		p.order.hide()
		return nil, nil
	case wire.IsTemporary(name):
		p.tell(FileReport{Path: e.Path, Action: FileSkipped, Err: errors.New("kwikcp calls its own temporary files so")})
		p.order.hide()
		return nil, nil
	case p.folds:
		if d.folded == nil {
			d.folded = make(map[string]string)
		}
		if other, taken := d.folded[strings.ToLower(name)]; taken {
			p.fail(e.Path, "", &Error{Kind: KindExists, Op: "make it", Err: fmt.Errorf("to this file system it is the same name as %q", other)})
			p.order.hide()
			return nil, nil
		}
		d.folded[strings.ToLower(name)] = name
	}
	switch e.Type {
	case EntryDir:
		if strings.Count(e.Path, "/") >= maxDepth {
			p.damaged = true
			p.fail(e.Path, "make the directory", fmt.Errorf("it is more than %d directories deep", maxDepth))
			p.order.hide()
			return nil, nil
		}
		p.enter(d, e, there)
	case EntryLink:
		p.link(d, e, there)
	case EntryFile:
		return p.file(d, e, there), nil
	default:
		p.tell(FileReport{Path: e.Path, Action: FileSkipped, Err: errors.New("it is no regular file, directory or link")})
	}
	return nil, nil
}

// maxDepth bounds how deep a tree may be: to get to a directory takes as many steps.
const maxDepth = 1024

var (
	errLinkInTheWay = errors.New("there is a link in its place, which is not followed (--delete replaces it)")
	errDirInTheWay  = errors.New("there is a directory in its place (--delete replaces it)")
	errDirStays     = errors.New("there is a directory in its place that could not be deleted, or not all that is in it")
)

// enter goes into a directory of the listing, which it makes if it is missing.
func (p *plan) enter(d *mirrorDir, e Entry, there bool) {
	sub := &mirrorDir{path: e.Path, parent: d, entry: e, fresh: !there, users: 1}
	if err := p.makeDir(sub, there); err != nil {
		p.fail(e.Path, "make the directory", err)
		p.order.hide()
		return
	}
	p.retainDir(d)
	p.dirs = append(p.dirs, sub)
	if sub.fresh {
		p.tell(FileReport{Path: e.Path, Action: FileMade})
	}
}

// link makes a symlink as it is in the listing, if it leads to nowhere but inside the tree.
func (p *plan) link(d *mirrorDir, e Entry, there bool) {
	if err := checkLink(e.Path, e.Target); err != nil {
		p.tell(FileReport{Path: e.Path, Action: FileSkipped, Err: err})
		return
	}
	same, err := p.makeLink(d, e, there)
	if errors.Is(err, errDirInTheWay) && p.Delete {
		p.replace(d, e)
		return
	}
	p.tellLink(e, same, err)
}

func (p *plan) tellLink(e Entry, same bool, err error) {
	switch {
	case err != nil:
		p.fail(e.Path, "make the link", err)
	case same:
		p.tell(FileReport{Path: e.Path, Action: FileUpToDate, Type: EntryLink})
	default:
		p.tell(FileReport{Path: e.Path, Action: FileLinked})
	}
}

func (p *plan) makeLink(d *mirrorDir, e Entry, there bool) (same bool, err error) {
	if p.DryRun && !there {
		return false, nil
	}
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	name := disk.Base(e.Path)
	if there {
		info, err := h.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false, err
		case info.IsDir():
			return false, errDirInTheWay
		case info.Mode()&fs.ModeSymlink != 0:
			if target, err := h.Readlink(name); err == nil && target == e.Target {
				return true, nil
			}
		case !info.Mode().IsRegular():
			return false, disk.ErrNotAFile
		}
	}
	if p.DryRun {
		return false, nil
	}
	temp := p.freshName(name)
	if err := h.Symlink(e.Target, temp); err != nil {
		return false, err
	}
	if err := h.Rename(temp, name); err != nil {
		h.Remove(temp)
		return false, err
	}
	return false, nil
}

// checkLink checks that a link can lead to nowhere outside the tree: it is relative, goes up only at its beginning, and not above the top. So
// wherever other links lead, of which the same is true, each step up is one from a directory to the one that it is in.
func checkLink(at, target string) error {
	escapes := fmt.Errorf("it leads outside the tree, or may: %q", target)
	if target == "" || target[0] == '/' || strings.ContainsRune(target, 0) || len(target) > wire.MaxLinkTarget {
		return escapes
	}
	depth := strings.Count(at, "/")
	down := false
	for component := range strings.SplitSeq(target, "/") {
		switch {
		case component == "" || component == ".":
		case component != "..":
			down = true
			if wire.CheckTreePath(component) != nil {
				return escapes
			}
		case down || depth == 0:
			return escapes
		default:
			depth--
		}
	}
	return nil
}

// file prepares a file to be asked for; nil if there is no need to.
func (p *plan) file(d *mirrorDir, e Entry, there bool) *mirrorFile {
	f := &mirrorFile{entry: e, dir: d, name: disk.Base(e.Path)}
	if err := p.inspect(f, there); err != nil {
		if errors.Is(err, errDirInTheWay) && p.Delete {
			p.replace(d, e)
			return nil
		}
		p.fail(e.Path, "write it", err)
		return nil
	}
	return p.begin(f)
}

// begin counts a file that is to be in place.
func (p *plan) begin(f *mirrorFile) *mirrorFile {
	p.mu.Lock()
	p.result.Files++
	p.mu.Unlock()
	p.retainDir(f.dir)
	p.live.plan(f.entry.Size)
	if p.Quick && !f.resumes && f.local != nil && f.local.Size() == f.entry.Size && f.local.ModTime().Equal(f.entry.MTime) {
		p.live.had(f.entry.Size)
		p.finishFile(f, FileReport{Path: f.entry.Path, Action: FileUpToDate, Type: EntryFile, Size: f.entry.Size})
		return nil
	}
	if p.DryRun && f.local == nil { // no need to ask
		p.finishFile(f, FileReport{Path: f.entry.Path, Action: FileFetched, Size: f.entry.Size})
		return nil
	}
	return f
}

// inspect finds out what is in a file's place.
func (p *plan) inspect(f *mirrorFile, there bool) error {
	if len(f.dir.parts) > 0 {
		part := partfile.PartName(f.name)
		f.resumes = f.dir.parts[part]
		delete(f.dir.parts, part)
	}
	if !there {
		return nil
	}
	h, err := p.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	info, err := h.Lstat(f.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return errDirInTheWay
	case info.Mode().IsRegular():
		f.local = info
	case info.Mode()&fs.ModeSymlink == 0:
		return disk.ErrNotAFile
	}
	return nil
}

// late says what an error means after what is in the way was to be deleted.
func late(err error) error {
	if errors.Is(err, errDirInTheWay) {
		return errDirStays
	}
	return err
}

// askLate asks for what had to wait until something had been deleted.
func (p *plan) askLate(_ context.Context, ask func(*batch) error) error {
	b := newBatch()
	for _, l := range p.late {
		if p.DryRun {
			action := FileFetched
			if l.entry.Type == EntryLink {
				action = FileLinked
			}
			p.tell(FileReport{Path: l.entry.Path, Action: action, Size: l.entry.Size})
			continue
		}
		if err := p.reopen(l.dir); err != nil {
			p.fail(l.entry.Path, "write it", err)
			continue
		}
		defer p.releaseDir(l.dir) // not before all are in place, if they are in one directory
		if l.entry.Type == EntryLink {
			same, err := p.makeLink(l.dir, l.entry, true)
			p.tellLink(l.entry, same, late(err))
			continue
		}
		f := &mirrorFile{entry: l.entry, dir: l.dir, name: disk.Base(l.entry.Path)}
		if err := p.inspect(f, true); err != nil {
			p.fail(l.entry.Path, "write it", late(err))
			continue
		}
		if f = p.begin(f); f == nil {
			continue
		}
		var err error
		if b, err = p.gather(b, f, ask); err != nil {
			return err
		}
	}
	if b.empty() {
		return nil
	}
	return ask(b)
}
