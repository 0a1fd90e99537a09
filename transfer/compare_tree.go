package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sync"
	"time"
)

// CompareTreeOptions selects the directory of a server and the local one to compare it with.
type CompareTreeOptions struct {
	MirrorSource
	// Target is the local directory.
	Target string
	// Filter selects the entries to compare, on both sides.
	Filter Filter
	// OpenTree opens Target; nil means disk.OpenTree.
	OpenTree func(path string, create bool) (disk.TreeDir, error)
}

// The further kinds of a TreeDifference.
const (
	// Skipped is an entry that is not compared: a special file, or a link that leads outside the
	// tree.
	Skipped How = "skipped"
	// Failed is an entry that could not be compared.
	Failed How = "failed"
)

// A TreeDifference is an entry that is not the same on both sides.
type TreeDifference struct {
	Path string // relative to the directory; any bytes
	How  How
	Type EntryType // on the server; that of the local entry if it is Extra
	// Err explains Differs, Skipped and Failed; nil otherwise.
	Err error
}

// A CompareReporter receives the progress of CompareTree. Of the Reporter's methods only Checking
// is called, with the bytes that were compared and all bytes of files known so far.
type CompareReporter interface {
	Reporter
	Difference(d TreeDifference)
}

// Difference implements CompareReporter.
func (NoReport) Difference(TreeDifference) {}

// A TreeComparison is the outcome of CompareTree.
type TreeComparison struct {
	Files    int64 // of the server that were compared, or are missing
	Equal    int64 // of these
	Bytes    int64 // of the files that are equal
	Differ   int64 // entries, as are the next four
	Missing  int64
	Extra    int64
	Skipped  int64
	Failed   int64
	Seconds  float64
	checked  int64 // bytes that were compared
	selected int64 // bytes of the files to compare, so far
}

// Same reports whether nothing differs, is missing or extra.
func (c TreeComparison) Same() bool { return c.Differ+c.Missing+c.Extra == 0 }

// CompareTree compares a local directory and everything below it with that of a primary. It
// compares types, targets of links and contents, by their roots, and neither modes nor times. It
// fetches no content and changes nothing. report may be nil.
//
// A difference is no error. Entries that could not be compared are: the error then wraps a
// *MirrorError. Other errors are those of Mirror.
func CompareTree(ctx context.Context, o CompareTreeOptions, report CompareReporter) (TreeComparison, error) {
	if o.OpenTree == nil {
		o.OpenTree = disk.OpenTree
	}
	if report == nil {
		report = NoReport{}
	}
	start := time.Now()
	c := &treeComparer{CompareTreeOptions: o, request: o.newRequest(report), report: report, batch: newBatch()}
	err := c.run(ctx)
	c.result.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c.result, err
}

// A treeComparer is one call of CompareTree. One goroutine uses it, except for the comparison of
// the files of a batch.
type treeComparer struct {
	CompareTreeOptions
	request
	report CompareReporter
	cache  *disk.DirCache
	order  treeOrder
	dirs   []*comparedDir // around the current entry; the first is the target
	batch  *batch
	extra  []string // paths that the listing does not have
	// partial is set if the server could not read the rest of a directory, and incomplete if the
	// name of an entry cannot be taken. Then no entry is known to be extra.
	partial    bool
	incomplete bool

	mu        sync.Mutex // guards the rest
	result    TreeComparison
	worst     error // of Failed, with the highest rank
	worstPath string
	reported  time.Time
}

// A comparedDir is a directory of the listing, beside the local one.
type comparedDir struct {
	path       string
	names      []string // of the local one if there is one, sorted, without temporary files
	next       int      // index into names: those before it are compared with the listing
	restricted bool     // the server lists only what the client may read
}

func (c *treeComparer) run(ctx context.Context) (err error) {
	root, err := c.OpenTree(c.Target, false)
	if err != nil {
		return LocalError(c.op(), disk.Cause(err))
	}
	defer root.Close()
	c.cache = disk.NewDirCache(root)
	defer c.cache.Close()
	top := &comparedDir{}
	if err := c.readNames(top); err != nil {
		return LocalError(c.op(), disk.Cause(err))
	}
	c.dirs = []*comparedDir{top}
	c.start = time.Now()
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.close(err) }()
	for after, complete := "", false; !complete; {
		var p page
		err := c.awake(ctx, func() (err error) {
			p, err = c.list(ctx, &c.order, after, false)
			return err
		})
		if err != nil {
			return err
		}
		c.partial = c.partial || p.partial
		top.restricted = top.restricted || p.restricted
		for _, e := range p.entries {
			if err := c.visit(ctx, e); err != nil {
				return err
			}
			after = e.Path
		}
		complete = p.complete
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	for len(c.dirs) > 0 {
		c.leaveDir()
	}
	return c.end(ctx)
}

