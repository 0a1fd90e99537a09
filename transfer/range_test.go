package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/internal/transfertest"
)

func TestParseByteRange(t *testing.T) {
	for text, want := range map[string]rangeset.Range{ // in a file of 100 bytes
		"0-0": {Start: 0, End: 1}, "0-": {Start: 0, End: 100}, "99-": {Start: 99, End: 100}, "10-19": {Start: 10, End: 20}, "10-1000": {Start: 10, End: 100},
		"-1": {Start: 99, End: 100}, "-100": {Start: 0, End: 100}, "-1000": {Start: 0, End: 100}, "007-8": {Start: 7, End: 9},
		"0-9223372036854775807": {Start: 0, End: 100}, "100-": {}, "100-200": {}, "9223372036854775807-": {},
	} {
		r, err := ParseByteRange(text)
		got := r.Of(100)
		if err != nil || got != want && !(got.Empty() && want.Empty()) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if !r.Of(0).Empty() {
			t.Errorf("%s: %v of an empty file", text, r.Of(0))
		}
		if again, err := ParseByteRange(r.String()); err != nil || again != r {
			t.Errorf("%s became %v: %v", text, r, err)
		}
	}
	for _, text := range []string{"", "-", "5", "5-4", "-0", "a-b", "1-b", "a-1", "1-2-3", "--1", "+1-2", "1-+2", " 1-2", "1 - 2", "0-1,3-4", "0x1-", "9223372036854775808-", "bytes=0-1", "1_0-"} {
		if r, err := ParseByteRange(text); err == nil {
			t.Errorf("%q is %v", text, r)
		}
	}
}

func FuzzParseByteRange(f *testing.F) {
	f.Add("0-9", int64(5))
	f.Add("-9", int64(math.MaxInt64))
	f.Add("9223372036854775807-", int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, text string, size int64) {
		r, err := ParseByteRange(text)
		if err != nil || size < 0 {
			return
		}
		if of := r.Of(size); !of.Empty() && (of.Start < 0 || of.End > size) {
			t.Errorf("%q of %d is %v", text, size, of)
		}
		if again, err := ParseByteRange(r.String()); err != nil || again != r {
			t.Errorf("%q became %v: %v, %v", text, r, again, err)
		}
	})
}

// A range arrives exactly, in a file or in order, and no more than the groups that it is in are fetched.
func TestGetRange(t *testing.T) {
	const group = 65536
	n := int64(len(theFile))
	for _, x := range []struct {
		text    string
		fetched int64
	}{
		{"0-0", group}, {"5-100", group}, {"65535-65536", 2 * group}, {"65536-131071", group}, {"100000-196608", n - group},
		{"0-", n}, {"-1", n - 3*group}, {"-1235", n - 2*group}, {"196608-", n - 3*group}, {"1-", n}, {"100-99999999", n},
	} {
		want, _ := ParseByteRange(x.text)
		bounds := want.Of(n)
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
	_, _, err := fetch(t, target, func(o *GetOptions) { o.Range = &ByteRange{First: int64(len(theFile)), Last: math.MaxInt64} })
	wantKind(t, err, KindNotFound, fmt.Sprintf("there are no bytes %d-, the file has %d", len(theFile), len(theFile)))
	transfertest.WantContent(t, target, "before")
	wantNames(t, filepath.Dir(target), "out")
}

// Whatever operation fails: the target is as it was or has the range, and nothing stays where it was gathered.
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

// A retry goes on where it was, in the same run. Nothing is left for another one.
func TestGetRangeAgain(t *testing.T) {
	const group = 65536
	target := filepath.Join(t.TempDir(), "out")
	want := ByteRange{First: 10, Last: 3*group + 10}
	get := func(w *testNet, retries int) (Result, error) {
		return getWhole(w.T, w.Ctx, GetOptions{
			URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target, KWIK: w.Client(),
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
