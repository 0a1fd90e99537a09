package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"
)

// A slowFile is a file of zeros whose reads are slow and whose version may change.
type slowFile struct {
	disk.File
	version *atomic.Int64
	size    int64
	delay   time.Duration
	closed  *atomic.Int64
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(f.delay)
	clear(p)
	if n := f.size - off; n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

func (f slowFile) Stat() (fs.FileInfo, error) {
	return statOf{size: f.size, mtime: time.Unix(0, f.version.Load())}, nil
}

func (f slowFile) Close() error {
	f.closed.Add(1)
	return nil
}

type statOf struct {
	fs.FileInfo
	size  int64
	mtime time.Time
}

func (s statOf) Size() int64        { return s.size }
func (s statOf) ModTime() time.Time { return s.mtime }
func (s statOf) Sys() any           { return nil }

// A slowDisk opens slow files and counts.
type slowDisk struct {
	version, opened, closed atomic.Int64
	size                    int64
	delay                   time.Duration
	err                     error
}

func (d *slowDisk) open(context.Context) (source.Object, error) {
	d.opened.Add(1)
	if d.err != nil {
		return nil, d.err
	}
	return slowFile{version: &d.version, size: d.size, delay: d.delay, closed: &d.closed}, nil
}

func (d *slowDisk) now() disk.Version { return disk.Version{Size: d.size, MTime: d.version.Load()} }

func inIndex(t *testing.T, f func(t *testing.T, x *index)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newIndex(ctx, slog.New(slog.DiscardHandler))
		f(t, x)
		cancel()
		x.jobs.Wait()
	})
}

// lookup claims an entry for a client that never leaves.
func (x *index) lookup(
	path string, version disk.Version, open func(context.Context) (source.Object, error),
) *indexEntry {
	return x.claim(client{}, path, version, open).indexEntry
}

func TestIndexHashesOnceForAll(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 3<<20 + 5, delay: time.Second}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				e := x.lookup("f", d.now(), d.open)
				<-e.done
				want := integrity.Root(blake3.Sum256(make([]byte, d.size)))
				if e.err != nil || e.tree.Root() != want || e.partial.end != d.size {
					t.Errorf("error %v after %d bytes", e.err, e.partial.end)
				}
			})
		}
		wg.Wait()
		e := x.lookup("f", d.now(), d.open)
		if !e.finished() || d.opened.Load() != 1 || d.closed.Load() != 1 {
			t.Errorf("opened %d times and closed %d times for 101 clients", d.opened.Load(), d.closed.Load())
		}
	})
}

// TestIndexHashesAFewFilesAtATime checks that the index hashes a few files at a time. Small
// ones do not wait for large ones.
func TestIndexHashesAFewFilesAtATime(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		small, large := &slowDisk{size: 1, delay: time.Second}, &slowDisk{size: smallFile + 1, delay: time.Hour}
		for i := range 2 * hashedAtOnce {
			x.lookup(fmt.Sprint("large ", i), large.now(), large.open)
		}
		start := time.Now()
		var entries []*indexEntry
		for i := range 3 * hashedAtOnce {
			entries = append(entries, x.lookup(fmt.Sprint(i), small.now(), small.open))
		}
		for _, e := range entries {
			<-e.done
		}
		if took := time.Since(start); took != 3*time.Second || large.opened.Load() != hashedAtOnce {
			t.Errorf("%d files of a second took %v, %d large ones are open", len(entries), took, large.opened.Load())
		}
	})
}

func TestIndexKnowsVersions(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 100}
		first := x.lookup("f", d.now(), d.open)
		<-first.done
		d.version.Add(1)
		second := x.lookup("f", d.now(), d.open)
		<-second.done
		synctest.Wait()
		if first == second || second.err != nil {
			t.Error("the second version was not hashed:", second.err)
		}
		if e := x.entry("f"); e.finishedTree() == nil || e.version != d.now() {
			t.Errorf("the entry is of version %+v, want %+v", e.version, d.now())
		}
		if x.order.Len() != 1 || x.bytes != second.memory() {
			t.Errorf("the index has %d entries of %d bytes, want 1 of %d", x.order.Len(), x.bytes, second.memory())
		}
	})
}

func TestIndexRefusesAFileThatChangesMeanwhile(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 8 << 20, delay: time.Second}
		e := x.lookup("f", d.now(), d.open)
		time.Sleep(1500 * time.Millisecond)
		d.version.Add(1)
		<-e.done
		if !errors.Is(e.err, kwik.ErrContentChanged) || e.tree != nil {
			t.Errorf("hashed a mixture: %v, %v", e.tree, e.err)
		}
		synctest.Wait()
		again := x.lookup("f", d.now(), d.open)
		if <-again.done; again.err != nil {
			t.Errorf("the next request: %v", again.err)
		}
	})
}