// awake calls do, and again over a new session if the server closed an idle one: hashing local
// files may take long.
func (c *treeComparer) awake(ctx context.Context, do func() error) error {
	err := do()
	for n := 0; n < maxIdleCloses && kwik.IsIdleClose(err) && ctx.Err() == nil; n++ {
		c.close(err)
		c.start = time.Now()
		if err = c.connect(ctx); err == nil {
			err = do()
		}
	}
	return err
}

// end reports the extra entries and returns the error of those that failed.
func (c *treeComparer) end(ctx context.Context) error {
	if c.partial {
		err := errors.New("the server could not read all of it")
		c.fail("", &Error{Kind: KindOther, Op: "list it", Err: err})
		c.extra = nil
	}
	if c.incomplete && len(c.extra) > 0 {
		err := errors.New("the listing is not complete, so extra entries are not known")
		c.fail("", &Error{Kind: KindOther, Op: c.op(), Err: err})
		c.extra = nil
	}
	for _, path := range c.extra {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.reportExtra(path)
	}
	if c.result.Failed == 0 {
		return nil
	}
	kind := KindOther
	if e, ok := errors.AsType[*Error](c.worst); ok {
		kind = e.Kind
	}
	return &Error{Kind: kind, Op: c.op(), Err: &MirrorError{Failed: c.result.Failed, Path: c.worstPath, Err: c.worst}}
}

func (c *treeComparer) op() string { return fmt.Sprintf("compare %q", c.Target) }

// readNames reads the names in a local directory.
func (c *treeComparer) readNames(d *comparedDir) error {
	h, err := c.cache.Acquire(d.path)
	if err != nil {
		return err
	}
	defer c.cache.Release(h)
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return err
	}
	d.names = slices.DeleteFunc(names, wire.IsTemporary)
	slices.Sort(d.names)
	return nil
}

// leaveDir ends the innermost directory: the listing has no more entries in it.
func (c *treeComparer) leaveDir() {
	d := c.dirs[len(c.dirs)-1]
	c.dirs = c.dirs[:len(c.dirs)-1]
	c.passNames(d, len(d.names))
}

// passNames takes the local names before an index, which the listing does not have.
func (c *treeComparer) passNames(d *comparedDir, end int) {
	for ; d.next < end; d.next++ {
		if !d.restricted {
			c.extra = append(c.extra, disk.JoinPath(d.path, d.names[d.next]))
		}
	}
}

// visit compares an entry of the listing. An error ends the comparison.
func (c *treeComparer) visit(ctx context.Context, e Entry) error {
	if e.Path == "" {
		return &Error{Kind: KindNotFound, Op: fmt.Sprintf("list %q on %s", c.url.Path, c.url.Host), Err: ErrIsFile}
	}
	isHidden, err := c.order.next(e)
	if _, bad := errors.AsType[badPath](err); bad {
		c.incomplete = true
		c.fail(e.Path, &Error{Kind: KindOther, Op: "take its name", Err: err})
		return nil
	}
	if err != nil {
		return c.malformedListing(err)
	}
	if isHidden {
		return nil
	}
	for c.dirs[len(c.dirs)-1].path != disk.Parent(e.Path) {
		c.leaveDir()
	}
	d := c.dirs[len(c.dirs)-1]
	at, isPresent := slices.BinarySearch(d.names, disk.Base(e.Path))
	c.passNames(d, at)
	if isPresent {
		d.next = at + 1
	}
	switch {
	case !c.Filter.Wants(e.Path, e.Type == EntryDir) || wire.IsTemporary(disk.Base(e.Path)):
		c.order.hide()
		return nil
	case e.Problem != "" && disk.Base(e.Path) == lostFound:
		c.order.hide()
		return nil
	case e.Problem != "":
		remote := &RemoteError{Path: e.Path, Message: e.Problem}
		c.fail(e.Path, &Error{Kind: e.problemKind, Op: "list it", Err: remote})
		c.order.hide()
		return nil
	}
	return c.compareEntry(ctx, d, e, isPresent)
}

// compareEntry compares an entry with what has its name here. It queues a file whose content has to
// be compared.
func (c *treeComparer) compareEntry(ctx context.Context, d *comparedDir, e Entry, isPresent bool) error {
	found, info, err := c.lookUp(d, e, isPresent)
	if errors.Is(err, disk.ErrProtected) {
		c.tell(TreeDifference{e.Path, Skipped, e.Type, disk.ErrProtected})
		c.order.hide()
		return nil
	}
	if err != nil {
		c.fail(e.Path, LocalError("look at it", disk.Cause(err)))
		c.order.hide()
		return nil
	}
	if found == occupantDir && (e.Type == EntryFile || e.Type == EntryLink) {
		below := &comparedDir{path: e.Path}
		if err := c.readNames(below); err != nil {
			c.fail(e.Path, LocalError("read the directory in its place", disk.Cause(err)))
		}
		c.passNames(below, len(below.names))
	}
	switch e.Type {
	case EntryDir:
		c.enterDir(e, found)
	case EntryLink:
		c.compareLink(d, e, found)
	case EntryFile:
		c.result.Files++
		switch {
		case found == occupantNone:
			c.tell(TreeDifference{e.Path, Missing, e.Type, nil})
		case found != occupantFile:
			c.differ(e, "it is no file here")
		case info.Size() != e.Size:
			c.differ(e, "it has %d bytes here, not %d", info.Size(), e.Size)
		default:
			return c.queue(ctx, e)
		}
	default:
		c.tell(TreeDifference{e.Path, Skipped, e.Type, errors.New("it is no regular file, directory or link")})
	}
	return nil
}

