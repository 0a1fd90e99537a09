package kwik

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// FuzzAggregator delivers and reads in any order and compares with a model. A byte has arrived or
// not, and the first source to deliver it is credited.
func FuzzAggregator(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 0x80, 5, 6, 7, 0x80, 0xff}, true)
	f.Add([]byte{15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0xff, 0xff, 0xff}, true)
	f.Add([]byte{0x11, 0x35, 0x5f, 0x00, 0x23}, false)
	f.Fuzz(func(t *testing.T, events []byte, ordered bool) {
		const unit, count = 100, 16
		ids := []PathID{"a", "b", "c"}
		a := newAggregation(t, unit*count-7, unit, ids...)
		defer a.checkBlocks()
		a.hoping, a.timeout, a.outage = true, time.Hour, time.Hour
		size := len(a.content)
		k := newSink(size)
		var copied chan error
		if ordered {
			a.read(nil)
		} else {
			copied = make(chan error, 1)
			begun := make(chan struct{}) // when it is closed, the consumer's mode is set
			a.attachSources = func() { close(begun) }
			go func() {
				_, err := a.copyTo(t.Context(), k, nil)
				copied <- err
			}()
			<-begun
		}
		var (
			had     [count]bool
			credit  = make(map[PathID]int64)
			wasted  int64
			counted int64
			read    int
		)
		deliver := func(id PathID, first, last int) {
			start, end := first*unit, min(last*unit, size)
			if err := a.send(id, 1, start, end, nil); err != nil {
				t.Fatal(err)
			}
			for i := first; i < last; i++ {
				n := int64(min((i+1)*unit, size) - i*unit)
				if had[i] {
					wasted += n
					continue
				}
				had[i] = true
				counted += n
				credit[id] += n
			}
		}
		consume := func(n int) {
			buf := make([]byte, n)
			if have := read < size && had[read/unit]; !have && read < size {
				return // it would wait
			}
			n, err := a.read(buf)
			if read == size {
				if n != 0 || err != io.EOF {
					t.Fatalf("at the end: %d, %v", n, err)
				}
				return
			}
			if n == 0 || err != nil || !bytes.Equal(buf[:n], a.content[read:read+n]) {
				t.Fatalf("%d bytes at %d, %v", n, read, err)
			}
			read += n
		}
		for _, e := range events {
			if ordered && e >= 0x80 {
				consume(int(e-0x80)*3 + 1)
				continue
			}
			first := int(e & 15)
			deliver(ids[int(e>>4&3)%3], first, min(count, first+1+int(e>>6&1)*3))
			st := a.stats()
			if st.Bytes != counted || st.Wasted != wasted {
				t.Fatalf("stats %+v, want %d bytes and %d wasted", st, counted, wasted)
			}
			for _, s := range st.Sources {
				if s.Bytes != credit[PathID(s.Server)] {
					t.Fatalf("%s has %d bytes, want %d", s.Server, s.Bytes, credit[PathID(s.Server)])
				}
			}
		}
		for i := range count {
			if !had[i] {
				deliver("a", i, i+1)
			}
		}
		if ordered {
			for read < size {
				consume(1000)
			}
			consume(1)
		} else if err := <-copied; err != nil || k.twice || !bytes.Equal(k.data, a.content) {
			t.Fatalf("copied: %v, twice %v", err, k.twice)
		}
		if a.dones != 1 {
			t.Fatalf("done was called %d times", a.dones)
		}
	})
}
