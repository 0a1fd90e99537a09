package logs

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// maxQueued bounds the lines that wait for a slow reader, in bytes. Those that are being
	// written do not count, so a Queue holds twice as much at most.
	maxQueued = 256 << 10
	// patience is how long a line waits for a reader that does not read. The following ones do not
	// wait until it reads again.
	patience = 100 * time.Millisecond
)

// A Queue is a writer that does not block for long. Its output may: a full pipe, or a terminal that
// was stopped. It drops lines for which there is no room, and those that cannot be
// written. As soon as the output takes lines again, one of them has the number of the lost ones.
// Each Write must have one line. A Queue is safe for concurrent use.
//
// It has one goroutine, which ends with Close, or with the process while the output blocks.
type Queue struct {
	out  io.Writer
	wake chan struct{} // holds a value if there may be something to write

	mu      sync.Mutex // guards the fields below; not held while a line is written
	queued  []byte
	lines   int           // in queued, and those that a line in it reports as lost
	lost    int           // lines that none reports yet
	failed  bool          // the last attempt to write failed
	stuck   bool          // the output blocks: lines do not wait for it
	closed  bool          // no line is accepted any more
	drained chan struct{} // closed when everything is written; nil if it is
	report  func(lines int) []byte
}

// NewQueue returns a Queue. report returns the line about lost ones.
func NewQueue(out io.Writer, report func(lines int) []byte) *Queue {
	q := &Queue{out: out, report: report, wake: make(chan struct{}, 1)}
	go q.run()
	return q
}

// SetReport replaces the function that returns the line about lost ones.
func (q *Queue) SetReport(report func(lines int) []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.report = report
}

// IsStuck reports whether the output blocks.
func (q *Queue) IsStuck() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stuck
}

// Write implements io.Writer. It returns no error: nothing can be done about a lost line.
func (q *Queue) Write(line []byte) (int, error) {
	if len(line) == 0 {
		return 0, nil
	}
	drained := q.add(line)
	if drained == nil {
		return len(line), nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		q.mu.Lock()
		q.stuck = q.drained != nil
		q.mu.Unlock()
	}
	return len(line), nil
}

// add queues a line, or drops it. It returns the channel that tells when it is written; nil if the
// line need not wait for that.
func (q *Queue) add(line []byte) (drained chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.queued) > 0 && len(q.queued)+len(line) > maxQueued {
		q.lost++
		return nil
	}
	q.tell()
	q.queued = append(q.queued, line...)
	q.lines++
	if q.drained == nil {
		q.drained = make(chan struct{})
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	if q.stuck {
		return nil
	}
	return q.drained
}

// tell queues the line about lost ones, if there are any. The caller holds the lock.
func (q *Queue) tell() {
	if q.lost > 0 {
		q.queued = append(q.queued, q.report(q.lost)...)
		q.lines, q.lost = q.lines+q.lost, 0
	}
}

func (q *Queue) run() {
	for range q.wake {
		for {
			text, lines := q.take()
			if text == nil {
				break
			}
			_, err := q.out.Write(text)
			q.wrote(lines, err)
		}
	}
}

// take returns what is to be written, nil if there is nothing.
func (q *Queue) take() (text []byte, lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queued) == 0 && !q.failed {
		q.tell()
	}
	if len(q.queued) == 0 {
		q.stuck = false
		if q.drained != nil {
			close(q.drained)
			q.drained = nil
		}
		return nil, 0
	}
	text, lines = q.queued, q.lines
	q.queued, q.lines = nil, 0
	return text, lines
}

// wrote notes the result of a write. Of lines that were written in part it counts all as lost.
func (q *Queue) wrote(lines int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failed = err != nil; q.failed {
		q.lost += lines
	}
}

// Close waits until everything is written, and until grace after the end of ctx at most. Lines that
// are written afterwards are dropped.
func (q *Queue) Close(ctx context.Context, grace time.Duration) {
	q.mu.Lock()
	drained, wasClosed := q.drained, q.closed
	q.closed = true
	q.mu.Unlock()
	if wasClosed {
		return
	}
	defer close(q.wake)
	if drained == nil {
		return
	}
	select {
	case <-drained:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
}
