package transfer

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"kwikcp/internal/sysmem"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// The tests of this file are attacks of a primary on the memory and the time of its client. Each
// asserts a bound.

// heapInUse returns the bytes that are on the heap.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// withTrees sets the budget of the process for trees, and checks at the end that nothing is held.
func withTrees(t *testing.T, limit int64) *treeBudget {
	before := processTrees
	processTrees = &treeBudget{limit: limit}
	budget := processTrees
	t.Cleanup(func() {
		processTrees = before
		if budget.held != 0 {
			t.Errorf("%d bytes of trees are held in the end", budget.held)
		}
	})
	return budget
}

// TestAttackSmallGroups checks that a server cannot make a client hold the chaining values of
// smaller groups than a file's size allows. A file of 32 GiB in groups of 1 KiB took 3.6 GB with
// get and 5.3 GB with get -r.
func TestAttackSmallGroups(t *testing.T) {
	const size = 32 << 30
	for name, change := range map[string]func(*GetOptions){
		"get":   func(*GetOptions) {},
		"range": func(o *GetOptions) { o.Range = &ByteRange{First: 0, Last: 1 << 40} },
		"cold":  func(o *GetOptions) { o.Output, o.Target = nil, filepath.Join(t.TempDir(), "f") },
	} {
		for _, group := range []uint32{0, 5, 8, 10} {
			t.Run(fmt.Sprint(name, " ", group), func(t *testing.T) {
				budget := withTrees(t, 1<<20)
				onWire(t, func(w *testNet) {
					w.hostile(openTheFile, func(p *peer) {
						m, _ := honest()
						m.Size, m.Group = size, group
						if name == "cold" {
							m.Root = nil
						}
						p.Manifest(m)
						for range 100 { // would go on for ever
							p.Tree(make([]byte, wire.TreePart))
							if budget.held > 0 {
								p.Error("values were taken")
							}
						}
					})
					_, took, err := w.get(change)
					wantKind(w.T, err, KindOther, "no sense")
					if took > time.Second {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
	t.Run("batch", func(t *testing.T) {
		withTrees(t, 1<<20)
		onWire(t, func(w *testNet) {
			_, _, err := w.lies(&liar{entries: []*transferpb.Entry{fileEntry("a")}, pack: func(p *liarPeer) {
				p.file(func(f *transferpb.BatchFile) { f.GetManifest().Size, f.GetManifest().Group = size, 0 })
			}}, t.TempDir())
			wantKind(w.T, err, KindOther, "no sense")
		})
	})
}

// TestAttackTrees checks that all trees of a process together have one limit, and that a tree
// costs nothing before its values arrive.
func TestAttackTrees(t *testing.T) {
	const limit = 1 << 20
	manifest := func(p *peer) {
		m, _ := honest()
		m.Size, m.Group = maxFileSize, 10 // 1 GiB of values
		p.Manifest(m)
	}
	t.Run("claimed", func(t *testing.T) {
		withTrees(t, limit)
		onWire(t, func(w *testNet) {
			before, grown := heapInUse(), int64(0)
			w.hostile(openTheFile, func(p *peer) {
				manifest(p)
				time.Sleep(time.Second)
				grown = heapInUse() - before
				p.Stream.Close()
			})
			_, _, err := w.get()
			wantKind(w.T, err, KindNetwork, "EOF")
			t.Logf("the heap grew by %d KiB", grown>>10)
			if grown > 4<<20 {
				t.Errorf("a claim of %d bytes took %d", int64(maxFileSize), grown)
			}
		})
	})
	t.Run("sent", func(t *testing.T) {
		withTrees(t, limit)
		onWire(t, func(w *testNet) {
			w.hostile(openTheFile, func(p *peer) {
				manifest(p)
				for range 100 {
					p.Tree(make([]byte, wire.TreePart))
				}
			})
			_, _, err := w.get()
			wantKind(w.T, err, KindLocal, "memory")
		})
	})
	t.Run("batches", func(t *testing.T) {
		budget := withTrees(t, limit)
		onWire(t, func(w *testNet) {
			_, _, err := w.lies(&liar{entries: []*transferpb.Entry{fileEntry("a")}, pack: func(p *liarPeer) {
				p.file(func(f *transferpb.BatchFile) { f.GetManifest().Size, f.GetManifest().Group = maxFileSize, 10 })
				for range 100 {
					p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Tree{
						Tree: &transferpb.Tree{ChainingValues: make([]byte, wire.TreePart)},
					}})
				}
			}}, t.TempDir())
			wantKind(w.T, err, KindLocal, "memory")
		})
		if budget.held != 0 {
			t.Errorf("%d bytes are held", budget.held)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		budget := withTrees(t, limit)
		var shares [4]treeShare
		failed := 0
		for i := range limit / 1024 * 2 {
			if shares[i%4].take(1024) != nil {
				failed++
			}
		}
		if budget.held != limit || failed != limit/1024 {
			t.Errorf("%d bytes are held, %d failed", budget.held, failed)
		}
		for i := range shares {
			shares[i].release()
			shares[i].release()
		}
	})
	for memory, want := range map[int64]int64{256 << 20: 64 << 20, 4 << 30: 512 << 20, 64 << 30: 1 << 30} {
		if got := treeMemoryFor(memory); got != want {
			t.Errorf("%d bytes for a process with %d, want %d", got, memory, want)
		}
	}
	if want := treeMemoryFor(sysmem.Limit()); processTrees.limit != want {
		t.Errorf("%d bytes in this process, want %d: a container has less than its machine", processTrees.limit, want)
	}
}

// TestAttackHashing checks that a server cannot make a client wait for ever for a file that it
// claims to hash. Today's clients waited as long as messages arrived.
func TestAttackHashing(t *testing.T) {
	hashing := func(p *peer, n uint64) {
		p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{
			Hashing: &transferpb.Hashing{Bytes: n, Total: 1 << 62},
		}})
	}
	alive := func(p *peer) bool { return p.ServerSession.Context().Err() == nil }
	for name, c := range map[string]struct {
		say    func(p *peer)
		within time.Duration
	}{
		"never begins": {func(p *peer) {
			for alive(p) {
				hashing(p, 0)
				time.Sleep(wire.HashingInterval)
			}
		}, queuePeriod},
		"stands still": {func(p *peer) {
			for alive(p) {
				hashing(p, 1)
				time.Sleep(wire.HashingInterval)
			}
		}, hashingPeriod},
		"a byte a second": {func(p *peer) {
			for i := uint64(1); alive(p); i++ {
				hashing(p, i)
				time.Sleep(time.Second)
			}
		}, hashingPeriod},
		"everything, then nothing": {func(p *peer) {
			for alive(p) {
				hashing(p, 1<<64-1)
				time.Sleep(wire.HashingInterval)
			}
		}, 2 * hashingPeriod},
		"back and forth": {func(p *peer) {
			for i := uint64(0); alive(p); i++ {
				hashing(p, i%2*hashingProgress)
				time.Sleep(wire.HashingInterval)
			}
		}, 2 * hashingPeriod},
		"of a later version": {func(p *peer) {
			for alive(p) {
				p.Reply(&transferpb.Reply{})
				time.Sleep(5 * time.Second)
			}
		}, queuePeriod},
		"a flood": {func(p *peer) {
			for range 6 * maxIdleReplies {
				hashing(p, 1)
			}
		}, time.Minute},
		"a value at a time": {func(p *peer) {
			m, _ := honest()
			m.Size = 4 << 30
			p.Manifest(m)
			for alive(p) {
				p.Tree(make([]byte, 32))
				time.Sleep(5 * time.Second)
			}
		}, hashingPeriod},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.hostile(openTheFile, func(p *peer) {
					c.say(p)
				})
				_, took, err := w.get(func(o *GetOptions) { o.Output, o.Target = nil, filepath.Join(t.TempDir(), "f") })
				wantKind(w.T, err, KindNetwork, "without enough progress")
				t.Logf("the client gave up after %v", took)
				if took > c.within+time.Minute {
					t.Errorf("the client gave up after %v, want %v", took, c.within)
				}
			})
		})
	}
}