func TestIndexTriesAgainAfterAnError(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 100, err: syscall.EIO}
		e := x.lookup("f", d.now(), d.open)
		if <-e.done; !errors.Is(e.err, syscall.EIO) {
			t.Fatal(e.err)
		}
		synctest.Wait()
		if x.entry("f") != nil || len(x.files)+len(x.names)+x.order.Len() != 0 || x.bytes != 0 {
			t.Errorf("the error is kept: %d entries, %d bytes", len(x.files), x.bytes)
		}
		d.err = nil
		again := x.lookup("f", d.now(), d.open)
		if <-again.done; again.err != nil {
			t.Errorf("the next request: %v", again.err)
		}
	})
}

func TestIndexIsBounded(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 10}
		const files = 3 * maxIndexed / 1024 / 2
		for i := range files {
			e := x.lookup(fmt.Sprint(i), d.now(), d.open)
			<-e.done
			if i%500 == 0 {
				x.lookup("0", d.now(), d.open) // in use all the time
			}
		}
		x.jobs.Wait()
		sum := int64(0)
		for e := x.order.Front(); e != nil; e = e.Next() {
			sum += e.Value.(*indexEntry).memory()
		}
		if x.bytes != sum {
			t.Errorf("the index counts %d bytes, its entries have %d", x.bytes, sum)
		}
		if x.bytes > maxIndexed || x.bytes < maxIndexed/2 {
			t.Errorf("the index has %d bytes, the bound is %d", x.bytes, maxIndexed)
		}
		if len(x.files) != x.order.Len() || len(x.names) != x.order.Len() {
			t.Errorf("%d entries in order, %d by file, %d by path", x.order.Len(), len(x.files), len(x.names))
		}
		if x.entry("0").finishedTree() == nil {
			t.Error("an entry in use was dropped")
		}
		if x.entry("1") != nil {
			t.Error("the least recently used entry is still there")
		}
	})
}

// TestIndexCountsASupersededVersionOnce supersedes a version while it is hashed. Its cost was never
// added, so it must not be subtracted.
func TestIndexCountsASupersededVersionOnce(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 100, delay: time.Second}
		old := x.lookup("f", d.now(), d.open)
		d.version.Add(1)
		e := x.lookup("f", d.now(), d.open)
		<-old.done
		<-e.done
		x.jobs.Wait()
		if x.bytes != e.memory() || x.order.Len() != 1 || len(x.files) != 1 {
			t.Errorf("%d entries of %d bytes, want one of %d", x.order.Len(), x.bytes, e.memory())
		}
		x.mu.Lock()
		x.remove(e)
		x.mu.Unlock()
		if x.bytes != 0 || len(x.files)+len(x.names) != 0 {
			t.Errorf("an empty index counts %d bytes", x.bytes)
		}
	})
}

func TestIndexEndsWithItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newIndex(ctx, slog.New(slog.DiscardHandler))
		d := &slowDisk{size: 1 << 30, delay: time.Second}
		running, waiting := x.lookup("a", d.now(), d.open), x.lookup("b", d.now(), d.open)
		time.Sleep(10 * time.Second)
		start := time.Now()
		cancel()
		x.jobs.Wait()
		if took := time.Since(start); took > 2*time.Second || !running.finished() || !waiting.finished() {
			t.Errorf("took %v", took)
		}
		if running.err == nil || waiting.err == nil {
			t.Error("a file that was not hashed to its end has no error")
		}
	})
}

// A newFile is a file that was changed just now and takes three seconds to hash.
type newFile struct {
	disk.File
	mtime time.Time
}

func (f newFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(1500 * time.Millisecond) // two reads
	return len(p), nil
}
func (f newFile) Stat() (fs.FileInfo, error) { return statOf{size: 4 << 20, mtime: f.mtime}, nil }
func (f newFile) Close() error               { return nil }

// TestTreeOfANewFileIsNotStored checks that the tree of a file that changed just before hashing
// is not stored, even if hashing took long. Where file times are coarse, the file may have
// changed again with the same times.
func TestTreeOfANewFileIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := OpenTreeStore(filepath.Join(t.TempDir(), "trees.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		x := newIndex(t.Context(), slog.New(slog.DiscardHandler))
		x.store = store
		f := newFile{mtime: time.Now()}
		info, _ := f.Stat()
		e := x.lookup("f", disk.VersionOf(info), func(context.Context) (source.Object, error) { return f, nil })
		<-e.done
		x.jobs.Wait()
		if e.err != nil {
			t.Fatal(e.err)
		}
		if store.get("f", disk.VersionOf(info)) != nil {
			t.Error("the tree is in the store")
		}
	})
}
