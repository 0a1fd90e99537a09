package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"math"
	"strings"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the client's side of listings. A listing arrives a page at a time, and each entry is
// checked before it is used.

// An EntryType is the type of an entry of a directory.
type EntryType int

const (
	EntryOther EntryType = iota // a device, FIFO or socket, which is not served
	EntryFile
	EntryDir
	EntryLink // a symlink
)

var entryTypes = [...]string{"other", "file", "directory", "symlink"}

func (t EntryType) String() string { return entryTypes[t] }

// An Entry is a file, directory or link below a directory of a server.
type Entry struct {
	Path   string // relative to the directory, any bytes but NUL; empty if the URL names a file
	Type   EntryType
	Size   int64 // of a file, in bytes
	MTime  time.Time
	Mode   fs.FileMode // permission bits
	Target string      // of a symlink
	// Problem is the server's message if it could not read the entry; empty if it could.
	Problem string
	// Restricted is set for a directory of which the server lists only what the client may read.
	Restricted bool

	isTarget bool // the directory to which the client copies

	problemKind Kind           // of Problem
	link        uint64         // equal for names of one file; 0 for none, and if it was not requested
	metadata    *entryMetadata // nil if it was not requested
}

const (
	// listPage is the number of entries that a client requests at once. It is so large that a
	// server rarely reads a directory twice, and so small that a page takes some MiB.
	listPage = 8 << 10
	// listTimeout bounds the wait for each message of a listing. A server may read a large
	// directory before it sends one.
	listTimeout = time.Minute
	// maxEntries bounds the entries of a listing.
	maxEntries = 10 << 20
	// pageBytes is the number of bytes of entries at which a page ends early. Some bytes of the
	// last message may follow.
	pageBytes = 16 << 20
	// entryBytes is the memory of an entry besides its strings, in bytes.
	entryBytes = 128
	// maxProblem bounds a server's message about an entry, in bytes.
	maxProblem = 1024
)

// A page is part of a listing.
type page struct {
	entries  []Entry
	complete bool // it is the last page
	partial  bool // the server could not read some entries, and left them out
	// restricted is set if the server left out entries of the directory that the client may not
	// read.
	restricted bool
	// places are the listed directory and those that contain it.
	places []disk.PlaceID
	top    *Entry // the listed directory itself; nil if it was not requested
	// now is the time of the server; that of this machine if the server did not send it.
	now time.Time
}

// list requests a page of the entries after one, in tree order. With after == "" it begins with
// the first. order has the entries before, and bounds the time of the listing. A page whose entries
// take much memory ends early.
func (r *request) list(ctx context.Context, order *treeOrder, after string, flat bool) (p page, err error) {
	op := fmt.Sprintf("list %q on %s", r.url.Path, r.url.Host)
	x, err := r.startExchange(ctx, op, time.Now().Add(r.timeout), &transferpb.Request{
		Version: wire.ProtocolVersion, Path: []byte(r.url.Path),
		List: &transferpb.ListRequest{
			After: []byte(after), Limit: listPage, Flat: flat, Metadata: r.metadata,
			Places: r.asksPlaces && after == "", Target: r.target,
		},
	})
	if err != nil {
		return page{}, err
	}
	defer x.close()
	x.serveTimeout = listTimeout
	if order.progress.period == 0 {
		order.progress = listingLimit()
	}
	p.now = time.Now()
	for bytes := 0; ; {
		reply, err := x.next(ctx, time.Now().Add(max(listTimeout, stallLimit(x.stall.timeout))))
		if err != nil {
			return page{}, err
		}
		listing := reply.GetListing()
		if listing == nil {
			return page{}, x.unexpected(reply)
		}
		if now := listing.GetNowNs(); now != 0 {
			p.now = time.Unix(0, now)
		}
		for _, raw := range listing.GetEntries() {
			e, err := readEntry(raw)
			if err != nil {
				return page{}, x.malformed(err)
			}
			if p.entries = append(p.entries, e); len(p.entries) > listPage {
				return page{}, x.malformed(errors.New("more entries than were requested"))
			}
			bytes += entryBytes + len(e.Path) + len(e.Target) + len(e.Problem) + e.metadata.bytes()
		}
		if err := order.progress.observe(int64(order.count+len(p.entries)), time.Now()); err != nil {
			return page{}, &Error{Kind: KindNetwork, Op: op, Err: err}
		}
		if p.places == nil {
			if p.places, err = placesOf(listing.GetPlaces()); err != nil {
				return page{}, x.malformed(err)
			}
		}
		if p.top == nil && listing.GetDirectory() != nil {
			e, err := readEntry(listing.GetDirectory())
			if err != nil {
				return page{}, x.malformed(err)
			}
			p.top = &e
		}
		p.partial = p.partial || listing.GetPartial()
		p.restricted = p.restricted || listing.GetRestricted()
		switch listing.GetEnd() {
		case transferpb.Listing_COMPLETE:
			p.complete = true
			return p, nil
		case transferpb.Listing_MORE:
			if len(p.entries) == 0 {
				return page{}, x.malformed(errors.New("a page without an entry"))
			}
			return p, nil
		}
		if bytes >= pageBytes {
			return p, nil // the rest is requested again
		}
	}
}

