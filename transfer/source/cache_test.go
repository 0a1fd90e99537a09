package source

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/transfer/disk"
)

// TestReadOnce reads objects in order with several readers at once. With two blocks for each each
// byte is fetched once.
func TestReadOnce(t *testing.T) {
	for _, test := range []struct {
		readers int
		blocks  float64
	}{{1, 2}, {1, 3}, {1, 2.5}, {2, 4}, {3, 6}, {4, 9}, {1, 64}} {
		t.Run(fmt.Sprintf("%d-%v", test.readers, test.blocks), func(t *testing.T) {
			s := newFakeStore()
			root := newFakeRoot(t, s, test.blocks)
			want := pattern(9*testBlock+1234, 0)
			var wg sync.WaitGroup
			for i := range test.readers {
				name := fmt.Sprint("f", i)
				s.put(name, want)
				wg.Go(func() {
					o, err := root.Open(t.Context(), name)
					if err != nil {
						t.Error(err)
						return
					}
					defer o.Close()
					if err := readTest(o, want, 5000); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for i := range test.readers {
				if got := s.bytesOf(fmt.Sprint("f", i)); got != int64(len(want)) {
					t.Errorf("%.3f bytes were fetched per byte", float64(got)/float64(len(want)))
				}
			}
		})
	}
}

// TestReadTogether reads one object with several readers at once.
func TestReadTogether(t *testing.T) {
	s := newFakeStore()
	root := newFakeRoot(t, s, 32)
	want := pattern(8*testBlock, 1)
	s.put("f", want)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			o, err := root.Open(t.Context(), "f")
			if err != nil {
				t.Error(err)
				return
			}
			defer o.Close()
			if err := readTest(o, want, 1000); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.bytesOf("f"); got != int64(len(want)) {
		t.Errorf("%d bytes were fetched of %d", got, len(want))
	}
	if n := s.count("get") + s.count("stat"); n != 8 {
		t.Errorf("%d requests for 8 blocks", n)
	}
}

// A block whose bytes have all arrived is kept, although the end of its answer is not processed yet
// when its only reader goes on.
func TestArrivedBlockIsKept(t *testing.T) {
	s := newFakeStore()
	data := pattern(3*testBlock, 1)
	s.put("a", data)
	processed := make(chan struct{})
	s.closed = func() { <-processed }
	root := newFakeRoot(t, s, 8)
	defer close(processed)
	for range 2 {
		o := openTest(t, root, "a")
		if err := readTest(o, data, testBlock); err != nil {
			t.Error(err)
		}
		o.Close()
	}
	if sent := s.bytesOf("a"); sent != int64(len(data)) {
		t.Errorf("%d bytes were fetched for %d", sent, len(data))
	}
}

// TestOpenAgain opens an object for its description, and again to read it, while its first block
// arrives. The block is fetched once.
func TestOpenAgain(t *testing.T) {
	s := newFakeStore()
	s.broken = func(_ string, start int64) int64 { // the rest follows after a pause
		if start == 0 {
			return 1000
		}
		return -1
	}
	root := newFakeRoot(t, s, 4)
	want := pattern(testBlock, 1)
	s.put("f", want)
	described, err := root.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	described.Close()
	o, err := root.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := readTest(o, want, 1000); err != nil {
		t.Error(err)
	}
	if got := s.bytesOf("f"); got != int64(len(want)) {
		t.Errorf("%d bytes were fetched of %d", got, len(want))
	}
}

// TestHashBeside reads an object with one reader in front of another by any distance, with a small
// cache. Each byte is fetched at most once for each reader. It is fetched once for both at small
// distances. Then the blocks between the readers, and the two that they read from, fit half of the
// cache; read-ahead has the other half.
func TestHashBeside(t *testing.T) {
	for _, distance := range []int{0, 1, 3, 9} {
		s := newFakeStore()
		root := newFakeRoot(t, s, 8)
		want := pattern(20*testBlock, 2)
		s.put("f", want)
		a, b := openTest(t, root, "f"), openTest(t, root, "f")
		buf := make([]byte, testBlock/4)
		for i := 0; i < 4*(20+distance); i++ {
			if i < 80 {
				if _, err := a.ReadAt(buf, int64(i*len(buf))); err != nil {
					t.Fatal(err)
				}
			}
			if j := i - 4*distance; j >= 0 {
				if _, err := b.ReadAt(buf, int64(j*len(buf))); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.Close()
		b.Close()
		most := int64(len(want))
		if distance > 2 {
			most *= 2
		}
		if got := s.bytesOf("f"); got > most {
			t.Errorf("distance %d: %.2f bytes were fetched per byte", distance, float64(got)/float64(len(want)))
		}
	}
}

func TestSmallObjectIsOneRequest(t *testing.T) {
	s := newFakeStore()
	root := newFakeRoot(t, s, 8)
	want := pattern(16<<10, 3)
	s.put("f", want)
	s.put("empty", nil)
	for range 3 {
		o := openTest(t, root, "f")
		if err := readTest(o, want, 5000); err != nil {
			t.Error(err)
		}
		o.Close()
	}
	if n := s.count("get") + s.count("stat") + s.count("list"); n != 1 {
		t.Errorf("%d requests", n)
	}
	o := openTest(t, root, "empty")
	defer o.Close()
	if err := readTest(o, nil, 1); err != nil {
		t.Error(err)
	}
	if info, err := o.Stat(); err != nil || info.Size() != 0 {
		t.Error(info, err)
	}
}

// TestReadAheadIsParallel reads an object of a store that is 50 ms away in order. Time is
// simulated.
func TestReadAheadIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.delay = 50 * time.Millisecond
		root := newFakeRoot(t, s, 64)
		want := pattern(64*testBlock, 4)
		s.put("f", want)
		start := time.Now()
		o := openTest(t, root, "f")
		defer o.Close()
		if err := readTest(o, want, 16<<10); err != nil {
			t.Error(err)
		}
		if s.most < maxDepth || s.most > maxDepth+1 {
			t.Errorf("%d requests at once", s.most)
		}
		if took := time.Since(start); took > 700*time.Millisecond { // in series it takes 3.2 s
			t.Errorf("it took %v", took)
		}
	})
}

// TestReadAheadStopsWhereItDoesNotPay reads through a line whose rate all requests share.
func TestReadAheadStopsWhereItDoesNotPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.delay = time.Millisecond
		line := make(chan struct{}, 1)
		s.broken = func(string, int64) int64 {
			line <- struct{}{}
			time.Sleep(40 * time.Millisecond)
			<-line
			return -1
		}
		root := newFakeRoot(t, s, 64)
		want := pattern(40*testBlock, 4)
		s.put("f", want)
		o := openTest(t, root, "f")
		defer o.Close()
		if err := readTest(o, want, 16<<10); err != nil {
			t.Error(err)
		}
		if s.most > 9 {
			t.Errorf("%d requests at once", s.most)
		}
	})
}

