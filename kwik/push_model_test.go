package kwik

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"
)

// A pushModel is the reference of FuzzPushed. It holds the writer of each byte and the reader's
// position.
type pushModel struct {
	strategy ConflictResolutionStrategy
	owner    []byte // 0 while it is missing; the source's letter then
	primary  []bool // the primary has written it, whether that counted or not
	read     int
	wasted   int64
	conflict int
}

// deliver delivers the bytes that a source wrote and reports whether the model accepts them.
func (m *pushModel) deliver(source byte, start, end int) bool {
	overlap := 0
	for i := start; i < end; i++ {
		if m.owner[i] != 0 {
			overlap++
		}
	}
	if m.wasted += int64(overlap); overlap > 0 {
		m.conflict++
		if m.strategy == ConflictResolutionReject {
			m.wasted += int64(end - start - overlap)
			return false
		}
	}
	for i := start; i < end; i++ {
		wins := m.strategy == ConflictResolutionLastWins || (m.strategy == ConflictResolutionPrimaryWins && source == 'p' && !m.primary[i])
		if m.owner[i] == 0 || (wins && i >= m.read) {
			m.owner[i] = source
		}
		m.primary[i] = m.primary[i] || source == 'p'
	}
	return true
}

// FuzzPushed compares pushed streams with the model. Three sources push different bytes in any
// order, size and overlap. The consumer is ordered or unordered, and each conflict strategy is
// used.
func FuzzPushed(f *testing.F) {
	for strategy := range byte(4) {
		f.Add([]byte{0x00, 0x03, 0x41, 0x02, 0x82, 0x0f, 0xc1, 0x20, 0x01, 0x09, 0xff, 0xff}, strategy, true)
		f.Add([]byte{0x4f, 0x0f, 0x00, 0x0f, 0x87, 0x03, 0x46, 0x05, 0x00, 0x1f}, strategy, false)
	}
	f.Fuzz(func(t *testing.T, events []byte, strategy byte, ordered bool) {
		const step, count = 4111, 32 // so that there are small runs, large ones, and pages
		const size = step*count - 7
		letters, ids := []byte("pab"), []PathID{primaryPathID, "a", "b"}
		a := newPushAggregation(t, size, ConflictResolutionStrategy(strategy%4), ids...)
		defer a.checkBlocks()
		m := &pushModel{strategy: a.offsets.strategy, owner: make([]byte, size), primary: make([]bool, size)}
		k := &pushSink{data: make([]byte, size)}
		copied := make(chan error, 1)
		if ordered {
			a.read(nil)
		} else {
			begun := make(chan struct{}) // when it is closed, the consumer's mode is set
			a.attachSources = func() { close(begun) }
			go func() {
				_, err := a.copyTo(t.Context(), k, nil)
				copied <- err
			}()
			<-begun
		}
		var copyError error
		wait := sync.OnceFunc(func() { copyError = <-copied })
		deliver := func(source, start, end int) {
			b := newBlock(end - start)
			for i := range b.data {
				b.data[i] = letters[source]
			}
			done := !ordered && a.sched.Done()
			if done {
				wait() // until CopyTo has returned the bytes may still change, and then not any more
			}
			err := a.deliver(a.source(ids[source]), 1, int64(start), b)
			if done {
				return
			}
			if taken := m.deliver(letters[source], start, end); taken != (err == nil) || (err != nil && !errors.Is(err, ErrStreamMappingConflict)) {
				t.Fatalf("%c pushes [%d, %d): %v, taken %v", letters[source], start, end, err, taken)
			}
			if st := a.stats(); st.Wasted != m.wasted || st.Conflicts != m.conflict || st.Bytes != int64(size-bytes.Count(m.owner, []byte{0})) {
				t.Fatalf("%+v, want %d wasted in %d conflicts", st, m.wasted, m.conflict)
			}
		}
		consume := func(n int) {
			if m.read < size && m.owner[m.read] == 0 {
				return // it would wait
			}
			p := make([]byte, n)
			n, err := a.read(p)
			switch {
			case m.read == size && (n != 0 || err != io.EOF):
				t.Fatalf("at the end: %d, %v", n, err)
			case m.read < size && (n == 0 || err != nil):
				t.Fatalf("at %d: %d, %v", m.read, n, err)
			case !bytes.Equal(p[:n], m.owner[m.read:m.read+n]):
				t.Fatalf("at %d: read %.20q, want %.20q", m.read, p[:n], m.owner[m.read:])
			}
			m.read += n
		}
		for ; len(events) >= 2; events = events[2:] {
			source, first, n := int(events[0]>>6), int(events[0]&31), int(events[1]&31)+1
			if source == 3 {
				if ordered {
					consume(int(events[1])*500 + 1)
				}
				continue
			}
			start := first*step - int(events[1]>>5)*500 // off the steps, too
			start = max(0, start)
			deliver(source, start, min(start+n*n*16, size))
		}
		for i := range size { // the rest
			if m.owner[i] == 0 {
				end := i + 1
				for end < size && m.owner[end] == 0 && end-i < dataFrameSize {
					end++
				}
				deliver(1, i, end)
			}
		}
		if ordered {
			for m.read < size {
				consume(100_000)
			}
			consume(1)
			return
		}
		if wait(); copyError != nil || !bytes.Equal(k.data, m.owner) {
			t.Fatalf("CopyTo: %v, or the wrong bytes", copyError)
		}
	})
}

// newPushAggregation is newAggregation for a pushed stream.
func newPushAggregation(t testing.TB, size int, strategy ConflictResolutionStrategy, ids ...PathID) *aggregation {
	a := newAggregation(t, size, 1)
	a.pushed, a.offsets.strategy = true, strategy
	for _, id := range ids {
		a.attach(id, func() time.Duration { return 0 })
	}
	return a
}

// A pushSink is the destination of an unordered consumer. Bytes may be written more than once.
type pushSink struct{ data []byte }

func (k *pushSink) WriteAt(p []byte, off int64) (int, error) { return copy(k.data[off:], p), nil }
