package transfer

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/zeebo/blake3"
)

// checksumsOf returns the checksums of a content, by their names in messages. The last two may be
// of SHA-256 or BLAKE3.
func checksumsOf(content []byte) map[string]string {
	return map[string]string{
		"blake3":  fmt.Sprintf("blake3=%x", blake3.Sum256(content)),
		"sha256":  fmt.Sprintf("sha256=%x", sha256.Sum256(content)),
		"sha512":  fmt.Sprintf("sha512=%x", sha512.Sum512(content)),
		"md5":     fmt.Sprintf("md5=%x", md5.Sum(content)),
		"plain":   fmt.Sprintf("%x", sha256.Sum256(content)),
		"plainb3": fmt.Sprintf("%x", blake3.Sum256(content)),
	}
}

func mustChecksum(t *testing.T, text string) Checksum {
	t.Helper()
	c, err := ParseChecksum(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fetchWith fetches theFile with checksums from a server that has hashed it.
func (w *testNet) fetchWith(target string, change func(*GetOptions), checksums ...string) (Result, error) {
	o := GetOptions{URL: serverFile, TLS: w.TLS(), Target: target, KWIK: w.Client()}
	for _, text := range checksums {
		o.Checksums = append(o.Checksums, mustChecksum(w.T, text))
	}
	if change != nil {
		change(&o)
	}
	return getWhole(w.T, w.Ctx, o, nil)
}

// TestChecksums fetches a file with right and wrong checksums. Before, nothing, a part of the file
// or all of it is there. With a wrong one the target stays as it was, and nothing is left beside
// it.
func TestChecksums(t *testing.T) {
	const group = 65536
	right, wrong := checksumsOf(theFile), checksumsOf([]byte("another"))
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": theFile})
		for place, prepare := range map[string]func(t *testing.T, target string){
			"nothing":       func(*testing.T, string) {},
			"another":       func(t *testing.T, target string) { transfertest.Put(t, target, "before") },
			"a part":        putPart(theFile[:2*group]),
			"a later part":  putPart(append(make([]byte, group), theFile[group:]...)),
			"a whole part":  putPart(theFile),
			"the same file": func(t *testing.T, target string) { transfertest.Put(t, target, string(theFile)) },
		} {
			target := filepath.Join(t.TempDir(), "out")
			for _, name := range []string{"blake3", "md5", "plain"} {
				bad := wrong[name]
				prepare(t, target)
				before, _ := os.ReadFile(target)
				_, err := w.fetchWith(target, nil, right["sha256"], bad)
				wantKind(t, err, KindIntegrity, "not the expected")
				if _, typed := errors.AsType[*ChecksumError](err); !typed && name != "blake3" {
					t.Errorf("%s, %s: %v is no ChecksumError", place, name, err)
				}
				if after, _ := os.ReadFile(target); !bytes.Equal(before, after) {
					t.Errorf("%s, %s: the target has %d bytes, before it had %d", place, name, len(after), len(before))
				}
				_, err = os.Lstat(filepath.Join(filepath.Dir(target), partName("out")))
				fetched := name != "blake3" && place != "the same file"
				if fetched && err == nil {
					t.Errorf("%s, %s: the part file is still there", place, name)
				}
			}
			prepare(t, target)
			if _, err := w.fetchWith(target, nil, slices.Collect(maps.Values(right))...); err != nil {
				t.Errorf("%s: %v", place, err)
			}
			wantNames(t, filepath.Dir(target), "out")
		}
	})
}

func putPart(content []byte) func(t *testing.T, target string) {
	return func(t *testing.T, target string) {
		transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), string(content))
	}
}

