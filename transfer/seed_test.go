package transfer

import (
	"bytes"
	"errors"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/transfertest/disktest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// seeds are files that share something with theFile, and how many bytes can be taken of them.
func seeds() map[string]struct {
	content []byte
	right   int64
} {
	const group = 65536
	n := int64(len(theFile))
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(theFile)) }
	return map[string]struct {
		content []byte
		right   int64
	}{
		"all and more":      {append(bytes.Clone(theFile), 1, 2, 3), n},
		"one byte flipped":  {change(func(b []byte) []byte { b[group]++; return b }), n - group},
		"the last flipped":  {change(func(b []byte) []byte { b[n-1]++; return b }), 3 * group},
		"cut in a group":    {theFile[:2*group+1], 2 * group},
		"cut at the end":    {theFile[:n-1], 3 * group},
		"less than a group": {theFile[:10], 0},
		"another":           {bytes.Repeat([]byte{7}, int(n)), 0},
		"empty":             {nil, 0},
		"shifted":           {append([]byte{0}, theFile...), 0},
		"groups in disorder": {append(append(bytes.Clone(theFile[group:2*group]), theFile[:group]...),
			theFile[2*group:]...), n - 2*group},
	}
}

// TestSeed checks that the client does not fetch the right bytes of a seed. A seed is the
// target or another file.
func TestSeed(t *testing.T) {
	for name, x := range seeds() {
		for _, reuse := range []bool{false, true} {
			for _, clones := range []bool{false, true} {
				t.Run(name, func(t *testing.T) {
					target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
					r, heard, err := fetch(t, target, func(o *GetOptions) {
						if o.Reuse = reuse; reuse {
							transfertest.Put(t, target, string(x.content))
						} else {
							o.Seed = openFile(t, x.content)
						}
						if clones {
							o.OpenDir = openCloningDir
						}
					})
					if err != nil {
						t.Fatal(err)
					}
					transfertest.WantContent(t, target, string(theFile))
					wantDressed(t, target)
					wantNames(t, filepath.Dir(target), "out")
					delivered := int64(0)
					for _, s := range r.Servers {
						delivered += s.Bytes
					}
					n := int64(len(theFile))
					wantEqual(t, "bytes", r.Bytes, n)
					wantEqual(t, "bytes resumed", r.Resumed, x.right)
					wantEqual(t, "bytes delivered", delivered, n-x.right)
					wantEqual(t, "bytes wasted", r.Wasted, 0)
					wantEqual(t, "up to date", r.UpToDate, false)
					wantEqual(t, "bytes resumed, as reported", heard.resumed, x.right)
				})
			}
		}
	}
}

// A cloningDir is of a file system that shares blocks: what it really does is copy.
type cloningDir struct{ disk.Dir }

func openCloningDir(path string) (disk.Dir, error) {
	d, err := disk.OpenDir(path)
	return cloningDir{d}, err
}

func (d cloningDir) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	return cloningFile{f}, err
}

type cloningFile struct{ disk.File }

func (f cloningFile) CloneFrom(other disk.File) error {
	info, err := other.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, info.Size())
	if _, err := other.ReadAt(b, 0); err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}

// TestSeedsTogether uses a part file, a target and a seed. Each has bytes that the others lack.
func TestSeedsTogether(t *testing.T) {
	const group = 65536
	only := func(keep ...int) []byte {
		b := make([]byte, len(theFile))
		for _, i := range keep {
			copy(b[i*group:min((i+1)*group, len(b))], theFile[i*group:])
		}
		return b
	}
	for _, opener := range []func(string) (disk.Dir, error){disk.OpenDir, openCloningDir} {
		target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), string(only(1)))
		transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), string(only(0, 1)))
		seed := &disktest.ReadCounter{File: openFile(t, only(0, 3))}
		r, _, err := fetch(t, target, func(o *GetOptions) { o.Reuse, o.Seed, o.OpenDir = true, seed, opener })
		if err != nil || r.Resumed != int64(len(theFile))-group {
			t.Errorf("%+v, %v", r, err)
		}
		transfertest.WantContent(t, target, string(theFile))
		if want := rangeset.Of(rangeset.Range{Start: 2 * group,
			End: int64(len(theFile))}); seed.Read.String() != want.String() {
			t.Errorf("of the seed %v was read, not %v", seed.Read.String(), want.String())
		}
	}
}

// TestSeedWhenOperationsFail makes each operation of a seed, the target or the part file fail.
// The target is then the old file or the new one.
func TestSeedWhenOperationsFail(t *testing.T) {
	old := seeds()["one byte flipped"].content
	for _, with := range []error{syscall.EIO, syscall.ENOSPC} {
		everyFault(t, with, func(t *testing.T, x *faults) {
			target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), string(old))
			r, _, err := fetch(t, target, func(o *GetOptions) {
				o.Reuse, o.Seed, o.OpenDir = true, faultyFile{openFile(t, theFile[:70000]), x, "seed"}, x.opener()
			})
			t.Logf("%q failed: %v", x.failed(), err)
			got, _ := os.ReadFile(target)
			switch {
			case err == nil && !bytes.Equal(got, theFile):
				t.Error("the target is not the file")
			case err != nil && !bytes.Equal(got, old) && !bytes.Equal(got, theFile):
				t.Error("the target is neither old nor new")
			}
			if err != nil && !errors.Is(err, with) {
				t.Error(err)
			}
			if r.Kept {
				again, _, err := fetch(t, target)
				if err != nil || again.Resumed == 0 {
					t.Errorf("again: %+v, %v", again, err)
				}
			}
			if x.open != 0 {
				t.Errorf("%d files and directories are left open after %q", x.open, x.ops)
			}
		})
	}
}

// TestCloneFrom checks the clone call of the system if the file system of the tests has one.
func TestCloneFrom(t *testing.T) {
	a, b := openFile(t, theFile), openFile(t, nil)
	c, ok := b.(disk.Cloner)
	if !ok {
		t.Skip("not here")
	}
	err := c.CloneFrom(a)
	info, statErr := b.Stat()
	if statErr != nil {
		t.Fatal(statErr)
	}
	if err != nil {
		if info.Size() != 0 {
			t.Errorf("%v, but %d bytes were cloned", err, info.Size())
		}
		t.Skip("the file system cannot: ", err)
	}
	got := make([]byte, len(theFile))
	if _, err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, theFile) {
		t.Error("the clone differs")
	}
	if c.CloneFrom(faultyFile{File: a}) == nil {
		t.Error("a file of another kind was cloned")
	}
}
