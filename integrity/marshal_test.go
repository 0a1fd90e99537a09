package integrity

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/zeebo/blake3"
)

var _ encoding.BinaryAppender = (*Tree)(nil)

func stored(t testing.TB, tree *Tree) []byte {
	t.Helper()
	b, err := tree.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStoredTreeRoundTrip(t *testing.T) {
	for _, g := range []GroupSize{0, 6, 10} {
		for _, size := range []int64{0, 1, g.Bytes() - 1, g.Bytes(), g.Bytes() + 1, 5*g.Bytes() + 7} {
			made := build(t, pattern(int(size)), g)
			b := stored(t, made)
			got, err := ParseTree(b)
			if err != nil || !equal(got, made) {
				t.Errorf("%d bytes, group size %d: %v", size, g, err)
				continue
			}
			clear(b)
			if !equal(got, made) {
				t.Error("a tree changed with a slice outside it")
			}
			after, _ := made.AppendBinary([]byte("before"))
			if !bytes.Equal(after, append([]byte("before"), stored(t, made)...)) {
				t.Error("AppendBinary does not append")
			}
		}
	}
}

// Later versions must read the form that marshal.go describes.
func TestStoredTreeForm(t *testing.T) {
	tree := build(t, pattern(2049), 1)
	want := []byte{1, 1, 0x01, 0x08, 0, 0, 0, 0, 0, 0}
	want = append(want, tree.root[:]...)
	want = append(want, tree.CVs()...)
	sum := blake3.Sum256(want)
	want = append(want, sum[:16]...)
	if got := stored(t, tree); !bytes.Equal(got, want) {
		t.Errorf("stored as\n%x, want\n%x", got, want)
	}
}

func TestParseTreeRefusesEveryFlipAndEveryCut(t *testing.T) {
	for _, size := range []int{0, 1, 1024, 1025, 5*1024 - 1} {
		b := stored(t, build(t, pattern(size), 0))
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			if tree, err := ParseTree(b); err == nil || tree != nil {
				t.Fatalf("%d bytes, bit %d of byte %d: no error", size, i%8, i/8)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		for n := range b {
			if _, err := ParseTree(b[:n]); !errors.Is(err, errStoredTree) {
				t.Fatalf("%d bytes, cut at %d: %v", size, n, err)
			}
		}
		if _, err := ParseTree(append(b, 0)); err == nil {
			t.Fatalf("%d bytes, one more: no error", size)
		}
	}
}

// seal appends a valid checksum to b, as a forger would.
func seal(b []byte) []byte {
	sum := blake3.Sum256(b)
	return append(bytes.Clone(b), sum[:16]...)
}

// ParseTree refuses wrong values although the checksum is right.
func TestParseTreeProves(t *testing.T) {
	b := stored(t, build(t, pattern(5*1024), 0))
	b = b[:len(b)-16]
	for _, i := range []int{1, 9, 10, 41, 42, len(b) - 1} { // group size, size, root, values
		b[i] ^= 0x80
		var pe *ProofError
		if _, err := ParseTree(seal(b)); !errors.As(err, &pe) {
			t.Errorf("byte %d wrong: %v", i, err)
		}
		b[i] ^= 0x80
	}
	b[0]++
	if _, err := ParseTree(seal(b)); !errors.Is(err, errStoredTree) {
		t.Errorf("another version: %v", err)
	}
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 58))
	for _, n := range []int{0, 1, 1025, 5000} {
		f.Add(stored(f, build(f, pattern(n), 0)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, seal(b)} {
			tree, err := ParseTree(b)
			if (err == nil) != (tree != nil) {
				t.Fatalf("%v, %v", tree, err)
			}
			if err == nil {
				if !bytes.Equal(stored(t, tree), b) {
					t.Fatalf("%x is a tree, and is stored as other bytes", b)
				}
				continue
			}
			var pe *ProofError
			if !errors.As(err, &pe) && !errors.Is(err, errStoredTree) {
				t.Fatal(err)
			}
		}
		if len(b) < 42 {
			return
		}
		// Cut to whole values and sealed, b is accepted if and only if FromCVs accepts it.
		cvs := b[42 : 42+(len(b)-42)/32*32]
		size := int64(binary.LittleEndian.Uint64(b[2:]) & math.MaxInt64)
		tree, err := FromCVs(size, GroupSize(b[1]), cvs, Root(b[10:]))
		again, err2 := ParseTree(seal(append(append([]byte{1}, b[1:42]...), cvs...)))
		if sizeIsNegative := b[9]&0x80 != 0; sizeIsNegative {
			return // size was changed above
		}
		if (err == nil) != (err2 == nil) {
			t.Fatalf("FromCVs returns %v, ParseTree %v", err, err2)
		}
		if err == nil && !equal(tree, again) {
			t.Fatal("FromCVs and ParseTree return different trees")
		}
	})
}

func BenchmarkParseTree(b *testing.B) {
	p := stored(b, build(b, pattern(1<<26), 0)) // 65,536 groups
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTree(p); err != nil {
			b.Fatal(err)
		}
	}
}
