package wire

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestCheckTreePath(t *testing.T) {
	for _, p := range []string{
		"a", "a/b", "...", "a\\b", "\n", "\xff", "-", "~", " ", ".kwikcp",
		strings.Repeat("n", 255), strings.Repeat("a/", 10_000) + "a",
	} {
		if err := CheckTreePath(p); err != nil {
			t.Errorf("%.20q: %v", p, err)
		}
	}
	for _, p := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\x00",
		strings.Repeat("n", 256), strings.Repeat("a/", 20_000) + "a",
	} {
		if CheckTreePath(p) == nil {
			t.Errorf("%.20q is accepted", p)
		}
	}
}

// TestCompareTree checks that a walk of a tree with sorted directories is in tree order.
func TestCompareTree(t *testing.T) {
	paths := []string{"a", "a/b", "a/b/c", "a/b\x01", "a/c", "a\x01", "a b", "a.b", "aa", "b", "\xff"}
	for i, a := range paths {
		for j, b := range paths {
			want := slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
			if got := CompareTree(a, b); got != want {
				t.Errorf("%q and %q: %d, want %d (%d, %d)", a, b, got, want, i, j)
			}
		}
	}
}

func TestReadFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var want []BatchFile
	var raw []byte
	before, size := BatchFile{}, int64(0)
	for range 300 {
		f := BatchFile{
			Path:  fmt.Sprintf("dir%d/%c/file%d", r.IntN(3), 'a'+rune(r.IntN(3)), r.IntN(1000)),
			Size:  1 + r.Int64N(1<<40),
			Start: size,
			MTime: int64(r.Uint64()),
		}
		f.Root[r.IntN(RootPrefix)] = byte(r.IntN(256))
		raw = AppendFile(raw, before, f)
		want, before, size = append(want, f), f, f.End()
	}
	got, err := ReadFiles(raw, size)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d files, %v", len(got), err)
	}
	if _, err := ReadFiles(raw, size+1); err == nil {
		t.Error("files that do not fill their stream are accepted")
	}
	if _, err := ReadFiles(raw, size-1); err == nil {
		t.Error("files that exceed their stream are accepted")
	}
	for n := range 100 {
		if _, err := ReadFiles(raw[:len(raw)-1-n], size); err == nil {
			t.Errorf("a descriptor without its last %d bytes is accepted", n+1)
		}
	}
}

// TestPathsAreBounded checks that a small message cannot use much memory.
func TestPathsAreBounded(t *testing.T) {
	long := strings.Repeat("d/", MaxTreePath/2-1) + "f"
	raw, before := []byte(nil), ""
	for range MaxBatchPaths/len(long) + 1 {
		raw = AppendPath(raw, before, long)
		before = long
	}
	r := PathReader{Rest: raw}
	for r.More() {
		if _, err := r.Path(); err != nil {
			return
		}
	}
	t.Errorf("%d bytes of paths from %d", r.read, len(raw))
}

func FuzzReadFiles(f *testing.F) {
	f.Add(AppendFile(nil, BatchFile{}, BatchFile{Path: "a/b", Size: 3}), int64(3))
	f.Add([]byte{5, 1, 'a'}, int64(1))
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		files, err := ReadFiles(raw, size)
		if err != nil {
			return
		}
		sum := int64(0)
		for _, x := range files {
			if CheckTreePath(x.Path) != nil || x.Size <= 0 || x.Start != sum {
				t.Fatalf("%+v after %d bytes", x, sum)
			}
			sum += x.Size
		}
		if sum != size {
			t.Fatalf("%d of %d bytes", sum, size)
		}
	})
}

// TestOrderedPaths checks that ordered paths are distinct and in tree order.
func TestOrderedPaths(t *testing.T) {
	read := func(paths ...string) error {
		raw, before := []byte(nil), ""
		for _, p := range paths {
			raw, before = AppendPath(raw, before, p), p
		}
		for r := (PathReader{Rest: raw, Ordered: true}); r.More(); {
			if _, err := r.Path(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, paths := range [][]string{{"a"}, {"a", "b"}, {"a", "a/b", "a/c", "a.b"}, {"A", "a", "aa", "\xff"}} {
		if err := read(paths...); err != nil {
			t.Errorf("%q: %v", paths, err)
		}
	}
	for _, paths := range [][]string{
		{"a", "a"}, {"b", "a"}, {"a.b", "a/b"}, {"a/b", "a"}, {"a", "b", "a"}, {"a", "b", "b"}, {"a", "A"},
	} {
		if read(paths...) == nil {
			t.Errorf("%q are accepted", paths)
		}
	}
}

func FuzzOrderedPaths(f *testing.F) {
	f.Add(AppendPath(AppendPath(nil, "", "a/b"), "a/b", "a/c"))
	f.Add([]byte{0, 1, 'b', 0, 1, 'a'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		last := ""
		for r := (PathReader{Rest: raw, Ordered: true}); r.More(); {
			path, err := r.Path()
			if err != nil {
				return
			}
			if CompareTree(last, path) >= 0 || CheckTreePath(path) != nil {
				t.Fatalf("%q after %q", path, last)
			}
			last = path
		}
	})
}
