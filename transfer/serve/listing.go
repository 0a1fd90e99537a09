package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the response to a ListRequest.

const (
	// maxListed bounds the entries of one response.
	maxListed = 64 << 10
	// maxListings bounds the listings of one client that run at a time; more wait.
	maxListings = 2
	// listingBytes is the size, in bytes, from which on a Listing message is sent. The last entry
	// may exceed it by the longest path and link target.
	listingBytes = 16 << 10
)

// list responds to a ListRequest.
func (s *Server) list(
	ctx context.Context, allowed scope, session *kwik.ServerSession, w replyWriter, request *transferpb.Request,
) error {
	path, options := string(request.GetPath()), request.GetList()
	base, err := openBase(ctx, s.dir, path)
	if errors.Is(err, disk.ErrNotADirectory) {
		if !allowed.allows(path) {
			return errForbidden
		}
		return s.listFile(ctx, w, path)
	}
	if err != nil {
		return err
	}
	defer base.Close()
	after := string(options.GetAfter())
	if after != "" && wire.CheckTreePath(after) != nil {
		return errRequest
	}
	l := &lister{
		ctx: ctx, w: w, limit: s.names, base: path, flat: options.GetFlat(),
		left: maxListed, allowed: allowed, metadata: newMetadataReader(options.GetMetadata(), session),
	}
	l.cache = disk.NewCache(base, func(in source.Dir, name string) (source.Dir, error) { return in.Sub(ctx, name) })
	l.message.NowNs = time.Now().UnixNano()
	l.target = options.GetTarget()
	if options.GetPlaces() {
		addPlaces(&l.message, base)
	}
	defer l.cache.Close()
	defer l.metadata.close()
	defer func() { l.faults.report(w.log) }()
	if n := options.GetLimit(); n > 0 && n < maxListed {
		l.left = int(n)
	}
	return l.list(after)
}

// openBase opens the directory that a request names; "" is the served one.
func openBase(ctx context.Context, root source.Dir, path string) (source.Dir, error) {
	if path == "" {
		return root.At(ctx, ".")
	}
	if wire.CheckPath(path) != nil {
		return nil, fs.ErrNotExist // the client does not learn why
	}
	return root.At(ctx, path)
}

// listFile responds to a ListRequest whose path is not a directory.
func (s *Server) listFile(ctx context.Context, w replyWriter, path string) error {
	f, err := s.dir.Open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return w.send(&transferpb.Reply{Reply: &transferpb.Reply_Listing{Listing: &transferpb.Listing{
		Entries: []*transferpb.Entry{entryOf("", info)}, End: transferpb.Listing_COMPLETE,
	}}})
}

// A lister lists one directory for one request. In memory it holds one Listing message, and the
// names of the directories on the way to the current one. One goroutine uses it.
type lister struct {
	ctx     context.Context
	w       replyWriter
	limit   *namesLimit
	base    string // the listed directory, relative to the served one
	cache   *disk.Cache[source.Dir]
	allowed scope // the paths that the client may read
	flat    bool
	target  []byte             // the place of a directory whose entries are left out; empty for none
	left    int                // entries that may still be sent
	faults  faults             // of this server, for its log
	message transferpb.Listing // to be sent next
	bytes   int                // about the size of message
	// metadata is nil if the client wants none.
	metadata *metadataReader
}

var errPageFull = errors.New("the page is full")

// list lists the whole directory, except for everything up to and including the path after, which
// is relative to the directory; "" lists everything.
func (l *lister) list(after string) error {
	end := transferpb.Listing_COMPLETE
	names, err := l.names("")
	if err != nil {
		return err
	}
	defer l.release(names)
	l.describeTop()
	err = l.walk("", names.names, after)
	if errors.Is(err, errPageFull) {
		end, err = transferpb.Listing_MORE, nil
	}
	if err != nil {
		return err
	}
	return l.send(end)
}

// names returns the sorted names in a directory. The caller releases them.
func (l *lister) names(dir string) (*nameList, error) {
	d, err := l.cache.Acquire(dir)
	if err != nil {
		return nil, err
	}
	defer l.cache.Release(d)
	names, err := l.limit.list(l.ctx, l.w.memory.session.ClientPrefix(), disk.JoinPath(l.base, dir), d.Dir)
	if err != nil {
		return nil, err
	}
	if err := l.w.memory.add(memoryOf(names.names)); err != nil {
		l.limit.release(names)
		return nil, err
	}
	return names, nil
}

// release releases names.
func (l *lister) release(names *nameList) {
	l.limit.release(names)
	l.w.memory.sub(memoryOf(names.names))
}

// memoryOf returns the memory of names, in bytes.
func memoryOf(names []string) (n int64) {
	const header = 16 // of a string
	for _, name := range names {
		n += header + int64(len(name))
	}
	return n
}

