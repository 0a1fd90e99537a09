package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
)

// TestGetRange checks that a range arrives exactly, in a file or in order. The client fetches
// only the groups that overlap it.
func TestGetRange(t *testing.T) {
	const group = 65536
	n := int64(len(theFile))
	for _, x := range []struct {
		text    string
		fetched int64
	}{
		{"0-0", group}, {"5-100", group}, {"65535-65536", 2 * group}, {"65536-131071", group},
		{"100000-196608", n - group},
		{"0-", n}, {"-1", n - 3*group}, {"-1235", n - 2*group}, {"196608-", n - 3*group}, {"1-", n},
		{"100-99999999", n},
	} {
		want, _ := ParseByteRange(x.text)
		bounds := wire.ByteRange(want).Of(n)
		content := theFile[bounds.Start:bounds.End]
		for _, inOrder := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s in order %t", x.text, inOrder), func(t *testing.T) {
				t.Setenv("TMPDIR", t.TempDir())
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), string(theFile))
				var out bytes.Buffer
				r, heard, err := fetch(t, target, func(o *GetOptions) {
					if o.Range = &want; inOrder {
						o.Target, o.Output = "", &out
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if inOrder {
					if !bytes.Equal(out.Bytes(), content) {
						t.Errorf("%d bytes, want %d", out.Len(), len(content))
					}
				} else {
					transfertest.WantContent(t, target, string(content))
					wantDressed(t, target)
					wantNames(t, filepath.Dir(target), "out")
				}
				wantNames(t, os.Getenv("TMPDIR"))
				delivered := int64(0)
				for _, s := range r.Servers {
					delivered += s.Bytes
				}
				wantEqual(t, "bytes", r.Bytes, int64(len(content)))
				wantEqual(t, "offset", r.Offset, bounds.Start)
				wantEqual(t, "bytes resumed", r.Resumed, 0)
				wantEqual(t, "bytes wasted", r.Wasted, 0)
				wantEqual(t, "bytes delivered", delivered, x.fetched)
				wantEqual(t, "part file kept", r.Kept, false)
				if heard.last.Bytes != x.fetched || heard.last.Total != x.fetched {
					t.Errorf("progress %+v", heard.last)
				}
			})
		}
	}
}

func TestGetRangeThatIsNotThere(t *testing.T) {
	target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
	_, _, err := fetch(t, target, func(o *GetOptions) {
		o.Range = &ByteRange{First: int64(len(theFile)), Last: math.MaxInt64}
	})
	wantKind(t, err, KindNotFound, fmt.Sprintf("there are no bytes %d-, the file has %d", len(theFile), len(theFile)))
	transfertest.WantContent(t, target, "before")
	wantNames(t, filepath.Dir(target), "out")
}

// TestGetRangeWhenOperationsFail makes each operation fail. The target is unchanged or has the
// range. The directory that gathered the range is removed.
func TestGetRangeWhenOperationsFail(t *testing.T) {
	want := ByteRange{First: 65000, Last: 140000}
	for _, inOrder := range []bool{false, true} {
		everyFault(t, syscall.EIO, func(t *testing.T, x *faults) {
			t.Setenv("TMPDIR", t.TempDir())
			target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
			var out bytes.Buffer
			r, _, err := fetch(t, target, func(o *GetOptions) {
				if o.Range, o.OpenDir = &want, x.opener(); inOrder {
					o.Target, o.Output = "", &out
				}
			})
			t.Logf("%q failed: %v", x.failed(), err)
			wanted := string(theFile[want.First : want.Last+1])
			if renamed := slices.Contains(x.ops, "rename") && x.failed() != "rename"; renamed {
				transfertest.WantContent(t, target, wanted)
			} else {
				transfertest.WantContent(t, target, "before")
			}
			switch {
			case inOrder && err == nil && out.String() != wanted, !bytes.HasPrefix([]byte(wanted), out.Bytes()):
				t.Errorf("%d bytes in order", out.Len())
			case err != nil:
				wantKind(t, err, KindLocal, "input/output error")
			}
			if r.Kept {
				t.Error("a part of a range is kept")
			}
			if x.open != 0 {
				t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
			}
		})
	}
}