// TestHashingThatIsSlow checks that honest servers are not taken for hostile ones.
func TestHashingThatIsSlow(t *testing.T) {
	for name, c := range map[string]struct {
		size, rate int64         // bytes, bytes per second
		queue      time.Duration // before it begins
		every      time.Duration // between messages
	}{
		"32 TiB at 20 MB/s":         {maxFileSize, 20e6, 0, 30 * time.Second},
		"after 10 min in a queue":   {1 << 40, 200e6, 10 * time.Minute, wire.HashingInterval},
		"a slow share of one disk":  {10 << 30, 400e3, time.Minute, wire.HashingInterval},
		"a small file, very slowly": {1 << 20, 10e3, 0, wire.HashingInterval},
	} {
		l, now := hashingLimit(), time.Unix(0, 0)
		for at := time.Duration(0); ; at += c.every {
			done := int64(max(at-c.queue, 0).Seconds() * float64(c.rate))
			if done > c.size {
				break
			}
			if err := l.observe(done, now.Add(at)); err != nil {
				t.Errorf("%s: after %v: %v", name, at, err)
				break
			}
		}
	}
	l, now := hashingLimit(), time.Unix(0, 0)
	for range 2 { // the process is stopped for an hour, and then reads what arrived before
		for range 100 {
			if err := l.observe(1, now); err != nil {
				t.Errorf("after a stop: %v", err)
			}
		}
		now = now.Add(time.Hour)
	}
	b := batchLimit(1 << 40) // a file of 1 TiB at 20 MB/s, of which a batch reports nothing
	for at := time.Duration(0); at < 15*time.Hour; at += wire.HashingInterval {
		if err := b.observe(0, now.Add(at)); err != nil {
			t.Fatalf("a batch after %v: %v", at, err)
		}
	}
}