// TestChecksumsOfAnOutput checks that an output never gets the whole of a file with a wrong
// checksum.
func TestChecksumsOfAnOutput(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": content, "empty": nil})
		for _, name := range []string{"blake3", "sha256", "plain"} {
			right := checksumsOf(content)[name]
			got, _, err := w.get(func(o *GetOptions) { o.Checksums = []Checksum{mustChecksum(t, right)} })
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
			got, _, err = w.get(func(o *GetOptions) {
				o.Checksums = []Checksum{mustChecksum(t, checksumsOf(nil)[name])}
			})
			wantKind(t, err, KindIntegrity, "not the expected")
			if len(got) >= len(content) || !bytes.HasPrefix(content, got) {
				t.Errorf("%s: %d bytes of a wrong file were written", name, len(got))
			}
		}
		for name, right := range checksumsOf(nil) {
			toEmpty := func(text string) func(o *GetOptions) {
				return func(o *GetOptions) { o.URL.Path, o.Checksums = "empty", []Checksum{mustChecksum(t, text)} }
			}
			if _, _, err := w.get(toEmpty(right)); err != nil {
				t.Errorf("empty, %s: %v", name, err)
			}
			_, _, err := w.get(toEmpty(checksumsOf(content)[name]))
			wantKind(t, err, KindIntegrity, "not the expected")
		}
	})
}

// TestChecksumsOfARange checks that a hash of the whole file does not go with a range, except for
// one of BLAKE3.
func TestChecksumsOfARange(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": theFile})
		part := func(o *GetOptions) { o.Range = &ByteRange{0, 9} }
		for name, right := range checksumsOf(theFile) {
			_, err := w.fetchWith(filepath.Join(t.TempDir(), "out"), part, right)
			if name != "blake3" {
				wantKind(t, err, KindOther, "a part of a file is proved by a BLAKE3 hash only")
			} else if err != nil {
				t.Error(err)
			}
		}
	})
}

// A countingDir counts the reads of its files, and their bytes.
type countingDir struct {
	disk.Dir
	read, calls *atomic.Int64
}

type countingFile struct {
	disk.File
	read, calls *atomic.Int64
}

func (d countingDir) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	return countingFile{f, d.read, d.calls}, err
}

func (f countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.read.Add(int64(n))
	f.calls.Add(1)
	return n, err
}

// TestChecksumsReadOnce checks that a new file is read once at most, and not at all for a hash that
// its root proves.
func TestChecksumsReadOnce(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": theFile})
		for _, name := range []string{"blake3", "plainb3", "sha512", "plain"} {
			right := checksumsOf(theFile)[name]
			var read, calls atomic.Int64
			_, err := w.fetchWith(filepath.Join(t.TempDir(), "out"), func(o *GetOptions) {
				o.OpenDir = func(path string) (disk.Dir, error) {
					d, err := disk.OpenDir(path)
					return countingDir{d, &read, &calls}, err
				}
			}, right)
			want := int64(len(theFile))
			if name == "plainb3" || name == "blake3" {
				want = 0
			}
			if err != nil || read.Load() != want || calls.Load() > 8 {
				t.Errorf("%s: %d bytes were read in %d reads, want %d, %v", name, read.Load(), calls.Load(), want, err)
			}
		}
	})
}

// TestChecksumsWhenReadsFail makes reads of the part file fail: the file is not put in place, and
// its verified bytes stay.
func TestChecksumsWhenReadsFail(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": theFile})
		x := &faults{fail: 1, with: syscall.EIO, only: []string{"read"}, stays: true}
		r, err := w.fetchWith(filepath.Join(t.TempDir(), "out"), func(o *GetOptions) { o.OpenDir = x.opener() },
			checksumsOf(theFile)["sha256"])
		wantKind(t, err, KindLocal, "input/output error")
		if !r.Kept {
			t.Error("no part file is kept")
		}
	})
}

// TestChecksumsInterrupted ends the context while the file is hashed.
func TestChecksumsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	h := newOrderedHasher(bytes.NewReader(theFile), []Checksum{mustChecksum(t, checksumsOf(theFile)["md5"])})
	cancel(errGone)
	if err := h.finish(ctx, int64(len(theFile)), blake3.Sum256(theFile), nil); err != errGone {
		t.Error(err)
	}
}
