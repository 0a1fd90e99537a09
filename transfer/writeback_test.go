package transfer

import (
	"errors"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A slow disk takes a second for each checkpoint, and fails after some of them.
type slowCheckpoints struct {
	made  atomic.Int64 // the test reads it while the next one may be made
	fails int64
}

func (d *slowCheckpoints) checkpoint() error {
	time.Sleep(time.Second)
	if d.made.Add(1) == d.fails {
		return syscall.EIO
	}
	return nil
}

// A checkpoint comes after each step, one covers all that came while the one before it was made, and writers wait when too much is not safe.
func TestWriteback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &slowCheckpoints{}
		w := startWriteback(disk.checkpoint)
		start := time.Now()
		w.wrote(checkpointStep - 1)
		time.Sleep(10 * time.Second)
		if disk.made.Load() != 0 {
			t.Error("a checkpoint before there is enough to write")
		}
		w.wrote(1)
		synctest.Wait()
		w.wrote(checkpointStep) // as much as may be not safe
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the writer waited %v", took-10*time.Second)
		}
		w.wrote(1)
		if took := time.Since(start); took != 11*time.Second || disk.made.Load() != 1 {
			t.Errorf("after %v and %d checkpoints the writer goes on", took, disk.made.Load())
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { w.wrote(checkpointStep) })
		}
		wg.Wait()
		if err := w.stop(); err != nil || w.dirty+w.under > maxUnsafe {
			t.Errorf("%v, %d bytes are not safe", err, w.dirty+w.under)
		}
		w.stop()
	})
}

// What goes wrong with a checkpoint is told to whoever writes, and in the end.
func TestWritebackThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &slowCheckpoints{fails: 2}
		w := startWriteback(disk.checkpoint)
		var err error
		for range 10 {
			if err = w.wrote(checkpointStep); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.EIO) || !errors.Is(w.stop(), syscall.EIO) || disk.made.Load() != 2 {
			t.Errorf("%v after %d checkpoints", err, disk.made.Load())
		}
	})
}

// A part file whose checkpoint failed is not in place, and nobody goes on with it: what can be read of it may not be on disk.
func TestCheckpointThatFails(t *testing.T) {
	for _, op := range []string{"checkpoint", "syncdir"} {
		target := filepath.Join(t.TempDir(), "out")
		disk := &faults{only: []string{op}, fail: 1, with: syscall.EIO}
		p, err := openPart(disk.opener(), target, false)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err = p.WriteAt(make([]byte, 1<<20), 0); err != nil {
				break
			}
		}
		wantKind(t, err, KindLocal, target)
		if p.leave() {
			t.Error("it is kept")
		}
		wantNames(t, filepath.Dir(target))
	}
}

// createFile returns a new, empty file in a directory of its own, and its name.
func createFile(t *testing.T) (name string, f disk.File) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "f")
	d, err := disk.OpenDir(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = d.Create("f"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		d.Close()
	})
	return name, f
}

// Checkpoint leaves a file of the operating system as it is, and fails for one that is closed.
func TestCheckpoint(t *testing.T) {
	name, f := createFile(t)
	if _, err := f.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Checkpoint(); err != nil {
		t.Error(err)
	}
	f.Close()
	if info, err := os.Stat(name); err != nil || info.Size() != 2<<20 {
		t.Errorf("%v, %v", info, err)
	}
}