// TestAttackBatch checks that a server cannot make a mirror wait for ever for a batch.
func TestAttackBatch(t *testing.T) {
	onWire(t, func(w *testNet) {
		start := time.Now()
		_, _, err := w.lies(&liar{entries: []*transferpb.Entry{fileEntry("a")}, pack: func(p *liarPeer) {
			for i := uint64(0); p.session.Context().Err() == nil; i++ {
				p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{
					Hashing: &transferpb.Hashing{Bytes: i, Total: 1},
				}})
				time.Sleep(time.Second)
			}
		}}, t.TempDir())
		wantKind(w.T, err, KindNetwork, "without enough progress")
		took := time.Since(start)
		t.Logf("the client gave up after %v", took)
		if took > queuePeriod+time.Minute {
			t.Errorf("the client gave up after %v", took)
		}
	})
}

// TestAttackListing checks that a listing ends: a server cannot send empty messages, or few
// entries, for ever.
func TestAttackListing(t *testing.T) {
	const notYet, more = transferpb.Listing_NOT_YET, transferpb.Listing_MORE
	for name, c := range map[string]struct {
		page   func(p *liarPeer)
		kind   Kind
		within time.Duration
	}{
		"empty messages": {func(p *liarPeer) {
			for p.session.Context().Err() == nil {
				p.listing(notYet)
				time.Sleep(time.Second)
			}
		}, KindNetwork, hashingPeriod},
		"a flood of them": {func(p *liarPeer) {
			for range 2*maxIdleReplies + 10 {
				p.listing(notYet)
			}
		}, KindNetwork, time.Minute},
		"an empty page": {func(p *liarPeer) { p.listing(more) }, KindOther, time.Minute},
		"an entry every 10 s": {func(p *liarPeer) {
			for i := 0; p.session.Context().Err() == nil; i++ {
				p.listing(notYet, dirEntry(fmt.Sprintf("d%09d", i)))
				time.Sleep(10 * time.Second)
			}
		}, KindNetwork, hashingPeriod},
		"a page of one entry every 10 s": {func(p *liarPeer) {
			time.Sleep(10 * time.Second)
			n := 0
			fmt.Sscanf(string(p.request.GetList().GetAfter()), "d%d", &n)
			p.listing(more, dirEntry(fmt.Sprintf("d%09d", n+1)))
		}, KindNetwork, hashingPeriod},
		"the same page again": {func(p *liarPeer) {
			p.listing(more, dirEntry("a"), dirEntry("b"))
		}, KindOther, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				start := time.Now()
				_, _, err := w.lies(&liar{page: c.page}, t.TempDir(), func(o *MirrorOptions) { o.DryRun = true })
				wantKind(w.T, err, c.kind, "")
				took := time.Since(start)
				t.Logf("the client gave up after %v: %v", took, err)
				if took > c.within+time.Minute {
					t.Errorf("the client gave up after %v, want %v", took, c.within)
				}
			})
		})
	}
}

