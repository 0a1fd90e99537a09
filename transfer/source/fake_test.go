package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

// testBlock is the size of blocks in tests, in bytes.
const testBlock = 64 << 10

// A fakeStore is a store in memory.
type fakeStore struct {
	mu       sync.Mutex
	objects  map[string]*fakeObject
	requests map[string]int // by kind
	sent     map[string]int64
	running  int
	most     int           // requests at once
	delay    time.Duration // of each request
	// broken returns the number of bytes after which an answer breaks off, -1 for none.
	broken func(name string, start int64) int64
	fail   func(kind, name string) error
	closed func() // called when an answer is closed; nil does nothing
}

type fakeObject struct {
	data  []byte
	mtime time.Time
	tag   string
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		objects:  make(map[string]*fakeObject),
		requests: make(map[string]int),
		sent:     make(map[string]int64),
	}
}

func (s *fakeStore) put(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tag := fmt.Sprintf("%q", fmt.Sprint(len(data), len(s.requests), time.Now().UnixNano()))
	s.objects[name] = &fakeObject{data, time.Unix(1700000000, 0), tag}
}

func (s *fakeStore) count(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[kind]
}

func (s *fakeStore) bytesOf(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[name]
}

func (s *fakeStore) begin(kind, name string) (o *fakeObject, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[kind]++
	if s.fail != nil {
		if err := s.fail(kind, name); err != nil {
			return nil, nil, err
		}
	}
	s.running++
	s.most = max(s.most, s.running)
	end = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
	}
	return s.objects[name], end, nil
}

func (s *fakeStore) wait(ctx context.Context) error {
	if s.delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(s.delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *fakeObject) info(name string) objectInfo {
	return objectInfo{name: name, size: int64(len(o.data)), mtime: o.mtime, tag: o.tag}
}

func (s *fakeStore) stat(ctx context.Context, name string) (info objectInfo, err error) {
	o, end, err := s.begin("stat", name)
	if err != nil {
		return info, err
	}
	defer end()
	if err := s.wait(ctx); err != nil {
		return info, err
	}
	if o == nil {
		return info, fs.ErrNotExist
	}
	return o.info(name), nil
}

func (s *fakeStore) get(
	ctx context.Context, name string, pinned *objectInfo, start, end int64,
) (io.ReadCloser, objectInfo, error) {
	o, done, err := s.begin("get", name)
	if err != nil {
		return nil, objectInfo{}, err
	}
	defer done()
	if err := s.wait(ctx); err != nil {
		return nil, objectInfo{}, err
	}
	switch {
	case o == nil:
		return nil, objectInfo{}, fs.ErrNotExist
	case pinned != nil && pinned.tag != o.tag:
		return nil, objectInfo{}, disk.ErrChanged
	}
	start, end = min(start, int64(len(o.data))), min(end, int64(len(o.data)))
	body := &fakeBody{s: s, name: name, rest: o.data[start:end], left: -1, ctx: ctx}
	if s.broken != nil {
		body.left = s.broken(name, start)
	}
	return body, o.info(name), nil
}

type fakeBody struct {
	s    *fakeStore
	name string
	rest []byte
	left int64
	ctx  context.Context
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(b.rest), 8<<10)
	if b.left > 0 {
		n = int(min(int64(n), b.left))
		b.left -= int64(n)
	}
	copy(p, b.rest[:n])
	b.rest = b.rest[n:]
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.sent[b.name] += int64(n)
	return n, nil
}

func (b *fakeBody) Close() error {
	if b.s.closed != nil {
		b.s.closed()
	}
	return nil
}

func (s *fakeStore) list(ctx context.Context, dir string) iter.Seq2[objectInfo, error] {
	return func(yield func(objectInfo, error) bool) {
		_, end, err := s.begin("list", dir)
		if err != nil {
			yield(objectInfo{}, err)
			return
		}
		defer end()
		s.mu.Lock()
		found := make(map[string]objectInfo)
		for name, o := range s.objects {
			rest, ok := strings.CutPrefix(name, dir)
			if dir != "" {
				rest, ok = strings.CutPrefix(name, dir+"/")
			}
			if !ok {
				continue
			}
			if first, _, isDeep := strings.Cut(rest, "/"); isDeep {
				found[first+"/"] = objectInfo{name: first, isDir: true}
			} else {
				found[first] = o.info(first)
			}
		}
		s.mu.Unlock()
		for _, info := range found {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (s *fakeStore) describe() string { return "fake:" }
func (s *fakeStore) close() error     { return nil }

// newFakeRoot returns a root of a store with a cache of so many blocks.
func newFakeRoot(t *testing.T, s *fakeStore, blocks float64) Root {
	t.Helper()
	c := newCache(testBlock, int64(blocks*testBlock))
	root := newRemote(s, c, slog.New(slog.DiscardHandler), 8)
	t.Cleanup(func() {
		root.Close()
		c.Close()
		checkEmpty(t, c)
	})
	return root
}

// checkEmpty checks that no block of a cache is held, and that its numbers add up.
func checkEmpty(t *testing.T, c *Cache) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var used int64
	for _, b := range c.table.blocks {
		used += b.cost
		isHeld := b.pins != 0 || b.holders != 0 || b.ahead != 0
		if isHeld || b.state != blockComplete {
			t.Errorf("block %d of %s: state %d, %d pins, %d holders, %d ahead", b.key.index, b.key.object.name, b.state,
				b.pins, b.holders, b.ahead)
		}
	}
	if c.table.used != used || c.table.ahead != 0 || c.table.readersAhead != 0 {
		t.Errorf("%d bytes are used, not %d; %d ahead, %d readers", c.table.used, used, c.table.ahead,
			c.table.readersAhead)
	}
	if c.flights != 0 || c.waiting != 0 {
		t.Errorf("%d flights, %d waiting", c.flights, c.waiting)
	}
	if len(c.readers) != 0 || len(c.openings) != 0 {
		t.Errorf("%d readers and %d openings are left", len(c.readers), len(c.openings))
	}
}

// pattern returns bytes that differ from page to page.
func pattern(size int, seed byte) []byte {
	data := bytes.Repeat([]byte{seed, 1, 2, 3, 4, 5, 6, 7}, size/8+1)[:size]
	for i := 0; i+8 <= size; i += 4096 {
		binary.LittleEndian.PutUint64(data[i:], uint64(i)+uint64(seed)<<56)
	}
	return data
}

func openTest(t *testing.T, root Root, name string) Object {
	t.Helper()
	o, err := root.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// readTest reads an object in order, in pieces.
func readTest(o Object, want []byte, piece int) error {
	buf := make([]byte, piece)
	for off := 0; off < len(want); off += piece {
		n, err := o.ReadAt(buf[:min(piece, len(want)-off)], int64(off))
		if err != nil && !(err == io.EOF && off+n == len(want)) {
			return fmt.Errorf("at %d: %w", off, err)
		}
		if !bytes.Equal(buf[:n], want[off:min(off+piece, len(want))]) {
			return fmt.Errorf("at %d: wrong bytes", off)
		}
	}
	return nil
}
