package serve

import (
	"context"
	"fmt"
	"kwikcp/transfer/source"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A countedDisk counts the reads of a slowDisk.
type countedDisk struct {
	slowDisk
	reads atomic.Int64
}

type countedFile struct {
	source.Object
	reads *atomic.Int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.reads.Add(1)
	return f.Object.ReadAt(p, off)
}

func (d *countedDisk) open(ctx context.Context) (source.Object, error) {
	f, err := d.slowDisk.open(ctx)
	return countedFile{f, &d.reads}, err
}

// TestHashingResumes lets a client on a bad link request a large file again and again. The file is
// hashed as if the client had stayed: no read is repeated, and none is made while it is away.
func TestHashingResumes(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		const blocks = 600
		d := &countedDisk{slowDisk: slowDisk{size: blocks << 20, delay: 100 * time.Millisecond}}
		visits := 0
		for ; visits < 1000; visits++ {
			c := x.claim(clientAt(0), "f", d.now(), d.open)
			c.await(t.Context(), 2*time.Second)
			if c.finished() {
				break
			}
			c.release()
			synctest.Wait()
			time.Sleep(time.Second) // the blocks in progress
			before := d.reads.Load()
			time.Sleep(time.Minute)
			if n := d.reads.Load() - before; n != 0 {
				t.Fatalf("%d reads while no client waits", n)
			}
		}
		synctest.Wait()
		if e := x.entry("f"); e.finishedTree() == nil || d.reads.Load() != blocks {
			t.Errorf("after %d visits: %d reads of %d blocks", visits, d.reads.Load(), blocks)
		}
		if d.opened.Load() != d.closed.Load() || x.paused.Len() != 0 || x.pausedBytes != 0 {
			t.Errorf("%d files are open, %d entries paused", d.opened.Load()-d.closed.Load(), x.paused.Len())
		}
	})
}

// TestPausedFileThatChanges checks that what was hashed of an earlier version is not used.
func TestPausedFileThatChanges(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &countedDisk{slowDisk: slowDisk{size: 20 << 20, delay: 100 * time.Millisecond}}
		c := x.claim(clientAt(0), "f", d.now(), d.open)
		time.Sleep(450 * time.Millisecond)
		c.release()
		time.Sleep(time.Second)
		synctest.Wait()
		if x.paused.Len() != 1 {
			t.Fatalf("%d entries are paused", x.paused.Len())
		}
		d.version.Add(1)
		d.reads.Store(0)
		next := x.claim(clientAt(0), "f", d.now(), d.open)
		<-next.done
		synctest.Wait()
		if next.err != nil || d.reads.Load() != 20 {
			t.Errorf("%d reads, %v", d.reads.Load(), next.err)
		}
		if x.paused.Len() != 0 || x.pausedBytes != 0 || len(x.files) != 1 {
			t.Errorf("%d entries, %d of them paused", len(x.files), x.paused.Len())
		}
	})
}

// TestAttackPausedFiles requests hundreds of large files for a moment each. Their partial trees are
// bounded.
func TestAttackPausedFiles(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &countedDisk{slowDisk: slowDisk{size: 1 << 40, delay: time.Millisecond}}
		for i := range maxPaused/pausedBytes + 30 {
			c := x.claim(clientAt(i), fmt.Sprint(i), d.now(), d.open)
			time.Sleep(1500 * time.Microsecond)
			c.release()
			time.Sleep(2 * time.Millisecond)
		}
		synctest.Wait()
		if x.paused.Len() == 0 || x.pausedBytes > maxPaused {
			t.Errorf("%d entries are paused, of %d bytes", x.paused.Len(), x.pausedBytes)
		}
		if n := x.paused.Len(); len(x.files) != n || len(x.names) != n {
			t.Errorf("%d entries are known by %d names, %d of them paused", len(x.files), len(x.names), n)
		}
		if x.large.held != 0 || len(x.large.sessions)+len(x.large.prefixes) != 0 {
			t.Errorf("%d bytes, %d sessions are counted", x.large.held, len(x.large.sessions))
		}
		if n := runtime.NumGoroutine(); n > 50 {
			t.Errorf("%d goroutines", n)
		}
	})
}

// TestSharedJobOutlivesAClient checks that a file is hashed on when one of two clients leaves, in
// any state, and that a release counts once.
func TestSharedJobOutlivesAClient(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &countedDisk{slowDisk: slowDisk{size: 20 << 20, delay: 100 * time.Millisecond}}
		first, second := x.claim(clientAt(0), "f", d.now(), d.open), x.claim(clientAt(1), "f", d.now(), d.open)
		third := x.claim(second.client, "f", d.now(), d.open)
		time.Sleep(250 * time.Millisecond)
		for range 2 {
			first.release()
			third.release()
		}
		<-second.done
		if second.err != nil || d.reads.Load() != 20 {
			t.Errorf("%d reads, %v", d.reads.Load(), second.err)
		}
		second.release()
		synctest.Wait()
		if x.entry("f").finishedTree() == nil {
			t.Error("the tree is gone")
		}
	})
}

// TestLingeringClaims checks that claims linger until their files are hashed, and at most
// maxLingering of them.
func TestLingeringClaims(t *testing.T) {
	inIndex(t, func(t *testing.T, x *index) {
		d := &countedDisk{slowDisk: slowDisk{size: 20 << 20, delay: 100 * time.Millisecond}}
		var claims []*claim
		for i := range maxLingering + 1 {
			c := x.claim(client{}, fmt.Sprint(i), d.now(), d.open)
			claims = append(claims, c)
			c.linger()
		}
		time.Sleep(time.Minute)
		for i, c := range claims {
			if want := i > 0; c.finished() != want {
				t.Errorf("file %d is hashed: %t", i, c.finished())
			}
		}
	})
}