// TestAttackEntries checks the memory of a page. Its entries may have long paths, and servers send
// texts with them.
func TestAttackEntries(t *testing.T) {
	for name, c := range map[string]struct {
		count int // together about 60 MB, or 20 MB of targets
		entry func(i int) *transferpb.Entry
	}{
		"long paths": {1000, func(i int) *transferpb.Entry {
			return &transferpb.Entry{Path: fmt.Appendf(nil, "%09d%s", i, strings.Repeat("p", 60_000))}
		}},
		"long messages": {1000, func(i int) *transferpb.Entry {
			return &transferpb.Entry{Path: fmt.Appendf(nil, "%09d", i), Error: strings.Repeat("e", 60_000)}
		}},
		"long targets": {5000, func(i int) *transferpb.Entry {
			return &transferpb.Entry{Path: fmt.Appendf(nil, "%09d", i), Type: transferpb.Entry_SYMLINK,
				Target: bytes.Repeat([]byte("t"), wire.MaxLinkTarget)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.Link.Rate = 1e9
				before, pages := heapInUse(), 0
				var grown int64
				_, _, err := w.lies(&liar{page: func(p *liarPeer) {
					if pages++; pages > 1 {
						grown = heapInUse() - before
						p.listing(transferpb.Listing_COMPLETE)
						return
					}
					for i := range c.count {
						p.listing(transferpb.Listing_NOT_YET, c.entry(i))
					}
					p.listing(transferpb.Listing_MORE)
				}}, t.TempDir(), func(o *MirrorOptions) { o.DryRun = true })
				if pages != 2 {
					t.Errorf("%d pages, %v", pages, err)
				}
				t.Logf("the heap grew by %d KiB", grown>>10)
				if grown > 4*pageBytes { // the unread part of the page counts, too
					t.Errorf("the heap grew by %d bytes", grown)
				}
			})
		})
	}
}

// TestAttackDepth checks that the order of a listing takes no memory for each level of a deep tree
// but its length. A path of 32 KiB has 16,000 levels, whose paths together have 256 MiB; this one
// has 4,000, of 16 MiB.
func TestAttackDepth(t *testing.T) {
	var o treeOrder
	path := strings.Repeat("d/", 4_000) + "d"
	before := heapInUse()
	for n := 1; n <= len(path); n += 2 {
		if _, err := o.next(Entry{Path: strings.Clone(path[:n]), Type: EntryDir}); err != nil {
			t.Fatal(err)
		}
	}
	grown := heapInUse() - before
	t.Logf("the heap grew by %d KiB", grown>>10)
	if len(o.dirs) != 4_001 || grown > 1<<20 {
		t.Errorf("%d directories take %d bytes", len(o.dirs), grown)
	}
	if _, err := o.next(Entry{Path: "e"}); err != nil || len(o.dirs) != 0 {
		t.Errorf("%v, %d directories around", err, len(o.dirs))
	}
}

// TestAttackHalfAlive checks that a server that answers and keeps its connection alive, and sends
// no content, does not hold a client.
func TestAttackHalfAlive(t *testing.T) {
	onWire(t, func(w *testNet) {
		block := make(chan struct{})
		defer close(block)
		w.hostile(func(ctx context.Context, _ kwik.ContentRequest) (kwik.Content, error) {
			return blockedContent{block}, nil
		}, func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
			p.Stream.Close()
		})
		got, took, err := w.get()
		wantKind(w.T, err, KindNetwork, "no server delivers")
		t.Logf("the client gave up after %v", took)
		if len(got) > 0 || took > 15*time.Second {
			t.Errorf("%d bytes, the client gave up after %v", len(got), took)
		}
	})
}

// blockedContent is content whose reads block until the channel is closed.
type blockedContent struct{ block chan struct{} }

func (blockedContent) Close() error { return nil }
func (c blockedContent) ReadAt(p []byte, off int64) (int, error) {
	<-c.block
	return len(p), nil
}
