package serve

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

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is the response to a ListRequest.

const (
	// maxListed bounds the entries of one response.
	maxListed = 64 << 10
	// maxDirNames bounds the names of a directory that is listed. They are sorted in memory.
	maxDirNames = 2 << 20
	// maxDirReads bounds the directories that are read at a time, for all clients.
	maxDirReads = 4
	// maxListings bounds the listings of one client that run at a time; more wait.
	maxListings = 2
	// listingBytes is the size, in bytes, from which on a Listing message is sent. The last
	// entry may exceed it by the longest path and link target.
	listingBytes = 16 << 10
)

// A namesLimit bounds the names that the listings of all clients hold in memory. Those are the
// names of two of the largest directories, and the ones that are being read. A listing holds
// names until its client has read it.
type namesLimit struct {
	reading chan struct{}       // holds an element for each directory that is read
	held    *semaphore.Weighted // names
}

func newNamesLimit() *namesLimit {
	return &namesLimit{reading: make(chan struct{}, maxDirReads), held: semaphore.NewWeighted(2 * maxDirNames)}
}

// read returns the sorted names in a directory. They count until they are released. It waits
// until the limit allows that, but returns errBusy before the client gives up.
func (n *namesLimit) read(ctx context.Context, d disk.TreeDir) ([]string, error) {
	timeout := time.NewTimer(requestTimeout / 2)
	defer timeout.Stop()
	select {
	case n.reading <- struct{}{}:
		defer func() { <-n.reading }()
	case <-timeout.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	names, err := d.Names(maxDirNames)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, wire.IsTemporary)
	slices.Sort(names)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout/2)
	defer cancel()
	if n.held.Acquire(ctx, int64(len(names))) != nil {
		return nil, errBusy
	}
	return names, nil
}

func (n *namesLimit) release(names []string) { n.held.Release(int64(len(names))) }

// list responds to a ListRequest.
func (s *Server) list(ctx context.Context, allowed scope, w replyWriter, request *transferpb.Request) error {
	tree, ok := s.dir.(disk.TreeDir)
	if !ok {
		return disk.ErrNotAFile
	}
	path, options := string(request.GetPath()), request.GetList()
	base, err := openBase(tree, path)
	if errors.Is(err, disk.ErrNotADirectory) {
		if !allowed.allows(path) {
			return errForbidden
		}
		return s.listFile(w, tree, path)
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
		ctx: ctx, w: w, limit: s.names, cache: disk.NewDirCache(base), flat: options.GetFlat(), left: maxListed,
		base: path, allowed: allowed,
	}
	defer l.cache.Close()
	if n := options.GetLimit(); n > 0 && n < maxListed {
		l.left = int(n)
	}
	return l.list(after)
}

// openBase opens the directory that a request names; "" is the served one.
func openBase(tree disk.TreeDir, path string) (disk.TreeDir, error) {
	if path == "" {
		return tree.At(".")
	}
	if wire.CheckPath(path) != nil {
		return nil, fs.ErrNotExist // the client does not learn why
	}
	return tree.At(path)
}

// listFile responds to a ListRequest whose path is not a directory.
func (s *Server) listFile(w replyWriter, tree disk.TreeDir, path string) error {
	f, err := tree.Open(path)
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
	cache   *disk.DirCache
	base    string // the path of the directory
	allowed scope  // the paths that the client may read
	flat    bool
	left    int                // entries that may still be sent
	message transferpb.Listing // to be sent next
	bytes   int                // about the size of message
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
	defer l.limit.release(names)
	err = l.walk("", names, after)
	if errors.Is(err, errPageFull) {
		end, err = transferpb.Listing_MORE, nil
	}
	if err != nil {
		return err
	}
	return l.send(end)
}

// names returns the sorted names in a directory. The caller releases them.
func (l *lister) names(dir string) ([]string, error) {
	d, err := l.cache.Acquire(dir)
	if err != nil {
		return nil, err
	}
	defer l.cache.Release(d)
	return l.limit.read(l.ctx, d)
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
		defer l.limit.release(names)
		return l.walk(path, names, after)
	case errors.Is(err, errBusy):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, disk.ErrNotADirectory):
		return nil
	}
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
	entry, exists := l.inspect(path)
	onTheWay := !l.allowed.allows(full)
	switch {
	case !exists:
		return nil
	case onTheWay && entry.GetType() != transferpb.Entry_DIRECTORY && entry.GetError() == "":
		return nil // nothing that the client may read is below it
	}
	if entry.Restricted = onTheWay; entry.GetType() == transferpb.Entry_DIRECTORY && !l.flat {
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
	if errors.Is(err, errBusy) {
		return err
	}
	if err != nil {
		entry.Error = entryMessage(err)
		return l.add(entry)
	}
	defer l.limit.release(names)
	if err := l.add(entry); err != nil {
		return err
	}
	return l.walk(path, names, "")
}

// inspect returns the entry of a path; exists is false if it was removed meanwhile. Other errors
// are in the entry.
func (l *lister) inspect(path string) (entry *transferpb.Entry, exists bool) {
	d, err := l.cache.Acquire(disk.Parent(path))
	if err != nil {
		return &transferpb.Entry{Path: []byte(path), Error: entryMessage(err)}, true
	}
	defer l.cache.Release(d)
	name, target := disk.Base(path), ""
	info, err := d.Lstat(name)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		target, err = d.Readlink(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		return &transferpb.Entry{Path: []byte(path), Error: entryMessage(err)}, true
	}
	entry = entryOf(path, info)
	if len(target) > wire.MaxLinkTarget {
		entry.Type, entry.Error = transferpb.Entry_OTHER, "the target of the link is too long"
		return entry, true
	}
	entry.Target = []byte(target)
	return entry, true
}

// entryMessage returns the message that a client is sent for an entry that cannot be read.
func entryMessage(err error) string {
	if errors.Is(err, disk.ErrTooManyEntries) {
		return fmt.Sprintf("there are more than %d files in the directory", maxDirNames)
	}
	return "the server cannot read it"
}

func entryOf(path string, info fs.FileInfo) *transferpb.Entry {
	e := &transferpb.Entry{Path: []byte(path), MtimeNs: info.ModTime().UnixNano(), Mode: uint32(info.Mode().Perm())}
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
	if l.bytes < listingBytes {
		return nil
	}
	return l.send(transferpb.Listing_NOT_YET)
}

// send sends the message and begins the next one.
func (l *lister) send(end transferpb.Listing_End) error {
	l.message.End, l.message.Restricted = end, !l.allowed.allows(l.base)
	err := l.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Listing{Listing: &l.message}})
	l.message.Entries, l.message.Partial, l.bytes = l.message.Entries[:0], false, 0
	return err
}