// TestGetRangeAgain checks that a retry resumes within the same run, and leaves no file for
// another run.
func TestGetRangeAgain(t *testing.T) {
	const group = 65536
	target := filepath.Join(t.TempDir(), "out")
	want := ByteRange{First: 10, Last: 3*group + 10}
	get := func(w *testNet, retries int) (Result, error) {
		return getWhole(w.T, w.Ctx, GetOptions{
			URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target,
			KWIK:  w.Client(),
			Range: &want, Retries: retries, RetryDelay: time.Second,
		}, NoReport{})
	}
	onWire(t, func(w *testNet) {
		w.moody(theFile[:2*group], theFile)
		r, err := get(w, 1)
		if err != nil || r.Bytes != 3*group+1 || r.Resumed != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		transfertest.WantContent(t, target, string(theFile[10:3*group+11]))
	})
	os.Remove(target)
	onWire(t, func(w *testNet) {
		w.moody(theFile[:2*group])
		r, err := get(w, 0)
		wantKind(w.T, err, KindNetwork, "")
		if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) || r.Kept {
			t.Errorf("%+v, %v", r, err)
		}
		wantNames(t, filepath.Dir(target))
	})
}

// countingConn counts the bytes that arrive at a socket.
type countingConn struct {
	net.PacketConn
	received *atomic.Int64
}

func (c countingConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(p)
	c.received.Add(int64(n))
	return n, addr, err
}

// TestGetRangeReceivesNoTree checks that the client of a range receives its proof and not the
// tree.
func TestGetRangeReceivesNoTree(t *testing.T) {
	const groups = 1000 // and 48 bytes: 32,032 bytes of tree
	content := bytes.Repeat([]byte("0123456789abcdef"), groups*4096+3)
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": content})
		var received atomic.Int64
		got, _, err := w.get(func(o *GetOptions) {
			o.Range = &ByteRange{First: -1, Last: 48}
			o.KWIK.ListenPacket = func(context.Context, netip.AddrPort) (net.PacketConn, error) {
				socket, err := w.Sim.Listen(transfertest.ClientHost, w.Link)
				return countingConn{socket, &received}, err
			}
		})
		if err != nil || !bytes.Equal(got, content[len(content)-48:]) {
			w.T.Fatalf("%d bytes, %v", len(got), err)
		}
		// The handshake and Hello take less than 10,000 bytes.
		if n := received.Load(); n > 10_000 {
			w.T.Errorf("%d bytes arrived for 48 bytes of the file", n)
		}
	})
}

// TestGetRangeBoundaries checks every range of the smallest files, and the ranges near the end
// of a group.
func TestGetRangeBoundaries(t *testing.T) {
	const group = 65536
	files := map[string][]byte{"empty": nil, "byte": theFile[:1], "short": theFile[:group-1], "group": theFile[:group],
		"two": theFile[:group+1]}
	onWire(t, func(w *testNet) {
		w.serveFiles(files)
		for name, content := range files {
			for _, text := range []string{
				"0-", "0-0", "-1", "-65536", "1-", "65534-65536", "65535-65535", "65535-65536", "65535-", "65536-",
				"65536-65536", "65537-",
			} {
				r, err := ParseByteRange(text)
				if err != nil {
					w.T.Fatal(err)
				}
				got, _, err := w.get(func(o *GetOptions) { o.URL.Path, o.Range = name, &r })
				bounds := wire.ByteRange(r).Of(int64(len(content)))
				if bounds.Empty() {
					if e, ok := errors.AsType[*RangeError](err); !ok || e.Size != int64(len(content)) || len(got) > 0 {
						w.T.Errorf("%s of %q: %d bytes, %v, want a RangeError", text, name, len(got), err)
					}
					continue
				}
				if err != nil {
					w.T.Errorf("%s of %q: %v", text, name, err)
				}
				if !bytes.Equal(got, content[bounds.Start:bounds.End]) {
					w.T.Errorf("%s of %q: %d wrong bytes, want %v", text, name, len(got), bounds)
				}
			}
		}
	})
}