// readEntry checks an entry, except for its path. Checks that need the entries before it follow
// in treeOrder.
func readEntry(raw *transferpb.Entry) (Entry, error) {
	if raw.GetType() < 0 || int(raw.GetType()) >= len(entryTypes) {
		raw.Type = transferpb.Entry_OTHER // a type of a later version
	}
	if raw.GetSize() > math.MaxInt64 {
		return Entry{}, fmt.Errorf("a file of %d bytes", raw.GetSize())
	}
	if len(raw.GetTarget()) > wire.MaxLinkTarget {
		return Entry{}, fmt.Errorf("a link target of %d bytes", len(raw.GetTarget()))
	}
	metadata, err := readMetadata(raw.GetMetadata())
	if err != nil {
		return Entry{}, err
	}
	mtime := wire.JoinTime(raw.GetMtimeNs(), raw.GetMtimeEra())
	if raw.GetNoTime() && raw.GetType() == transferpb.Entry_DIRECTORY {
		mtime = time.Time{}
	}
	problem := raw.GetError()
	if len(problem) > maxProblem {
		problem = strings.Clone(problem[:maxProblem])
	}
	return Entry{
		problemKind: kindOfProblem(raw),
		Path:        string(raw.GetPath()), Type: EntryType(raw.GetType()), Size: int64(raw.GetSize()),
		MTime: mtime, Mode: fs.FileMode(raw.GetMode() & 0o777),
		Target: string(raw.GetTarget()), Problem: problem, Restricted: raw.GetRestricted(), isTarget: raw.GetIsTarget(),
		link: raw.GetLink(), metadata: metadata,
	}, nil
}

// kindOfProblem returns the kind of the error of an entry that the server could not read.
func kindOfProblem(raw *transferpb.Entry) Kind {
	switch {
	case raw.GetError() == "":
		return KindOther
	case raw.Code == nil: // from an older server
		return KindNotFound
	}
	return kindOfFailure(raw.GetCode())
}

// A treeOrder checks that entries are in tree order, each once, and each after its directory. So
// the reader of a listing must remember only the directories around the current entry.
type treeOrder struct {
	last  string
	count int
	// dirs are the lengths of the paths of the directories around the last entry, and of the entry
	// if it is a directory. The outermost is the first. All the paths are prefixes of last.
	dirs []int
	// hidden is the path of an entry that is ignored with all entries below it; empty for none.
	hidden string
	// progress bounds the time of the listing; see request.list.
	progress progressLimit
}

// A badPath is the error of an entry with an invalid path. The entry is hidden. Later entries may
// be valid.
type badPath struct{ error }

