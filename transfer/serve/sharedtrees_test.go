package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"kwikcp/transfer/disk"
)

// A memoryTrees is a bucket of trees in memory.
type memoryTrees struct {
	mu    sync.Mutex
	files map[string][]byte
	gets  int
	fail  error
	put   chan struct{} // has an element for each Put that may go on; nil lets all
}

func (m *memoryTrees) Get(_ context.Context, key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	content, ok := m.files[string(key)]
	switch {
	case m.fail != nil:
		return nil, m.fail
	case !ok:
		return nil, fs.ErrNotExist
	}
	return content, nil
}

func (m *memoryTrees) Put(ctx context.Context, key, content []byte) error {
	if m.put != nil {
		select {
		case <-m.put:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.files == nil {
		m.files = make(map[string][]byte)
	}
	m.files[string(key)] = content
	return nil
}

// onShared runs f with an index that shares trees, in a bubble. It returns the log.
func onShared(t *testing.T, m *memoryTrees, publish bool, f func(x *index)) string {
	t.Helper()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &Server{ctx: ctx, log: slog.New(slog.NewTextHandler(&log, nil))}
		s.index = newIndex(ctx, s.log)
		s.ShareTrees(m, publish)
		f(s.index)
		synctest.Wait() // publishes
		cancel()
		s.tasks.Wait()
		s.index.jobs.Wait()
	})
	return log.String()
}

// TestServersHashOnceForAll has 20 servers read one file of a bucket. The first hashes it.
func TestServersHashOnceForAll(t *testing.T) {
	m := &memoryTrees{}
	d := &slowDisk{size: 3<<20 + 5}
	hashed := 0
	for i := range 20 {
		onShared(t, m, i == 0, func(x *index) {
			e := x.lookup("dir/file", d.now(), d.open)
			<-e.done
			if e.err != nil || e.tree == nil {
				t.Fatal(e.err)
			}
			if !e.began.IsZero() {
				hashed++
			}
		})
	}
	if hashed != 1 || d.opened.Load() != 1 || len(m.files) != 1 {
		t.Errorf("hashed %d times, opened %d times, %d trees", hashed, d.opened.Load(), len(m.files))
	}
}

// TestSharedTreesAreOfOneVersion looks for trees of what differs from a published file.
func TestSharedTreesAreOfOneVersion(t *testing.T) {
	m := &memoryTrees{}
	tree := randomTree(t, minStored, 1)
	version := disk.Version{Size: minStored, MTime: 5e18, Tag: [16]byte{1}}
	onShared(t, m, true, func(x *index) { x.shared.publish("a", version, tree) })
	onShared(t, m, false, func(x *index) {
		if got := x.shared.get(x.ctx, "a", version); got == nil || got.Root() != tree.Root() {
			t.Error("the published tree is not found")
		}
		other := version
		other.Tag[3]++
		if x.shared.get(x.ctx, "a", other) != nil || x.shared.get(x.ctx, "b", version) != nil {
			t.Error("the tree is found for another file")
		}
		x.shared.distrust("a", version)
		if x.shared.get(x.ctx, "a", version) != nil {
			t.Error("a tree that was wrong is used again")
		}
	})
	// The file of one key under another, and damage.
	content := m.files[string(sharedKey("a", version))]
	m.files[string(sharedKey("b", version))] = content
	for i := 0; i < len(content); i += 1 + len(content)/50 {
		damaged := bytes.Clone(content)
		damaged[i] ^= 4
		m.files[string(sharedKey("c", version))] = damaged
		m.files[string(sharedKey("a", version))] = damaged
		onShared(t, m, false, func(x *index) {
			for _, path := range []string{"a", "b", "c"} {
				// The state of the record has no checksum.
				isState := i == len(sharedHeader)+stateOffset
				if !isState && x.shared.get(x.ctx, path, version) != nil {
					t.Errorf("the file of %s with another byte %d is a tree", path, i)
				}
			}
		})
	}
}

// TestFailingSharedTreesCostHashing has a bucket that cannot be read or written.
func TestFailingSharedTreesCostHashing(t *testing.T) {
	for _, tt := range []struct {
		err  error
		gets int
		log  []string
	}{
		{errors.New("gone"), 1, []string{"cannot be read", "cannot be published"}},
		{fs.ErrPermission, 3, []string{"cannot be published"}},
	} {
		m := &memoryTrees{fail: tt.err}
		d := &slowDisk{size: 2 << 20}
		log := onShared(t, m, true, func(x *index) {
			for i := range 3 {
				e := x.lookup(fmt.Sprint(i), d.now(), d.open)
				<-e.done
				if e.err != nil {
					t.Error(e.err)
				}
				synctest.Wait()
			}
		})
		if d.opened.Load() != 3 || m.gets != tt.gets {
			t.Errorf("%v: %d files hashed, %d trees requested", tt.err, d.opened.Load(), m.gets)
		}
		if lines := strings.Count(log, "\n"); lines != len(tt.log) {
			t.Errorf("%v: %d lines: %s", tt.err, lines, log)
		}
		for _, text := range tt.log {
			if !strings.Contains(log, text) {
				t.Errorf("%v: no %q in the log: %s", tt.err, text, log)
			}
		}
	}
}

// TestUnpublishedTreesAreBounded hashes many files while nothing can be published.
func TestUnpublishedTreesAreBounded(t *testing.T) {
	m := &memoryTrees{}
	tree := randomTree(t, minStored, 1)
	log := onShared(t, m, true, func(x *index) {
		m.put = make(chan struct{}) // of the bubble
		for i := range 3 * maxUnpublished {
			x.shared.publish(fmt.Sprint(i), disk.Version{Size: minStored}, tree)
		}
		if n := len(x.shared.queue); n > maxUnpublished {
			t.Errorf("%d trees wait", n)
		}
	})
	if n := strings.Count(log, "\n"); n != 1 || len(m.files) != 0 {
		t.Errorf("%d lines, %v", n, maps.Keys(m.files))
	}
}

func FuzzSharedTree(f *testing.F) {
	version := disk.Version{Size: minStored, MTime: 1}
	f.Add(appendRecord([]byte(sharedHeader), "a", version, randomTree(f, minStored, 1)))
	f.Add([]byte(sharedHeader))
	f.Fuzz(func(t *testing.T, content []byte) {
		if tree, err := parseShared(content, "a", version); err == nil && tree.Size() != version.Size {
			t.Errorf("a tree of %d bytes", tree.Size())
		}
	})
}