func (c *treeComparer) lookUp(d *comparedDir, e Entry, isPresent bool) (occupant, fs.FileInfo, error) {
	if !isPresent {
		return occupantNone, nil, nil
	}
	h, err := c.cache.Acquire(d.path)
	if err != nil {
		return occupantNone, nil, err
	}
	defer c.cache.Release(h)
	return lookUp(h, disk.Base(e.Path))
}

// enterDir enters a directory of the listing. All that is in it is missing if it is not here.
func (c *treeComparer) enterDir(e Entry, found occupant) {
	sub := &comparedDir{path: e.Path, restricted: e.Restricted}
	switch {
	case found == occupantNone:
		c.tell(TreeDifference{e.Path, Missing, e.Type, nil})
	case found != occupantDir:
		c.differ(e, "it is no directory here")
	default:
		if err := c.readNames(sub); err != nil {
			c.fail(e.Path, LocalError("read the directory", disk.Cause(err)))
			c.order.hide()
			return
		}
	}
	c.dirs = append(c.dirs, sub)
}

func (c *treeComparer) compareLink(d *comparedDir, e Entry, found occupant) {
	if found == occupantLink {
		if h, err := c.cache.Acquire(d.path); err == nil {
			target, err := h.Readlink(disk.Base(e.Path))
			c.cache.Release(h)
			if err == nil && target == e.Target {
				return
			}
		}
	}
	outside := checkLink(e.Path, e.Target)
	switch {
	case found == occupantNone && outside != nil:
		c.tell(TreeDifference{e.Path, Skipped, e.Type, outside})
	case found == occupantNone:
		c.tell(TreeDifference{e.Path, Missing, e.Type, nil})
	case found == occupantLink:
		c.differ(e, "the link leads elsewhere")
	default:
		c.differ(e, "it is no link here")
	}
}

// reportExtra reports a local entry that the server does not have, and all that is in it.
func (c *treeComparer) reportExtra(path string) {
	h, err := c.cache.Acquire(disk.Parent(path))
	if err != nil {
		c.fail(path, LocalError("look at it", disk.Cause(err)))
		return
	}
	found, _, err := lookUp(h, disk.Base(path))
	c.cache.Release(h)
	switch {
	case errors.Is(err, disk.ErrProtected), err == nil && found == occupantNone:
		return
	case err != nil:
		c.fail(path, LocalError("look at it", disk.Cause(err)))
		return
	case !c.Filter.Wants(path, found == occupantDir), found == occupantDir && disk.Base(path) == lostFound:
		return
	}
	types := map[occupant]EntryType{occupantFile: EntryFile, occupantDir: EntryDir, occupantLink: EntryLink}
	c.tell(TreeDifference{path, Extra, types[found], nil}) // EntryOther is the zero value
	if found != occupantDir {
		return
	}
	d := &comparedDir{path: path}
	if err := c.readNames(d); err != nil {
		c.fail(path, LocalError("read the directory", disk.Cause(err)))
	}
	for _, name := range d.names {
		c.reportExtra(disk.JoinPath(path, name))
	}
}

func (c *treeComparer) differ(e Entry, format string, args ...any) {
	c.tell(TreeDifference{e.Path, Differs, e.Type, fmt.Errorf(format, args...)})
}

func (c *treeComparer) fail(path string, err error) {
	c.mu.Lock()
	if c.worst == nil || rank(err) < rank(c.worst) {
		c.worst, c.worstPath = err, path
	}
	c.mu.Unlock()
	c.tell(TreeDifference{Path: path, How: Failed, Err: err})
}

// tell counts and reports a difference.
func (c *treeComparer) tell(d TreeDifference) {
	c.mu.Lock()
	switch d.How {
	case Differs:
		c.result.Differ++
	case Missing:
		c.result.Missing++
	case Extra:
		c.result.Extra++
	case Skipped:
		c.result.Skipped++
	case Failed:
		c.result.Failed++
	}
	c.mu.Unlock()
	c.observer.mu.Lock()
	defer c.observer.mu.Unlock()
	c.report.Difference(d)
}
