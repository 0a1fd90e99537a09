package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// A farRoot is a root in memory whose opens and descriptions take a round trip.
type farRoot struct {
	source.Root // for what is not overridden
	delay       time.Duration

	mu      sync.Mutex // guards the fields below
	files   map[string][]byte
	fail    error          // of every request; nil for none
	inRead  error          // of every read
	opens   map[string]int // by name
	stats   int
	running int              // requests
	most    int              // of running
	ahead   map[string]int64 // bytes that were announced, by name
	open    int              // objects
	block   bool             // reads wait for Close
}

const farParallel = 16

func newFarRoot(n, size int) *farRoot {
	r := &farRoot{
		delay: 30 * time.Millisecond, files: make(map[string][]byte), opens: make(map[string]int),
		ahead: make(map[string]int64),
	}
	for i := range n {
		content := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(content)
		r.files[fmt.Sprintf("%08d", i)] = content
	}
	return r
}

func (r *farRoot) Caps() source.Caps { return source.Caps{IsRemote: true, Parallel: farParallel} }

// request takes as long as one.
func (r *farRoot) request(ctx context.Context, name string) (*farObject, error) {
	r.mu.Lock()
	r.running++
	r.most = max(r.most, r.running)
	r.mu.Unlock()
	timer := time.NewTimer(r.delay)
	defer timer.Stop()
	var err error
	select {
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	if err == nil {
		err = r.fail
	}
	if err != nil {
		return nil, &source.Unavailable{Root: "far", Err: err}
	}
	content, ok := r.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &farObject{root: r, name: name, content: content, closed: make(chan struct{})}, nil
}

func (r *farRoot) Open(ctx context.Context, name string) (source.Object, error) {
	o, err := r.request(ctx, name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opens[name]++
	r.open++
	return o, nil
}

func (r *farRoot) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	r.mu.Lock()
	r.stats++
	r.mu.Unlock()
	o, err := r.request(ctx, name)
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (r *farRoot) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	return r.Stat(ctx, name)
}

// A farObject is an object, and its description.
type farObject struct {
	root    *farRoot
	name    string
	content []byte
	once    sync.Once
	closed  chan struct{}
}

func (o *farObject) ReadAt(p []byte, off int64) (int, error) {
	o.root.mu.Lock()
	err, block := o.root.inRead, o.root.block
	o.root.mu.Unlock()
	if block {
		<-o.closed
		return 0, fs.ErrClosed
	}
	if err != nil {
		return 0, err
	}
	return bytes.NewReader(o.content).ReadAt(p, off)
}

func (o *farObject) Prefetch(start, end int64) {
	o.root.mu.Lock()
	defer o.root.mu.Unlock()
	o.root.ahead[o.name] = max(o.root.ahead[o.name], end)
}

func (o *farObject) Stat() (fs.FileInfo, error) { return o, nil }

func (o *farObject) Close() error {
	o.once.Do(func() {
		close(o.closed)
		o.root.mu.Lock()
		defer o.root.mu.Unlock()
		o.root.open--
	})
	return nil
}

func (o *farObject) Name() string       { return disk.Base(o.name) }
func (o *farObject) Size() int64        { return int64(len(o.content)) }
func (o *farObject) Mode() fs.FileMode  { return 0o644 }
func (o *farObject) ModTime() time.Time { return time.Unix(1e9, 0) }
func (o *farObject) IsDir() bool        { return false }
func (o *farObject) Sys() any           { return o }
func (o *farObject) Version() disk.Version {
	v := disk.Version{Size: o.Size(), MTime: o.ModTime().UnixNano(), Tag: [16]byte{1}}
	if len(o.content) > 0 {
		v.Tag[1] = o.content[0]
	}
	return v
}

// batchOn requests a batch of all files of a far root, and returns its descriptor.
func (r *farRoot) batchOn(w *transfertest.Net, s *Server, session *kwik.ClientSession) (request kwik.ContentRequest) {
	w.T.Helper()
	names := slices.Sorted(maps.Keys(r.files))
	replies, err := w.Ask(session, batchOf(names...), true)
	manifests := 0
	for _, reply := range replies {
		if reply.GetBatchFile().GetManifest() != nil {
			manifests++
		}
		request.Size += int64(reply.GetBatchFile().GetManifest().GetSize())
	}
	if err != nil || manifests != len(names) {
		w.T.Fatalf("%d manifests, %v", manifests, err)
	}
	s.batches.mu.Lock()
	defer s.batches.mu.Unlock()
	for descriptor := range s.batches.byDescriptor {
		request.Descriptor = []byte(descriptor)
	}
	return request
}

// read reads a content as a server does, in grants.
func (r *farRoot) read(c kwik.Content, size int64) error {
	var want []byte
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		want = append(want, r.files[name]...)
	}
	const grant, frame = 1 << 20, 256 << 10
	for off := int64(0); off < size; off += frame {
		if off%grant == 0 {
			c.(kwik.Prefetcher).Prefetch(off, min(off+grant, size))
		}
		p := make([]byte, min(frame, size-off))
		if _, err := c.ReadAt(p, off); err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		if !bytes.Equal(p, want[off:off+int64(len(p))]) {
			return errors.New("wrong bytes")
		}
	}
	return nil
}