// next checks the next entry. skip reports whether it is below a hidden entry. An error other
// than a badPath ends the listing, which breaks the protocol.
func (o *treeOrder) next(e Entry) (skip bool, err error) {
	switch o.count++; {
	case o.count > maxEntries:
		return false, fmt.Errorf("there are more than %d entries", maxEntries)
	case o.count > 1 && wire.CompareTree(o.last, e.Path) >= 0:
		return false, fmt.Errorf("%q follows %q", e.Path, o.last)
	}
	before := o.last
	o.last = e.Path
	for len(o.dirs) > 0 && !isBelow(e.Path, before[:o.dirs[len(o.dirs)-1]]) {
		o.dirs = o.dirs[:len(o.dirs)-1]
	}
	if o.hidden != "" && strings.HasPrefix(e.Path, o.hidden+"/") {
		return true, nil
	}
	o.hidden = ""
	if err := wire.CheckTreePath(e.Path); err != nil {
		o.hide()
		return false, badPath{err}
	}
	parent := disk.Parent(e.Path)
	if parent != "" && (len(o.dirs) == 0 || o.dirs[len(o.dirs)-1] != len(parent)) {
		return false, fmt.Errorf("%q is in no directory", e.Path)
	}
	if e.Type == EntryDir {
		o.dirs = append(o.dirs, len(e.Path))
	}
	return false, nil
}

// isBelow reports whether a path is below a directory.
func isBelow(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// hide hides all entries below the last one.
func (o *treeOrder) hide() { o.hidden = o.last }

// ListOptions selects the entries to list.
type ListOptions struct {
	MirrorSource
	// Recursive also lists the entries below the directories.
	Recursive bool
	// Roots requests the root of each file, which the server may have to compute.
	Roots bool
}

// List calls entry for each entry below a directory of a primary, in tree order. file is nil for
// an entry that is no file, without ListOptions.Roots, and if the root is unknown. If the URL
// names a file, there is one entry, with an empty path. An error of entry ends the listing. Other
// errors are those of Get.
func List(ctx context.Context, o ListOptions, entry func(e Entry, file *Manifest) error) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	r := o.newRequest(nil)
	r.start = time.Now()
	if err := r.connect(ctx); err != nil {
		return err
	}
	defer func() { r.close(err) }()
	order, after := treeOrder{}, ""
	for {
		p, err := r.list(ctx, &order, after, !o.Recursive)
		if err != nil {
			return err
		}
		for _, e := range p.entries {
			_, err := order.next(e)
			if _, bad := errors.AsType[badPath](err); bad {
				continue // the name is only printed, so it does no harm
			}
			if err != nil {
				return r.malformedListing(err)
			}
		}
		if err := r.passOn(ctx, p.entries, o.Roots, entry); err != nil || p.complete {
			return err
		}
		after = p.entries[len(p.entries)-1].Path
	}
}

// malformedListing returns the error of a listing that breaks the protocol.
func (r *request) malformedListing(err error) error {
	op := fmt.Sprintf("list %q on %s", r.url.Path, r.url.Host)
	return &Error{Kind: KindOther, Op: op, Err: fmt.Errorf("the listing makes no sense: %w", err)}
}

// passOn calls entry for each of entries. With roots it first requests the manifests of the files.
func (r *request) passOn(ctx context.Context, entries []Entry, roots bool, entry func(Entry, *Manifest) error) error {
	var manifests map[string]*Manifest
	if roots {
		var err error
		if manifests, err = r.manifests(ctx, entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := entry(e, manifests[e.Path]); err != nil {
			return err
		}
	}
	return nil
}

// manifests requests the manifests of the files among entries, and returns them by path. A file
// that the server refuses has none.
func (r *request) manifests(ctx context.Context, entries []Entry) (map[string]*Manifest, error) {
	manifests := make(map[string]*Manifest)
	b := newBatch()
	flush := func() error {
		if b.empty() {
			return nil
		}
		defer b.trees.release()
		stream, err := r.requestBatch(ctx, b)
		if err != nil {
			return err
		}
		closeOffer(stream) // the contents are not needed
		for _, f := range b.files {
			if f.tree != nil {
				manifests[f.entry.Path] = &f.manifest
			}
		}
		b = newBatch()
		return nil
	}
	for _, e := range entries {
		if e.Type != EntryFile || e.Path == "" {
			continue
		}
		if !b.fits(e) {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		b.add(&mirrorFile{entry: e})
	}
	return manifests, flush()
}
