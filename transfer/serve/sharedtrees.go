package serve

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"log/slog"

	"sync"
	"time"
)

// This file is how servers of one bucket share hash trees, so that one of them hashes a file and
// the others do not. A wrong tree does no more harm than one that a disk damaged: clients reject
// bytes that do not match it. The server then hashes the file itself.

const (
	// sharedHeader begins the content of a shared tree. A record of a TreeStore follows.
	sharedHeader = "kwikcp tree 1\n\x00"
	// sharedWait bounds the wait for a shared tree before the file is hashed instead.
	sharedWait = 10 * time.Second
	// sharedPause is how long the server does not ask for trees after a failure.
	sharedPause = time.Minute
	// maxUnpublished bounds the trees that wait to be published.
	maxUnpublished = 64
	// maxDistrusted bounds the trees that turned out to be wrong and are remembered.
	maxDistrusted = 4096
)

// SharedTrees are files in which servers share hash trees. Each has a key and a content. Their
// methods are safe for concurrent use. Their errors match those of fs.
type SharedTrees interface {
	// Get returns the content of a key. The error matches fs.ErrNotExist if there is none.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// Put writes the content of a key, and replaces another one.
	Put(ctx context.Context, key, content []byte) error
}

// ShareTrees makes the server use trees that other servers published, before it hashes a file of 1
// MiB and more. With publish it publishes those that it computes, in the background; Close ends
// that. It must be called before Serve, at most once.
func (s *Server) ShareTrees(trees SharedTrees, publish bool) {
	shared := &sharedTrees{files: trees, log: s.log, distrusted: make(map[string]bool)}
	s.index.shared = shared
	if publish {
		shared.queue = make(chan unpublished, maxUnpublished)
		s.tasks.Go(func() { shared.run(s.ctx) })
	}
}

// sharedTrees are the SharedTrees of an index. Its methods do nothing on nil.
type sharedTrees struct {
	files SharedTrees
	log   *slog.Logger
	queue chan unpublished // nil if this server does not publish

	mu          sync.Mutex // guards the fields below
	distrusted  map[string]bool
	pausedUntil time.Time
	getFails    bool // logged, and no success since; so are the others
	putFails    bool
	isFull      bool
}

// An unpublished is a tree that waits to be published.
type unpublished struct {
	path    string
	version disk.Version
	tree    *integrity.Tree
}

// sharedKey identifies a version of a file. Servers of one bucket see the same versions.
func sharedKey(path string, version disk.Version) []byte {
	return append(appendVersion(nil, version), path...)
}

// get returns the tree of a version of a file; nil if there is none, or if it cannot be read now.
func (t *sharedTrees) get(ctx context.Context, path string, version disk.Version) *integrity.Tree {
	if t == nil {
		return nil
	}
	key := sharedKey(path, version)
	t.mu.Lock()
	mustSkip := t.distrusted[string(key)] || time.Now().Before(t.pausedUntil)
	t.mu.Unlock()
	if mustSkip {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sharedWait)
	defer cancel()
	content, err := t.files.Get(ctx, key)
	if isAbsent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission); isAbsent {
		// A bucket that may not be listed refuses access to files that do not exist.
		err = nil
		content = nil
	}
	t.noteGet(err)
	if err != nil || content == nil {
		return nil
	}
	tree, err := parseShared(content, path, version)
	if err != nil {
		t.log.Warn("a shared hash tree is damaged; the file is hashed", "path", path, "err", err)
		return nil
	}
	return tree
}

// noteGet notes whether trees can be read.
func (t *sharedTrees) noteGet(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.pausedUntil = time.Now().Add(sharedPause)
		if !t.getFails {
			t.log.Warn("shared hash trees cannot be read; files are hashed", "err", err)
		}
	}
	t.getFails = err != nil
}

// parseShared returns the tree in the content of a shared file.
func parseShared(content []byte, path string, version disk.Version) (*integrity.Tree, error) {
	record, ok := bytes.CutPrefix(content, []byte(sharedHeader))
	if !ok {
		return nil, errDamaged
	}
	h, err := parseHead(record)
	if err != nil || h.path != path || h.version != version {
		return nil, errDamaged
	}
	tree, err := parseTree(record, h)
	if err != nil {
		return nil, err
	}
	if tree.GroupSize() != integrity.GroupSizeFor(version.Size) {
		return nil, errDamaged
	}
	return tree, nil
}

// publish has a tree published soon. If too many wait, it is left out.
func (t *sharedTrees) publish(path string, version disk.Version, tree *integrity.Tree) {
	if t == nil || t.queue == nil {
		return
	}
	isFull := false
	select {
	case t.queue <- unpublished{path, version, tree}:
	default:
		isFull = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if isFull && !t.isFull {
		t.log.Warn("hash trees are published too slowly; some are left out")
	}
	t.isFull = isFull
}

// run publishes trees until ctx ends.
func (t *sharedTrees) run(ctx context.Context) {
	for {
		select {
		case u := <-t.queue:
			content := appendRecord([]byte(sharedHeader), u.path, u.version, u.tree)
			t.notePut(ctx, t.files.Put(ctx, sharedKey(u.path, u.version), content))
		case <-ctx.Done():
			return
		}
	}
}

// notePut notes whether trees can be published.
func (t *sharedTrees) notePut(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && !t.putFails {
		t.log.Warn("hash trees cannot be published; other servers hash the files themselves", "err", err)
	}
	t.putFails = err != nil
}

// distrust makes the server not ask for the tree of a version of a file again, because it was
// wrong.
func (t *sharedTrees) distrust(path string, version disk.Version) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.distrusted) < maxDistrusted {
		t.distrusted[string(sharedKey(path, version))] = true
	}
}