// TestBrokenAnswers cuts answers in the middle. The bytes that arrived are not fetched again.
func TestBrokenAnswers(t *testing.T) {
	s := newFakeStore()
	s.broken = func(_ string, start int64) int64 {
		if start%testBlock == 0 {
			return 16 << 10
		}
		return -1
	}
	root := newFakeRoot(t, s, 8)
	want := pattern(3*testBlock, 5)
	s.put("f", want)
	o := openTest(t, root, "f")
	defer o.Close()
	if err := readTest(o, want, 16<<10); err != nil {
		t.Error(err)
	}
	if got := s.bytesOf("f"); got != int64(len(want)) {
		t.Errorf("%d bytes were fetched of %d", got, len(want))
	}
}

// TestAnswersThatNeverContinue checks that a read fails after some attempts, and the next succeeds.
func TestAnswersThatNeverContinue(t *testing.T) {
	s := newFakeStore()
	isBroken := true
	s.broken = func(_ string, start int64) int64 {
		if start > 0 && isBroken {
			return 0
		}
		return -1
	}
	root := newFakeRoot(t, s, 8)
	want := pattern(2*testBlock, 6)
	s.put("f", want)
	o := openTest(t, root, "f")
	defer o.Close()
	var gone *Unavailable
	if err := readTest(o, want, 16<<10); !errors.As(err, &gone) {
		t.Errorf("%v", err)
	}
	isBroken = false
	if err := readTest(o, want, 16<<10); err != nil {
		t.Error(err)
	}
}

// TestReplacedObject replaces an object while it is read. The old blocks stay, and the others are
// missing: no read returns the new content.
func TestReplacedObject(t *testing.T) {
	s := newFakeStore()
	root := newFakeRoot(t, s, 8)
	old, other := pattern(6*testBlock, 7), pattern(6*testBlock, 8)
	s.put("f", old)
	o := openTest(t, root, "f")
	defer o.Close()
	if err := readTest(o, old[:testBlock], 16<<10); err != nil {
		t.Fatal(err)
	}
	s.put("f", other)
	if _, err := o.ReadAt(make([]byte, 100), 5*testBlock); !errors.Is(err, disk.ErrChanged) {
		t.Errorf("%v", err)
	}
	if err := readTest(o, old[:testBlock], 16<<10); err != nil {
		t.Error(err)
	}
	next := openTest(t, root, "f")
	defer next.Close()
	if err := readTest(next, other, 16<<10); err != nil {
		t.Error(err)
	}
}

// TestCloseEndsReads closes an object whose store does not answer.
func TestCloseEndsReads(t *testing.T) { synctest.Test(t, testCloseEndsReads) }

func testCloseEndsReads(t *testing.T) {
	s := newFakeStore()
	root := newFakeRoot(t, s, 8)
	s.put("f", pattern(3*testBlock, 9))
	o := openTest(t, root, "f")
	if _, err := o.ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.delay = time.Hour
	s.mu.Unlock()
	done := make(chan error)
	go func() {
		_, err := o.ReadAt(make([]byte, 100), 2*testBlock)
		done <- err
	}()
	synctest.Wait()
	o.Close()
	if err := <-done; err == nil {
		t.Error("the read succeeded")
	}
	synctest.Wait() // the fetch ends, because no reader wants it
	if c := root.(remoteRoot).root.cache; c.table.used > testBlock {
		t.Errorf("%d bytes are used", c.table.used)
	}
}

// TestManyReadersOfSmallCache has more readers than blocks. All succeed.
func TestManyReadersOfSmallCache(t *testing.T) {
	s := newFakeStore()
	root := newFakeRoot(t, s, 2)
	want := pattern(2*testBlock+100, 10)
	var wg sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprint(i)
		s.put(name, want)
		wg.Go(func() {
			o, err := root.Open(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			defer o.Close()
			if err := readTest(o, want, 16<<10); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if c := root.(remoteRoot).root.cache; c.table.used+int64(len(c.free))*testBlock > c.table.limit {
		t.Errorf("%d bytes and %d buffers are used of %d", c.table.used, len(c.free), c.table.limit)
	}
}
