package partfile

import "sync"

const (
	// checkpointStep is the number of written bytes after which the file is made durable. It is so
	// large that a checkpoint costs little compared with the writes. It is so small that the disk
	// is never idle for long.
	checkpointStep = 8 << 20
	// maxUnsafe is how many bytes a power cut may cost. Writers wait when it is exceeded: the
	// disk is slower than the network then, and they would wait at the end.
	maxUnsafe = 2 * checkpointStep
)

// A writeback makes a file's bytes durable while more are received. So a power cut costs
// little, and the Sync at the end finds little to do: systems wait seconds before they write by
// themselves.
//
// Its goroutine starts with the first checkpoint and ends with stop, which waits for it.
type writeback struct {
	checkpoint func() error

	mu      sync.Mutex
	changed sync.Cond
	ended   chan struct{} // closed when the goroutine has ended; nil before it has started
	dirty   int64         // bytes written since the newest checkpoint began
	under   int64         // bytes that this one makes durable; 0 if it has ended
	stopped bool
	err     error // of a checkpoint: bytes written before may not be on disk, though they can be read
}

// newWriteback returns a writeback. It calls checkpoint on one goroutine, while the file is
// written to.
func newWriteback(checkpoint func() error) *writeback {
	w := &writeback{checkpoint: checkpoint}
	w.changed.L = &w.mu
	return w
}

func (w *writeback) run() {
	defer close(w.ended)
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil {
		for w.dirty < checkpointStep && !w.stopped {
			w.changed.Wait()
		}
		if w.stopped {
			return
		}
		w.under, w.dirty = w.dirty, 0
		w.mu.Unlock()
		err := w.checkpoint()
		w.mu.Lock()
		w.under, w.err = 0, err
		w.changed.Broadcast()
	}
}

// wrote counts n bytes that were written, and waits while too many are not safe. It returns the
// error of a failed checkpoint. It is safe for concurrent use, but must not be called after
// stop.
func (w *writeback) wrote(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty += int64(n)
	if w.dirty >= checkpointStep {
		if w.ended == nil {
			w.ended = make(chan struct{})
			go w.run()
		}
		w.changed.Broadcast()
	}
	for w.dirty+w.under > maxUnsafe && w.err == nil {
		w.changed.Wait()
	}
	return w.err
}

// stop ends the goroutine, waits for it, and returns the error of a failed checkpoint. It may
// be called again.
func (w *writeback) stop() error {
	w.mu.Lock()
	w.stopped = true
	ended := w.ended
	w.changed.Broadcast()
	w.mu.Unlock()
	if ended != nil {
		<-ended
	}
	return w.err
}
