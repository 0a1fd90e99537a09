package serve

import (
	"context"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// coldSize is the size of a cold file, just above smallFile.
const coldSize = 17 << 20

// get requests a cold file in a new session, from the host of all clients, and returns how long the
// response takes.
func get(w *transfertest.Net, path string) time.Duration {
	return getFrom(w, transfertest.ClientHost, path)
}

func getFrom(w *transfertest.Net, host netip.AddrPort, path string) time.Duration {
	conf := w.Client()
	conf.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
		return w.Sim.Listen(host, w.Link)
	}
	c, err := kwik.DialAddr(w.Ctx, transfertest.ServerAddr.String(), w.TLS(), conf)
	if err != nil {
		w.T.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	start := time.Now()
	replies, err := w.Ask(c, transfertest.Request(1, path), true)
	if err != nil || len(replies) == 0 || replies[0].GetManifest() == nil {
		w.T.Errorf("%s: %v, %v", path, replies, err)
	}
	return time.Since(start)
}

// TestAttackNamesOfAColdFile requests one cold file of 64 GiB by 12 names, for a second. Then an
// honest client gets its cold file as fast as from an idle server, and the large file is not hashed
// any further.
func TestAttackNamesOfAColdFile(t *testing.T) {
	root := t.TempDir()
	sparse(t, filepath.Join(root, "big"), 64<<30)
	sparse(t, filepath.Join(root, "alone"), coldSize)
	sparse(t, filepath.Join(root, "honest"), coldSize)
	if err := os.Symlink(".", filepath.Join(root, "l")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "big"), filepath.Join(root, "hard")); err != nil {
		t.Fatal(err)
	}
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 100*time.Millisecond)
		s := serveOn(w, d)
		alone := get(w, "alone")
		hostile := w.Dial()
		ask(w, hostile, transfertest.Request(1, "hard"))
		for i, path := 0, "big"; i < 11; i, path = i+1, "l/"+path {
			ask(w, hostile, transfertest.Request(1, path))
		}
		time.Sleep(time.Second)
		s.index.mu.Lock()
		files := len(s.index.files)
		s.index.mu.Unlock()
		if files != 2 {
			w.T.Errorf("12 names of one file are %d entries", files-1)
		}
		hostile.CloseWithError(0, "")
		took := get(w, "honest")
		if took > alone+500*time.Millisecond {
			w.T.Errorf("the honest client waited %v, alone %v", took, alone)
		}
		before := d.readOf("")
		time.Sleep(time.Minute)
		if after := d.readOf(""); after != before {
			w.T.Errorf("the server hashed %d bytes in the minute after its clients left", after-before)
		}
		t.Logf("honest client: %v, alone %v", took, alone)
	})
}

// TestAttackColdFilesOfOneAddress keeps many cold files of 100 GiB requested. An honest client gets
// its cold file within a second more than alone.
func TestAttackColdFilesOfOneAddress(t *testing.T) {
	other := netip.MustParseAddrPort("10.0.0.3:0")
	for _, x := range []struct {
		sessions, files int
		honest          netip.AddrPort
	}{{1, 40, transfertest.ClientHost}, {12, 1, transfertest.ClientHost}, {12, 4, other}} {
		t.Run(fmt.Sprintf("%d sessions, %v", x.sessions, x.honest.Addr()), func(t *testing.T) {
			root := t.TempDir()
			for i := range x.sessions * x.files {
				sparse(t, filepath.Join(root, fmt.Sprint("big", i)), 100<<30)
			}
			sparse(t, filepath.Join(root, "alone"), coldSize)
			sparse(t, filepath.Join(root, "honest"), coldSize)
			transfertest.OnNet(t, func(w *transfertest.Net) {
				d := meter(t, root, 20*time.Millisecond)
				s := serveOn(w, d)
				alone := get(w, "alone")
				for i := range x.sessions {
					c := w.Dial()
					defer c.CloseWithError(0, "")
					for j := range x.files {
						ask(w, c, transfertest.Request(1, fmt.Sprint("big", i*x.files+j)))
					}
				}
				time.Sleep(time.Second)
				d.mu.Lock()
				d.mostOpen = d.open // each request opened its file for a moment
				d.mu.Unlock()
				took := getFrom(w, x.honest, "honest")
				if took > time.Second+alone {
					w.T.Errorf("the honest client waited %v, alone %v", took, alone)
				}
				s.index.mu.Lock()
				held := s.index.large.held
				s.index.mu.Unlock()
				if held > 1<<20 {
					w.T.Errorf("the trees of unfinished files have %d bytes", held)
				}
				d.mu.Lock()
				open := d.mostOpen
				d.mu.Unlock()
				// A job that gives up its turn closes its file while the next one opens its own.
				if open > 2*hashedAtOnce {
					w.T.Errorf("%d files were open", open)
				}
				t.Logf("honest client: %v, alone %v; %d bytes of trees, %d open", took, alone, held, open)
			})
		})
	}
}

// TestAttackHashTheSameFile lets 100 clients request one cold file at the same time, over and over
// (row B7). It is read once.
func TestAttackHashTheSameFile(t *testing.T) {
	root := t.TempDir()
	sparse(t, filepath.Join(root, "file"), coldSize)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 10*time.Millisecond)
		serveOn(w, d)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 3 {
					get(w, "file")
				}
			})
		}
		wg.Wait()
		if n := d.readOf(""); n != coldSize {
			w.T.Errorf("%d bytes were read of a file of %d", n, coldSize)
		}
	})
}

// TestAttackTinyRanges requests one-byte ranges of a file one after the other (row B6). The file is
// read once, to be hashed, and each answer is short.
func TestAttackTinyRanges(t *testing.T) {
	root := t.TempDir()
	sparse(t, filepath.Join(root, "file"), coldSize)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 0)
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		for i := range uint64(120) { // a session may have 128 streams
			replies, err := w.Ask(c, rangeRequest(&transferpb.ByteRange{Start: i * 67_000, End: i*67_000 + 1}), true)
			if err != nil {
				w.T.Fatal(err)
			}
			if _, proof := proofIn(w.T, replies); len(proof) > 32*20 {
				w.T.Fatalf("a proof of %d bytes", len(proof))
			}
		}
		for _, r := range []*transferpb.ByteRange{
			{Start: 5, End: 5}, {Start: 5, End: 4}, {Start: 1 << 63}, {Suffix: 1 << 63}, {Start: 1, Suffix: 1},
		} {
			replies, err := w.Ask(c, rangeRequest(r), true)
			if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
				w.T.Errorf("%v: %v", r, f)
			}
		}
		if n := d.readOf(""); n != coldSize {
			w.T.Errorf("%d bytes were read of a file of %d", n, coldSize)
		}
	})
}
