package serve

import (
	"math"
	"slices"
	"testing"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
)

// An extentFile is a file whose data is at the given ranges, as its file system says.
type extentFile struct {
	disk.File
	next func(off int64) (start, end int64, ok bool)
}

func (f extentFile) NextData(off int64) (start, end int64, ok bool) { return f.next(off) }

func extents(data ...rangeset.Range) extentFile {
	set := rangeset.Of(data...)
	return extentFile{next: func(off int64) (start, end int64, ok bool) {
		r, ok := set.NextPresent(off, math.MaxInt64)
		return r.Start, r.End, ok
	}}
}

// span returns the bytes [start, end).
func span(start, end int64) rangeset.Range { return rangeset.Range{Start: start, End: end} }

// found returns the holes that the server announces of a file.
func found(t *testing.T, f disk.File, size int64) (holes []rangeset.Range, h announcedHoles) {
	t.Helper()
	h = findHoles(f, size)
	set, err := wire.ReadHoles(h.raw, size)
	if err != nil {
		t.Fatalf("a client rejects the holes: %v", err)
	}
	return set.Ranges(), h
}

func TestFindHoles(t *testing.T) {
	type ranges = []rangeset.Range
	const mib, largest = 1 << 20, math.MaxInt64
	around, last := ranges{span(0, 8192), span(12288, mib)}, ranges{span(0, largest-4095)}
	unknown := func(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }
	nowhere := func(int64) (start, end int64, ok bool) { return 0, 0, true }
	back := func(int64) (start, end int64, ok bool) { return -5, 4096, true }
	for name, x := range map[string]struct {
		size int64
		file extentFile
		want ranges
		more bool
	}{
		"empty":                        {0, extents(), nil, false},
		"all data":                     {mib, extents(span(0, mib)), nil, false},
		"data beyond the end":          {mib, extents(span(0, 2*mib)), nil, false},
		"all hole":                     {mib + 5, extents(), ranges{span(0, mib+5)}, false},
		"a byte":                       {1, extents(), ranges{span(0, 1)}, false},
		"grew meanwhile":               {mib, extents(span(2*mib, 3*mib)), ranges{span(0, mib)}, false},
		"data between":                 {mib, extents(span(8192, 12288)), around, false},
		"blocks of 512 bytes":          {mib, extents(span(8704, 9216)), around, false},
		"holes of less than a block":   {16384, extents(span(512, 8192), span(8704, 16384)), nil, false},
		"short hole at the end":        {8192 + 7, extents(span(0, 8192)), ranges{span(8192, 8199)}, false},
		"not supported":                {mib, extentFile{next: unknown}, nil, false},
		"a file system without sense":  {mib, extentFile{next: nowhere}, nil, false},
		"a file system that goes back": {mib, extentFile{next: back}, nil, false},
		"the largest offsets":          {largest, extents(span(largest-5, largest)), last, false},
	} {
		got, h := found(t, x.file, x.size)
		if !slices.Equal(got, x.want) || h.more != x.more {
			t.Errorf("%s: found %v, more %t; want %v, %t", name, got, h.more, x.want, x.more)
		}
	}
}

// TestAttackFilesOfManyHoles checks that a file with a million holes costs a bounded number of
// calls. Its manifest is bounded, too, and has the largest holes.
func TestAttackFilesOfManyHoles(t *testing.T) {
	const size = 1 << 40
	calls := 0
	every := func(off int64) (start, end int64, ok bool) { // 4 KiB of data each 8 KiB, each 64th hole is larger
		calls++
		i := off / 8192
		if i%64 == 0 {
			return (i + 1) * 8192, (i+1)*8192 + 4096, true
		}
		return i*8192 + 4096, (i + 1) * 8192, true
	}
	got, h := found(t, extentFile{next: every}, size)
	if calls > maxExtents || len(got) > wire.MaxHoles || len(h.raw) > 16<<10 {
		t.Errorf("%d calls, %d holes of %d bytes", calls, len(got), len(h.raw))
	}
	if !h.more {
		t.Error("more_holes is not set")
	}
	if len(got) < 100 || slices.ContainsFunc(got, func(r rangeset.Range) bool { return r.Len() < 8192 }) {
		t.Errorf("the largest %d holes are not the largest", len(got))
	}
}

// TestHeadStartEndsBeforeHoles checks that a client gets no bytes that it will not request.
func TestHeadStartEndsBeforeHoles(t *testing.T) {
	const group = 65536
	for name, x := range map[string]struct {
		holes   []rangeset.Range
		n, want int64
	}{
		"none":                     {nil, 1 << 20, 1 << 20},
		"at the start":             {[]rangeset.Range{span(0, 1<<20)}, 1 << 20, 0},
		"after a block":            {[]rangeset.Range{span(4096, 1<<20)}, 1 << 20, group},
		"after a group":            {[]rangeset.Range{span(group, 1<<20)}, 1 << 20, group},
		"beyond":                   {[]rangeset.Range{span(1<<21, 1<<22)}, 1 << 20, 1 << 20},
		"inside a group":           {[]rangeset.Range{span(4096, 8192)}, 1 << 20, 1 << 20},
		"inside two groups":        {[]rangeset.Range{span(4096, 2*group-4096)}, 1 << 20, 1 << 20},
		"small before large":       {[]rangeset.Range{span(4096, 8192), span(3*group, 5*group)}, 1 << 20, 3 * group},
		"less wanted":              {[]rangeset.Range{span(group, 1<<20)}, 100, 100},
		"the last group, a byte":   {[]rangeset.Range{span(group, group+1)}, 1 << 20, group},
		"the end of another group": {[]rangeset.Range{span(4096, 8000)}, 1 << 20, 1 << 20},
	} {
		if got := (announcedHoles{size: group + 1, ranges: x.holes}).headStart(x.n, group); got != x.want {
			t.Errorf("%s: a head start of %d, want %d", name, got, x.want)
		}
	}
}
