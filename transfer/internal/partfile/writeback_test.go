package partfile

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// slowCheckpoints is a disk that takes a second for each checkpoint and fails at one of them.
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

// TestWriteback checks that a checkpoint follows each step. One checkpoint covers all bytes
// that arrived during the one before it. Writers wait when too many bytes are not durable.
func TestWriteback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &slowCheckpoints{}
		w := newWriteback(disk.checkpoint)
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

// TestWritebackThatFails checks that writers and the end of the transfer get the error of a
// checkpoint.
func TestWritebackThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &slowCheckpoints{fails: 2}
		w := newWriteback(disk.checkpoint)
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
