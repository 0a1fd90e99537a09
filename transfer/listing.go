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

// This file is the client's side of listings: what a server says is below a directory, a page at a time, checked before it is believed.

// An EntryType is a kind of thing in a directory.
type EntryType int

const (
	EntryOther EntryType = iota // a device, FIFO, socket or such, which is not served
	EntryFile
	EntryDir
	EntryLink // a symlink
)

var entryTypes = [...]string{"other", "file", "directory", "symlink"}

func (t EntryType) String() string { return entryTypes[t] }

// An Entry is one thing below a directory of a server.
type Entry struct {
	Path   string // relative to the directory, any bytes but NUL; empty if a file itself was asked for
	Type   EntryType
	Size   int64 // of a file, in bytes
	MTime  time.Time
	Mode   fs.FileMode // permission bits
	Target string      // of a symlink
	// Problem says why the server could not look at the entry, or into it; empty if it could.
	Problem string
}

const (
	// listPage is how many entries a client asks for at once: so many that a server reads a directory seldom twice, so few that they
	// take some MiB.
	listPage = 8 << 10
	// listTimeout bounds the wait for each message of a listing: a server may have to read a large directory before it.
	listTimeout = time.Minute
	// maxEntries bounds how many entries of a listing are believed.
	maxEntries = 10 << 20
)

// A page is a part of a listing.
type page struct {
	entries []Entry
	// complete says that there are no more after these, partial that something could not be looked at and is not among them.
	complete, partial bool
}

// list asks for the entries after one, in tree order; after "" are all.
func (r *request) list(ctx context.Context, after string, flat bool) (p page, err error) {
	op := fmt.Sprintf("list %q on %s", r.url.Path, r.url.Host)
	request := &transferpb.ListRequest{After: []byte(after), Limit: listPage, Flat: flat}
	d, err := r.startExchange(ctx, op, time.Now().Add(r.timeout), &transferpb.Request{Version: wire.ProtocolVersion, Path: []byte(r.url.Path), List: request})
	if err != nil {
		return page{}, err
	}
	defer d.close()
	for {
		reply, err := d.next(ctx, time.Now().Add(listTimeout))
		if err != nil {
			return page{}, err
		}
		listing := reply.GetListing()
		if listing == nil {
			return page{}, d.unexpected(reply)
		}
		for _, raw := range listing.GetEntries() {
			e, err := readEntry(raw)
			if err != nil {
				return page{}, d.malformed(err)
			}
			if p.entries = append(p.entries, e); len(p.entries) > listPage {
				return page{}, d.malformed(errors.New("more entries than were asked for"))
			}
		}
		p.partial = p.partial || listing.GetPartial()
		switch listing.GetEnd() {
		case transferpb.Listing_COMPLETE:
			p.complete = true
			return p, nil
		case transferpb.Listing_MORE:
			if len(p.entries) == 0 {
				return page{}, d.malformed(errors.New("a page without an entry"))
			}
			return p, nil
		}
	}
}

// readEntry checks what can be checked of one entry by itself, except for its path.
func readEntry(raw *transferpb.Entry) (Entry, error) {
	if raw.GetType() < 0 || int(raw.GetType()) >= len(entryTypes) {
		raw.Type = transferpb.Entry_OTHER // of a later version
	}
	if raw.GetSize() > math.MaxInt64 {
		return Entry{}, fmt.Errorf("a file of %d bytes", raw.GetSize())
	}
	return Entry{
		Path: string(raw.GetPath()), Type: EntryType(raw.GetType()), Size: int64(raw.GetSize()), MTime: time.Unix(0, raw.GetMtimeNs()),
		Mode: fs.FileMode(raw.GetMode() & 0o777), Target: string(raw.GetTarget()), Problem: raw.GetError(),
	}, nil
}

// A treeOrder checks that entries come in tree order, each once and each in a directory that came before, so that whoever follows them needs
// to remember only the directories that it is in.
type treeOrder struct {
	last  string
	count int
	dirs  []string // that the last entry was in, or is; each in the one before
	// hidden is the path of an entry that is passed over, and so is all that is below it; empty for none.
	hidden string
}

// A badPath is the error of an entry whose path is none. The entry is hidden, and what follows may be sound.
type badPath struct{ error }

// next takes the next entry. It returns an error for a listing that no server of ours would send; skip is true for what is below a
// hidden entry.
func (o *treeOrder) next(e Entry) (skip bool, err error) {
	switch o.count++; {
	case o.count > maxEntries:
		return false, fmt.Errorf("there are more than %d entries", maxEntries)
	case o.count > 1 && wire.CompareTree(o.last, e.Path) >= 0:
		return false, fmt.Errorf("%q comes after %q", e.Path, o.last)
	}
	o.last = e.Path
	if o.hidden != "" && strings.HasPrefix(e.Path, o.hidden+"/") {
		return true, nil
	}
	o.hidden = ""
	if err := wire.CheckTreePath(e.Path); err != nil {
		o.hide()
		return false, badPath{err}
	}
	parent := disk.Parent(e.Path)
	for len(o.dirs) > 0 && o.dirs[len(o.dirs)-1] != parent {
		o.dirs = o.dirs[:len(o.dirs)-1]
	}
	if parent != "" && len(o.dirs) == 0 {
		return false, fmt.Errorf("%q is in no directory", e.Path)
	}
	if e.Type == EntryDir {
		o.dirs = append(o.dirs, e.Path)
	}
	return false, nil
}

// hide has all that is below the last entry passed over.
func (o *treeOrder) hide() { o.hidden = o.last }

// ListOptions says what to list.
type ListOptions struct {
	MirrorSource
	// Recursive lists what is below the directories, too.
	Recursive bool
	// Roots asks for the hash of each file, which the server may have to compute.
	Roots bool
}

// List tells each of the entries below a directory of a primary, in tree order; root is nil where it was not asked for or is not known. If
// the URL names a file there is one entry, with an empty path. An error of entry ends it. Its errors are as those of Get.
func List(ctx context.Context, o ListOptions, entry func(e Entry, root *Manifest) error) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	r := o.newRequest(NoReport{})
	r.start = time.Now()
	if err := r.connect(ctx); err != nil {
		return err
	}
	defer func() { r.close(err) }()
	order, after := treeOrder{}, ""
	for {
		p, err := r.list(ctx, after, !o.Recursive)
		if err != nil {
			return err
		}
		for _, e := range p.entries {
			_, err := order.next(e)
			if _, bad := errors.AsType[badPath](err); err != nil && !bad { // a bad name is shown, and harms nobody
				return &Error{Kind: KindOther, Op: fmt.Sprintf("list %q on %s", r.url.Path, r.url.Host), Err: fmt.Errorf("the listing makes no sense: %w", err)}
			}
		}
		if err := r.passOn(ctx, p.entries, o.Roots, entry); err != nil || p.complete {
			return err
		}
		after = p.entries[len(p.entries)-1].Path
	}
}

// tell passes entries on, with what their files are if that is wanted.
func (r *request) passOn(ctx context.Context, entries []Entry, roots bool, entry func(Entry, *Manifest) error) error {
	manifests := make(map[string]*Manifest)
	if roots {
		b := newBatch()
		ask := func() error {
			if b.empty() {
				return nil
			}
			stream, err := r.requestBatch(ctx, b)
			if err != nil {
				return err
			}
			r.endStream(stream)
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
				if err := ask(); err != nil {
					return err
				}
			}
			b.add(&mirrorFile{entry: e})
		}
		if err := ask(); err != nil {
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
