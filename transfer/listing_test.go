package transfer

import (
	"bufio"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/semaphore"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
)

// A crowdedDir has n names in it.
type crowdedDir struct {
	TreeDir
	n int
}

func (d crowdedDir) Names(int) (names []string, err error) {
	for i := range d.n {
		names = append(names, fmt.Sprint(i))
	}
	return names, nil
}

// The names that listings hold are limited: what is beyond waits for others to end, and in the end is refused.
func TestNamesLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &namesLimit{reading: make(chan struct{}, 4), held: semaphore.NewWeighted(10)}
		read := func(n int) []string {
			names, err := l.read(t.Context(), crowdedDir{n: n})
			if err != nil || len(names) != n {
				t.Fatalf("%d of %d names, %v", len(names), n, err)
			}
			return names
		}
		first, none, second := read(7), read(0), read(3)
		if _, err := l.read(t.Context(), crowdedDir{n: 1}); err != errBusy || failureCode(err) != transferpb.Failure_BUSY {
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
	})
}

// A heldDir is a tree in which reading a directory takes until release is closed.
type heldDir struct {
	TreeDir
	reading, most *atomic.Int32
	release       chan struct{}
}

func (d heldDir) At(path string) (TreeDir, error) {
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

// A client has so many listings at once, and the others are answered after these.
func TestListingsOfOneClient(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/file", "content")
	held := heldDir{reading: new(atomic.Int32), most: new(atomic.Int32), release: make(chan struct{})}
	s := serveTree(t, kwik.ServerRolePrimary, root, func(d TreeDir) TreeDir { held.TreeDir = d; return held })
	session, err := kwik.DialAddr(t.Context(), s.addr, trust.PinnedClientConfig(nil, s.pin), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.CloseWithError(0, "")
	var wg sync.WaitGroup
	for i := range 5 * maxListings {
		stream, err := session.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := writeMessage(stream, &transferpb.Request{Version: protocolVersion, List: &transferpb.ListRequest{}}); err != nil {
			t.Fatal(err)
		}
		stream.Close()
		wg.Go(func() {
			reply := &transferpb.Reply{}
			if err := readMessage(bufio.NewReader(stream), reply); err != nil || !strings.Contains(reply.String(), "file") {
				t.Errorf("listing %d: %v, %v", i, reply, err)
			}
		})
	}
	for held.reading.Load() < maxListings {
		runtime.Gosched()
	}
	close(held.release)
	wg.Wait()
	if n := held.most.Load(); n > maxListings {
		t.Errorf("%d directories were read at once", n)
	}
}
