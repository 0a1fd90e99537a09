package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/kwik"
)

// A slowFile is a file of zeros that takes its time, and whose version may change.
type slowFile struct {
	File
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

func (d *slowDisk) open() (File, error) {
	d.opened.Add(1)
	if d.err != nil {
		return nil, d.err
	}
	return slowFile{version: &d.version, size: d.size, delay: d.delay, closed: &d.closed}, nil
}

func (d *slowDisk) now() fileVersion { return fileVersion{size: d.size, mtime: d.version.Load()} }

func inIndex(t *testing.T, f func(t *testing.T, x *index)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newIndex(ctx)
		f(t, x)
		cancel()
		x.wg.Wait()
	})
}

func TestIndexHashesOnceForAll(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 3<<20 + 5, delay: time.Second}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				e := x.lookup("f", d.now(), d.open)
				<-e.done
				if e.err != nil || e.tree.Root() != integrity.Root(blake3.Sum256(make([]byte, d.size))) || e.hashed.Load() != d.size {
					t.Errorf("error %v after %d bytes", e.err, e.hashed.Load())
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

// One file is hashed at a time, because each takes all cores.
func TestIndexHashesOneFileAtATime(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 1, delay: time.Second}
		start := time.Now()
		var last *indexEntry
		for i := range 10 {
			last = x.lookup(fmt.Sprint(i), d.now(), d.open)
		}
		x.wg.Wait()
		if took := time.Since(start); !last.finished() || took != 10*time.Second {
			t.Errorf("10 files of a second took %v", took)
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
		if _, v, ok := x.known("f"); !ok || v != d.now() || len(x.order) != 1 || x.bytes != second.cost() {
			t.Errorf("kept %d entries of %d bytes, version %+v", len(x.order), x.bytes, v)
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
		if _, _, ok := x.known("f"); ok || len(x.entries)+len(x.order) != 0 || x.bytes != 0 {
			t.Errorf("the error is kept: %d entries, %d bytes", len(x.entries), x.bytes)
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
		x.wg.Wait()
		sum := int64(0)
		for _, e := range x.order {
			sum += e.cost()
		}
		if x.bytes != sum || x.bytes > maxIndexed || x.bytes < maxIndexed/2 || len(x.entries) != len(x.order) {
			t.Errorf("%d entries in order, %d by path, count as %d bytes, are %d", len(x.order), len(x.entries), x.bytes, sum)
		}
		if _, _, ok := x.known("0"); !ok {
			t.Error("what is in use was dropped")
		}
		if _, _, ok := x.known("1"); ok {
			t.Error("what was used least was kept")
		}
	})
}

// A version may be superseded in the moment in which it is done: it must not be subtracted from the bytes that it was never
// added to.
func TestIndexCountsASupersededVersionOnce(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &slowDisk{size: 100}
		x.mu.Lock()
		e := &indexEntry{path: "f", version: d.now(), done: make(chan struct{})}
		x.entries["f"], x.order = e, append(x.order, e)
		x.wg.Go(func() { x.compute(e, d.open) })
		<-e.done // compute waits for the lock now
		x.forget(e)
		x.mu.Unlock()
		x.wg.Wait()
		if x.bytes != 0 {
			t.Errorf("an empty index counts %d bytes", x.bytes)
		}
	})
}

func TestIndexEndsWithItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newIndex(ctx)
		d := &slowDisk{size: 1 << 30, delay: time.Second}
		running, waiting := x.lookup("a", d.now(), d.open), x.lookup("b", d.now(), d.open)
		time.Sleep(10 * time.Second)
		start := time.Now()
		cancel()
		x.wg.Wait()
		if took := time.Since(start); took > 2*time.Second || !running.finished() || !waiting.finished() {
			t.Errorf("took %v", took)
		}
		if running.err == nil || waiting.err == nil {
			t.Error("a file that was not hashed to its end has no error")
		}
	})
}
