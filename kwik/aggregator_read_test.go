package kwik

import (
	"io"
	"testing"
	"time"
)

// TestWhatWasReadIsCounted: bytes that Read returned are among StreamStats.Bytes at once, and the source's, too, so that
// whoever sees io.EOF sees the whole stream in the statistics.
func TestWhatWasReadIsCounted(t *testing.T) {
	const size = 20_000 // deliveries of a byte, to meet the reader at every point
	u, err := newUnits(size, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := newStreamAggregator(t.Context(), FirstAggregateStreamID, u, 1, nil, (&Config{}).populate())
	defer a.close()
	a.begin, a.tell, a.done = func() {}, func(schedAction) {}, func() {}
	a.hope = func() bool { return true }
	a.attach("p", func() time.Duration { return time.Millisecond })
	a.mu.Lock()
	src := a.sources["p"]
	a.mu.Unlock()

	if n, err := a.read(nil); n != 0 || err != nil { // asks for the stream
		t.Fatal(n, err)
	}
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		for off := range int64(size) {
			if err := a.deliver(src, 0, off, newBlock(1)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { <-delivered }()
	buf := make([]byte, 1)
	for read := int64(0); ; {
		n, err := a.read(buf)
		read += int64(n)
		if st := a.stats(); st.Bytes < read || st.Sources[0].Bytes < read {
			t.Fatalf("%d bytes were read, but the statistics say %+v", read, st)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
