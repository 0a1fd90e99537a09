package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	// maxListed bounds the entries of one answer.
	maxListed = 64 << 10
	// maxCrowd bounds the names of a directory that a server lists: they are sorted in memory.
	maxCrowd = 2 << 20
	// maxListings is how many listings of one client are under way at once; more wait.
	maxListings = 2
	// listingBytes is about how large a Listing frame is; one entry, at most MaxTreePath and as much for a link's target, may come on top.
	listingBytes = 16 << 10
)

// A namesLimit bounds the names that the listings of all clients hold in memory together, for as long as their clients take to read them: two of
// the largest directories, and those of four that are being read.
type namesLimit struct {
	reading chan struct{}
	held    *semaphore.Weighted // names
}

func newNamesLimit() *namesLimit {
	return &namesLimit{reading: make(chan struct{}, 4), held: semaphore.NewWeighted(2 * maxCrowd)}
}

// read returns the sorted names in a directory, which count until they are released. It waits for its turn and for room, but not for
// longer than a client would.
func (n *namesLimit) read(ctx context.Context, d disk.TreeDir) ([]string, error) {
	patience := time.NewTimer(requestTimeout / 2)
	defer patience.Stop()
	select {
	case n.reading <- struct{}{}:
		defer func() { <-n.reading }()
	case <-patience.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	names, err := d.Names(maxCrowd)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, wire.IsTemporary)
	sort.Strings(names)
	room, cancel := context.WithTimeout(ctx, requestTimeout/2)
	defer cancel()
	if n.held.Acquire(room, int64(len(names))) != nil {
		return nil, errBusy
	}
	return names, nil
}

func (n *namesLimit) release(names []string) { n.held.Release(int64(len(names))) }

var errBusy = errors.New("too many listings are under way")

// list answers a ListRequest.
func (s *Server) list(ctx context.Context, w answerWriter, request *transferpb.Request) error {
	tree, ok := s.dir.(disk.TreeDir)
	if !ok {
		return disk.ErrNotAFile
	}
	base, err := openBase(tree, string(request.GetPath()))
	if errors.Is(err, disk.ErrNotADirectory) {
		return s.listFile(w, tree, string(request.GetPath()))
	}
	if err != nil {
		return err
	}
	defer base.Close()
	l := &lister{ctx: ctx, w: w, limit: s.names, cache: disk.NewDirCache(base), flat: request.GetList().GetFlat(), left: maxListed}
	defer l.cache.Close()
	if n := request.GetList().GetLimit(); n > 0 && n < maxListed {
		l.left = int(n)
	}
	after := string(request.GetList().GetAfter())
	if after != "" && wire.CheckTreePath(after) != nil {
		return errRequest
	}
	end := transferpb.Listing_COMPLETE
	names, err := l.names("")
	if err != nil {
		return err
	}
	defer l.limit.release(names)
	if err := l.walk("", names, after); errors.Is(err, errPageFull) {
		end = transferpb.Listing_MORE
	} else if err != nil {
		return err
	}
	return l.flush(end)
}

// openBase opens the directory that a request is about; "" is the served one.
func openBase(tree disk.TreeDir, path string) (disk.TreeDir, error) {
	if path == "" {
		return tree.At(".")
	}
	if wire.CheckPath(path) != nil {
		return nil, fs.ErrNotExist // no hint at why
	}
	return tree.At(path)
}

// listFile answers about a path that is no directory.
func (s *Server) listFile(w answerWriter, tree disk.TreeDir, path string) error {
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

// A lister walks one directory for one request. It holds the names of the directories that it is in, and a frame's worth of entries.
type lister struct {
	ctx   context.Context
	w     answerWriter
	limit *namesLimit
	cache *disk.DirCache
	flat  bool
	left  int // entries that may still be sent
	frame transferpb.Listing
	bytes int // of the frame, about
}

var errPageFull = errors.New("the page is full")

// names returns the sorted names in a directory, which the caller releases.
func (l *lister) names(dir string) ([]string, error) {
	d, err := l.cache.Acquire(dir)
	if err != nil {
		return nil, err
	}
	defer l.cache.Release(d)
	return l.limit.read(l.ctx, d)
}

// walk lists what is in a directory, whose names are known, and below it, but nothing up to and with after, a path relative to it; "" is
// before everything.
func (l *lister) walk(dir string, names []string, after string) error {
	first, below, deeper := strings.Cut(after, "/")
	i := sort.SearchStrings(names, first)
	if after != "" && i < len(names) && names[i] == first {
		if inside := disk.JoinPath(dir, first); !l.flat {
			in, err := l.names(inside)
			if errors.Is(err, errBusy) {
				return err
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, disk.ErrNotADirectory) {
				l.frame.Partial = true
			}
			if !deeper {
				below = ""
			}
			err = l.walk(inside, in, below)
			l.limit.release(in)
			if err != nil {
				return err
			}
		}
		i++
	}
	for _, name := range names[i:] {
		in, err := l.visit(disk.JoinPath(dir, name))
		if err != nil {
			return err
		}
		err = l.walk(disk.JoinPath(dir, name), in, "")
		l.limit.release(in)
		if err != nil {
			return err
		}
	}
	return nil
}

// visit lists one entry, and returns the names in it, which the caller releases, if it is a directory to walk.
func (l *lister) visit(path string) (names []string, err error) {
	if l.left == 0 {
		return nil, errPageFull
	}
	d, err := l.cache.Acquire(disk.Parent(path))
	if err != nil {
		return nil, l.add(&transferpb.Entry{Path: []byte(path), Error: entryProblem(err)})
	}
	name := disk.Base(path)
	info, err := d.Lstat(name)
	target := ""
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		target, err = d.Readlink(name)
	}
	l.cache.Release(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it went meanwhile
	}
	if err != nil {
		return nil, l.add(&transferpb.Entry{Path: []byte(path), Error: entryProblem(err)})
	}
	e := entryOf(path, info)
	switch {
	case len(target) > wire.MaxLinkTarget:
		e.Type, e.Error = transferpb.Entry_OTHER, "the target of the link is too long"
	case target != "":
		e.Target = []byte(target)
	case e.GetType() == transferpb.Entry_DIRECTORY && !l.flat:
		if len(path)+1+wire.MaxName > wire.MaxTreePath {
			e.Error = "it is too deep"
		} else if names, err = l.names(path); errors.Is(err, errBusy) {
			return nil, err
		} else if err != nil {
			e.Error = entryProblem(err)
		}
	}
	if err := l.add(e); err != nil {
		l.limit.release(names)
		return nil, err
	}
	return names, nil
}

// entryProblem is what a client is told.
func entryProblem(err error) string {
	if errors.Is(err, disk.ErrTooManyEntries) {
		return fmt.Sprintf("there are more than %d files in the directory", maxCrowd)
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

// add puts an entry into the frame, and sends the frame if it is large enough.
func (l *lister) add(e *transferpb.Entry) error {
	l.left--
	l.frame.Entries = append(l.frame.Entries, e)
	if l.bytes += proto.Size(e) + 4; l.bytes < listingBytes {
		return nil
	}
	return l.flush(transferpb.Listing_NOT_YET)
}

func (l *lister) flush(end transferpb.Listing_End) error {
	l.frame.End = end
	err := l.w.send(&transferpb.Reply{Reply: &transferpb.Reply_Listing{Listing: &l.frame}})
	l.frame.Entries, l.frame.Partial, l.bytes = l.frame.Entries[:0], false, 0
	return err
}
