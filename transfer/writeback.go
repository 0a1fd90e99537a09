package transfer

import "sync/atomic"

// writebackStep is after how many bytes written the system is asked to begin to put them on disk: so many, that a call is rare
// and that what goes out together is large; so few, that the disk is never idle for long.
const writebackStep = 16 << 20

// A writeback has a file's dirty bytes written to disk while more are received, so that the Sync at the end finds little to
// do. Without it a fast transfer leaves all of the file to the end, for systems wait seconds before they write by themselves.
//
// It has one goroutine, which ends with stop; stop waits for it.
type writeback struct {
	file    interface{ StartSync() }
	written atomic.Int64  // bytes
	due     chan struct{} // holds one token: what is due while the goroutine is busy is done in one go
	ended   chan struct{}
}

func startWriteback(f interface{ StartSync() }) *writeback {
	due := make(chan struct{}, 1)
	w := &writeback{file: f, due: due, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for range due {
			w.file.StartSync()
		}
	}()
	return w
}

// wrote counts n bytes that were written. It never waits. It may be called by several goroutines at once, but not after stop.
func (w *writeback) wrote(n int) {
	after := w.written.Add(int64(n))
	if after/writebackStep == (after-int64(n))/writebackStep {
		return
	}
	select {
	case w.due <- struct{}{}:
	default:
	}
}

// stop ends the goroutine and waits for it: the file is not used by it any more. It may be called again.
func (w *writeback) stop() {
	if w.due != nil {
		close(w.due)
		w.due = nil
	}
	<-w.ended
}
