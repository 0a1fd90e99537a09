package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kwikcp/transfer/disk"
)

const (
	// checkedFor is how long the answer of a check is used.
	checkedFor = 5 * time.Second
	// maxReported bounds the directories whose objects without a usable name were logged.
	maxReported = 1024
	// maxRemotePath bounds the name of an object, in bytes, as paths are bounded elsewhere.
	maxRemotePath = 32 << 10
)

// A checker is a store that can tell at little cost whether it answers. For others, the
// root lists its top directory.
type checker interface {
	check(ctx context.Context) error
}

// A remote is a Root of the objects of a store. Their bytes are in a cache.
type remote struct {
	store    store
	cache    *Cache
	log      *slog.Logger
	parallel int

	mu       sync.Mutex // guards the fields below
	names    *names
	reported map[string]bool // directories
	isGone   bool            // logged, and not back since

	checking  sync.Mutex // held during a check; guards the fields below
	checked   time.Time
	lastCheck error
}

// newRemote returns a Root of the objects of a store, with a cache that may be shared. parallel is
// Caps.Parallel. Closing the root closes the store, and not the cache.
func newRemote(s store, c *Cache, log *slog.Logger, parallel int) Root {
	r := &remote{store: s, cache: c, log: log, parallel: parallel, names: newNames(), reported: make(map[string]bool)}
	return remoteRoot{remoteDir{root: r}}
}

// A remoteRoot is the top directory of a remote.
type remoteRoot struct{ remoteDir }

// Caps implements Root.
func (r remoteRoot) Caps() Caps { return Caps{IsRemote: true, Parallel: r.root.parallel} }

// Check implements Root.
func (r remoteRoot) Check(ctx context.Context) error { return r.root.check(ctx) }

// Close closes the store.
func (r remoteRoot) Close() error { return r.root.store.close() }

func (r *remote) check(ctx context.Context) error {
	r.checking.Lock() // each caller wants the same answer
	defer r.checking.Unlock()
	if time.Since(r.checked) < checkedFor {
		return r.lastCheck
	}
	err := r.ask(ctx)
	if ctx.Err() != nil {
		return err // of this caller
	}
	r.checked, r.lastCheck = time.Now(), err
	r.report(err)
	return err
}

// ask sends the request of a check.
func (r *remote) ask(ctx context.Context) error {
	if c, ok := r.store.(checker); ok {
		return c.check(ctx)
	}
	for _, err := range r.store.list(ctx, "") {
		return err
	}
	return nil
}

// report logs once that the store does not answer, and once that it does again.
func (r *remote) report(err error) {
	gone, isGone := errors.AsType[*Unavailable](err)
	r.mu.Lock()
	wasGone := r.isGone
	r.isGone = isGone
	r.mu.Unlock()
	switch {
	case isGone && !wasGone:
		r.log.Error("root is not available; requests fail until it is back",
			"root", r.store.describe(), "err", gone.Err)
	case wasGone && err == nil:
		r.log.Info("root is back", "root", r.store.describe())
	}
}

// know calls f with the names that are known.
func (r *remote) know(f func(*names, time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.names, time.Now())
}

// stat describes an object or a directory. With needsTag an answer from a listing without a tag
// does not do.
func (r *remote) stat(ctx context.Context, name string, needsTag bool) (info objectInfo, err error) {
	if name == "" {
		return objectInfo{isDir: true}, nil
	}
	if !needsTag {
		r.statSequel(ctx, name)
	}
	isKnown := false
	r.know(func(n *names, now time.Time) {
		var isListed bool
		info, isListed, isKnown = n.find(name, now)
		isKnown = isKnown && (!needsTag || !isListed || info.isDir || info.tag != "")
	})
	if isKnown {
		return info, nil
	}
	info, err = r.store.stat(ctx, name)
	switch {
	case err == nil:
		info.name = name
	case errors.Is(err, fs.ErrNotExist):
		isDir, listErr := r.isDir(ctx, name)
		if listErr != nil && !errors.Is(listErr, errors.ErrUnsupported) {
			return info, listErr
		}
		if !isDir {
			return info, err
		}
		info = objectInfo{name: name, isDir: true}
	default:
		return info, err
	}
	r.know(func(n *names, now time.Time) { n.learn(info, false, now) })
	return info, nil
}

// statSequel describes a name of a listing and those that follow, several at once, if the names are
// requested in order. A listing may have nothing but names.
func (r *remote) statSequel(ctx context.Context, name string) {
	var wanted []string
	r.know(func(n *names, now time.Time) { wanted = n.sequel(name, max(r.parallel, 1), now) })
	var wg sync.WaitGroup
	for _, next := range wanted {
		wg.Go(func() {
			info, err := r.store.stat(ctx, next)
			if err != nil {
				return // it is requested again if it is needed
			}
			info.name = next
			r.know(func(n *names, now time.Time) { n.learn(info, false, now) })
		})
	}
	wg.Wait()
}

