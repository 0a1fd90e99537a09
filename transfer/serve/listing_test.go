package serve

import (
	"bytes"
	"fmt"
	"io/fs"
	"kwikcp/internal/budget"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A crowdedDir has n names in it.
type crowdedDir struct {
	disk.TreeDir
	n int
}

func (d crowdedDir) Names(int) (names []string, err error) {
	for i := range d.n {
		names = append(names, fmt.Sprint(i))
	}
	return names, nil
}

func (d crowdedDir) Stat(string) (fs.FileInfo, error) { return nil, fs.ErrInvalid }

// TestNamesLimit checks the bound on the names that listings hold. Beyond it a listing waits
// for others to end, and then fails.
func TestNamesLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newNamesLimit()
		l.held = budget.New(20, 0, 0, 20)
		read := func(n int) *nameList {
			list, err := l.list(t.Context(), netip.Prefix{}, "", source.Local(crowdedDir{n: n}))
			if err != nil || len(list.names) != n {
				t.Fatalf("%d of %d names, %v", len(list.names), n, err)
			}
			return list
		}
		first, none, second := read(7), read(0), read(3)
		if _, err := l.list(t.Context(), netip.Prefix{}, "", source.Local(crowdedDir{n: 1})); err != errBusy ||
			failureCode(err) != transferpb.Failure_BUSY {
			t.Errorf("the eleventh name: %v", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { l.release(read(8)) })
		synctest.Wait()
		l.release(second)
		l.release(none)
		synctest.Wait()
		l.release(first)
		wg.Wait()
		l.release(read(10))
		if len(l.shares) != 0 || l.held.Used() != 0 {
			t.Errorf("%d addresses still hold %d names", len(l.shares), l.held.Used())
		}
	})
}

// TestAttackNamesOfOneAddress has one address hold as many names as it can. Another one can list at
// once, and so can a third.
func TestAttackNamesOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newNamesLimit()
		l.held = budget.New(1000, 0, 0, 1000)
		start := time.Now()
		hostile, held := netip.MustParsePrefix("192.0.2.1/32"), 0
		for ; ; held += 10 {
			if _, err := l.list(t.Context(), hostile, "", source.Local(crowdedDir{n: 10})); err != nil {
				break
			}
		}
		for range 2 * maxDirReads {
			go l.list(t.Context(), hostile, "", source.Local(crowdedDir{n: 900})) // keeps waiting
		}
		synctest.Wait()
		took := time.Since(start)
		for i, n := range []int{200, 100} {
			from := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i)}), 32)
			if _, err := l.list(t.Context(), from, "", source.Local(crowdedDir{n: n})); err != nil {
				t.Errorf("%d names for another address, while one holds %d: %v", n, held, err)
			}
		}
		if waited := time.Since(start) - took; waited > 0 {
			t.Errorf("the others waited %v", waited)
		}
		time.Sleep(requestTimeout)
	})
}

// A heldDir is a tree in which reading a directory takes until release is closed.
type heldDir struct {
	disk.TreeDir
	reading, most *atomic.Int32
	release       chan struct{}
}

func (d heldDir) At(path string) (disk.TreeDir, error) {
	at, err := d.TreeDir.At(path)
	d.TreeDir = at
	return d, err
}

func (d heldDir) Names(most int) ([]string, error) {
	for n := d.reading.Add(1); ; {
		before := d.most.Load()
		if n <= before || d.most.CompareAndSwap(before, n) {
			break
		}
	}
	defer d.reading.Add(-1)
	<-d.release
	return d.TreeDir.Names(most)
}

// TestListingsOfOneClient checks that maxListings listings of a client run at a time, and the
// others run after them.
func TestListingsOfOneClient(t *testing.T) {
	root := t.TempDir()
	transfertest.Put(t, root+"/file", "content")
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	transfertest.OnNet(t, func(w *transfertest.Net) {
		held := heldDir{TreeDir: tree, reading: new(atomic.Int32), most: new(atomic.Int32),
			release: make(chan struct{})}
		serveOn(w, held)
		session := w.Dial()
		defer session.CloseWithError(0, "")
		var request bytes.Buffer
		wire.WriteMessage(&request, &transferpb.Request{Version: wire.ProtocolVersion, List: &transferpb.ListRequest{}})
		var wg sync.WaitGroup
		for i := range 5 * maxListings {
			wg.Go(func() {
				replies, err := w.Ask(session, request.Bytes(), true)
				if err != nil || len(replies) != 1 || !strings.Contains(replies[0].String(), "file") {
					w.T.Errorf("listing %d: %v, %v", i, replies, err)
				}
			})
		}
		time.Sleep(time.Second) // virtual: all requests have arrived
		synctest.Wait()
		if n := held.reading.Load(); n != maxListings {
			w.T.Errorf("%d directories are read at once, want %d", n, maxListings)
		}
		close(held.release)
		wg.Wait()
		if n := held.most.Load(); n > maxListings {
			w.T.Errorf("%d directories were read at once", n)
		}
	})
}