// walk lists the entries of a directory, given their names, and everything below them. It leaves
// out everything up to and including the path after, which is relative to the directory; ""
// leaves out nothing.
func (l *lister) walk(dir string, names []string, after string) error {
	if after != "" {
		first, below, _ := strings.Cut(after, "/")
		i, exists := slices.BinarySearch(names, first)
		names = names[i:]
		if exists {
			names = names[1:]
			if err := l.resume(disk.JoinPath(dir, first), below); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if err := l.visit(disk.JoinPath(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// resume lists the entries below a path whose own entry an earlier page has. A path that is not a
// directory has none.
func (l *lister) resume(path, after string) error {
	if l.flat || !l.allowed.shows(disk.JoinPath(l.base, path)) {
		return nil
	}
	names, err := l.names(path)
	switch {
	case err == nil:
		defer l.release(names)
		return l.walk(path, names.names, after)
	case isServerBusy(err):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, disk.ErrNotADirectory):
		return nil
	}
	l.faults.note(path, err)
	l.message.Partial = true // the entry has been sent, so that no entry can have the error
	return nil
}

// visit lists one entry and, unless the listing is flat, everything below it.
func (l *lister) visit(path string) error {
	full := disk.JoinPath(l.base, path)
	if !l.allowed.shows(full) {
		return nil
	}
	if l.left == 0 {
		return errPageFull
	}
	entry, exists, err := l.inspect(path)
	switch {
	case err != nil:
		return err
	case !exists:
		return nil
	case entry.GetType() == transferpb.Entry_DIRECTORY, entry.GetError() != "":
		entry.Restricted = !l.allowed.allowsTree(full)
	case !l.allowed.allows(full):
		return nil // nothing that the client may read is below it
	}
	if entry.GetType() == transferpb.Entry_DIRECTORY && !l.flat && !entry.GetIsTarget() {
		return l.visitDir(path, entry)
	}
	return l.add(entry)
}

// visitDir lists a directory's entry and everything below it.
func (l *lister) visitDir(path string, entry *transferpb.Entry) error {
	if isTooDeep := len(path)+1+wire.MaxName > wire.MaxTreePath; isTooDeep {
		entry.Error = "it is too deep"
		return l.add(entry)
	}
	names, err := l.names(path)
	if err != nil && isServerBusy(err) {
		return err
	}
	if err != nil {
		l.setError(entry, err)
		return l.add(entry)
	}
	defer l.release(names)
	if err := l.add(entry); err != nil {
		return err
	}
	return l.walk(path, names.names, "")
}

// inspect returns the entry of a path; exists is false if it was removed meanwhile. An error that
// concerns this entry is in the entry. If the server is busy, no entry can be trusted: err ends the
// listing.
func (l *lister) inspect(path string) (entry *transferpb.Entry, exists bool, err error) {
	failed := func(err error) (*transferpb.Entry, bool, error) {
		if isServerBusy(err) {
			return nil, false, err
		}
		entry := &transferpb.Entry{Path: []byte(path)}
		l.setError(entry, err)
		return entry, true, nil
	}
	d, err := l.cache.Acquire(disk.Parent(path))
	if err != nil {
		return failed(err)
	}
	defer l.cache.Release(d)
	name, target := disk.Base(path), ""
	info, err := d.Dir.Lstat(l.ctx, name)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		target, err = d.Dir.Readlink(l.ctx, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return failed(err)
	}
	entry = entryOf(path, info)
	entry.IsTarget = isPlace(l.target, info)
	if len(target) > wire.MaxLinkTarget {
		entry.Type, entry.Error = transferpb.Entry_OTHER, "the target of the link is too long"
		return entry, true, nil
	}
	entry.Target = []byte(target)
	l.metadata.describe(entry, disk.Parent(path), d.Dir, name, info)
	return entry, true, nil
}

// setError sets the message and the code that a client is sent for an entry that cannot be read.
func (l *lister) setError(e *transferpb.Entry, err error) {
	e.Code = failureCode(err).Enum()
	switch {
	case errors.Is(err, disk.ErrTooManyEntries):
		e.Error = fmt.Sprintf("there are more than %d files in the directory", maxDirNames)
	case e.GetCode() == transferpb.Failure_OTHER:
		l.faults.note(string(e.GetPath()), err)
		e.Error = "the server failed to read it"
		if errors.Is(err, source.ErrNoListing) {
			e.Error = messageNoListing
		}
	default:
		e.Error = "the server cannot read it"
	}
}

func entryOf(path string, info fs.FileInfo) *transferpb.Entry {
	e := &transferpb.Entry{Path: []byte(path), Mode: uint32(info.Mode().Perm())}
	if mtime := info.ModTime(); mtime.IsZero() {
		e.NoTime = true
	} else {
		e.MtimeNs, e.MtimeEra = wire.SplitTime(mtime)
	}
	switch info.Mode().Type() {
	case 0:
		e.Type, e.Size = transferpb.Entry_FILE, uint64(info.Size())
	case fs.ModeDir:
		e.Type = transferpb.Entry_DIRECTORY
	case fs.ModeSymlink:
		e.Type = transferpb.Entry_SYMLINK
	}
	return e
}

// add adds an entry to the message, and sends the message if it is large enough.
func (l *lister) add(e *transferpb.Entry) error {
	l.left--
	l.message.Entries = append(l.message.Entries, e)
	l.bytes += proto.Size(e) + 4
	if l.bytes < min(listingBytes, l.w.size) {
		return nil
	}
	return l.send(transferpb.Listing_NOT_YET)
}

// send sends the message and begins the next one.
func (l *lister) send(end transferpb.Listing_End) error {
	l.message.End, l.message.Restricted = end, !l.allowed.allowsTree(l.base)
	err := l.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Listing{Listing: &l.message}})
	l.message.Entries, l.message.Partial, l.message.Directory, l.bytes = l.message.Entries[:0], false, nil, 0
	l.message.Places, l.message.NowNs = nil, 0
	return err
}