// isDir reports whether objects are below a name.
func (r *remote) isDir(ctx context.Context, name string) (bool, error) {
	_, err := r.list(ctx, name, maxKnown)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, disk.ErrTooManyEntries):
		return true, nil
	}
	return err == nil, err
}

// list returns the names in a directory.
func (r *remote) list(ctx context.Context, dir string, limit int) (entries []string, err error) {
	isKnown := false
	r.know(func(n *names, now time.Time) { entries, isKnown = n.findListing(dir, now) })
	if isKnown {
		if len(entries) > limit {
			return nil, disk.ErrTooManyEntries
		}
		return entries, nil
	}
	filter := nameFilter{dir: dir, entries: make(map[string]objectInfo)}
	for info, err := range r.store.list(ctx, dir) {
		if err != nil {
			return nil, err
		}
		if filter.add(info); len(filter.entries) > limit {
			return nil, disk.ErrTooManyEntries
		}
	}
	r.reportLeftOut(&filter)
	if len(filter.entries) == 0 && dir != "" {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	entries = slices.Sorted(maps.Keys(filter.entries))
	r.know(func(n *names, now time.Time) {
		for _, info := range filter.entries {
			if info.isDir || info.size != unknownSize {
				n.learn(info, true, now)
			}
		}
		n.learnListing(dir, entries, now)
	})
	return entries, nil
}

// reportLeftOut logs once for a directory how many of its objects are not served.
func (r *remote) reportLeftOut(f *nameFilter) {
	if f.left == 0 {
		return
	}
	r.mu.Lock()
	isNew := !r.reported[f.dir] && len(r.reported) < maxReported
	if isNew {
		r.reported[f.dir] = true
	}
	r.mu.Unlock()
	if isNew {
		r.log.Warn("objects are left out, because no file system can hold their names", "root", r.store.describe(),
			"dir", f.dir, "count", f.left, "example", f.example)
	}
}

// A remoteDir is a directory of a remote.
type remoteDir struct {
	root *remote
	at   string // below the root; "" is the root
}

// resolve returns the whole name of an object.
func (d remoteDir) resolve(op, name string) (string, error) {
	if name == "." {
		return d.at, nil
	}
	for component := range strings.SplitSeq(name, "/") {
		if !isHoldable(component) {
			return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
	}
	if whole := disk.JoinPath(d.at, name); len(whole) <= maxRemotePath {
		return whole, nil
	}
	return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Stat implements Dir.
func (d remoteDir) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	return d.describe(ctx, "stat", name, true)
}

// Lstat implements Dir. After Names it sends no request. The version is then that of the listing.
func (d remoteDir) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	return d.describe(ctx, "lstat", name, false)
}

func (d remoteDir) describe(ctx context.Context, op, name string, needsTag bool) (fs.FileInfo, error) {
	whole, err := d.resolve(op, name)
	if err != nil {
		return nil, err
	}
	info, err := d.root.stat(ctx, whole, needsTag)
	if err != nil {
		return nil, d.root.failed(op, name, err)
	}
	if name != "." {
		name = disk.Base(name)
	}
	return &remoteInfo{name, info}, nil
}

// failed returns an error of the store with the name. It notes that the store is not available.
func (r *remote) failed(op, name string, err error) error {
	if _, isGone := errors.AsType[*Unavailable](err); isGone {
		r.report(err)
		return err
	}
	if _, hasName := errors.AsType[*fs.PathError](err); hasName {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Readlink implements Dir: there are no links.
func (d remoteDir) Readlink(_ context.Context, name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

// Names implements Dir.
func (d remoteDir) Names(ctx context.Context, limit int) ([]string, error) {
	entries, err := d.root.list(ctx, d.at, limit)
	if err != nil {
		return nil, d.root.failed("list", d.at, err)
	}
	return append([]string(nil), entries...), nil
}

// Sub implements Dir.
func (d remoteDir) Sub(ctx context.Context, name string) (Dir, error) { return d.At(ctx, name) }

// At implements Dir. It lists the directory, so that Names sends no request.
func (d remoteDir) At(ctx context.Context, name string) (Dir, error) {
	whole, err := d.resolve("open", name)
	if err != nil {
		return nil, err
	}
	if name == "." {
		return d, nil
	}
	info, err := d.root.stat(ctx, whole, false)
	switch {
	case err != nil:
		return nil, d.root.failed("open", name, err)
	case !info.isDir:
		return nil, &fs.PathError{Op: "open", Path: name, Err: disk.ErrNotADirectory}
	}
	return remoteDir{d.root, whole}, nil
}

// Open implements Dir.
func (d remoteDir) Open(ctx context.Context, name string) (Object, error) {
	whole, err := d.resolve("open", name)
	if err != nil {
		return nil, err
	}
	object, err := d.root.open(ctx, whole)
	if err != nil {
		return nil, d.root.failed("open", name, err)
	}
	return object, nil
}

// Close implements Dir.
func (d remoteDir) Close() error { return nil }
