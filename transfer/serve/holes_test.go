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
	const mib = 1 << 20
	for name, x := range map[string]struct {
		size int64
		file extentFile
		want ranges
		more bool
	}{
		"empty":                        {0, extents(), nil, false},
		"all data":                     {mib, extents(rangeset.Range{End: mib}), nil, false},
		"data beyond the end":          {mib, extents(rangeset.Range{End: 2 * mib}), nil, false},
		"all hole":                     {mib + 5, extents(), ranges{{Start: 0, End: mib + 5}}, false},
		"a byte":                       {1, extents(), ranges{{Start: 0, End: 1}}, false},
		"grew meanwhile":               {mib, extents(rangeset.Range{Start: 2 * mib, End: 3 * mib}), ranges{{Start: 0, End: mib}}, false},
		"data between":                 {mib, extents(rangeset.Range{Start: 8192, End: 12288}), ranges{{Start: 0, End: 8192}, {Start: 12288, End: mib}}, false},
		"blocks of 512 bytes":          {mib, extents(rangeset.Range{Start: 8704, End: 9216}), ranges{{Start: 0, End: 8192}, {Start: 12288, End: mib}}, false},
		"holes of less than a block":   {16384, extents(rangeset.Range{Start: 512, End: 8192}, rangeset.Range{Start: 8704, End: 16384}), nil, false},
		"short hole at the end":        {8192 + 7, extents(rangeset.Range{Start: 0, End: 8192}), ranges{{Start: 8192, End: 8199}}, false},
		"not supported":                {mib, extentFile{next: func(off int64) (int64, int64, bool) { return off, math.MaxInt64, true }}, nil, false},
		"a file system without sense":  {mib, extentFile{next: func(int64) (int64, int64, bool) { return 0, 0, true }}, nil, false},
		"a file system that goes back": {mib, extentFile{next: func(int64) (int64, int64, bool) { return -5, 4096, true }}, nil, false},
		"the largest offsets":          {math.MaxInt64, extents(rangeset.Range{Start: math.MaxInt64 - 5, End: math.MaxInt64}), ranges{{Start: 0, End: math.MaxInt64 - 4095}}, false},
	} {
		got, h := found(t, x.file, x.size)
		if !slices.Equal(got, x.want) || h.more != x.more {
			t.Errorf("%s: found %v, more %t; want %v, %t", name, got, h.more, x.want, x.more)
		}
	}
}

// TestAttackFilesOfManyHoles checks that a file with a million holes costs a bounded number of calls,
// and a bounded manifest, which has the largest holes.
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
	if calls > maxExtents || len(got) > wire.MaxHoles || len(h.raw) > 16<<10 || !h.more {
		t.Errorf("%d calls, %d holes of %d bytes, more %t", calls, len(got), len(h.raw), h.more)
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
		"at the start":             {[]rangeset.Range{{Start: 0, End: 1 << 20}}, 1 << 20, 0},
		"after a block":            {[]rangeset.Range{{Start: 4096, End: 1 << 20}}, 1 << 20, group},
		"after a group":            {[]rangeset.Range{{Start: group, End: 1 << 20}}, 1 << 20, group},
		"beyond":                   {[]rangeset.Range{{Start: 1 << 21, End: 1 << 22}}, 1 << 20, 1 << 20},
		"inside a group":           {[]rangeset.Range{{Start: 4096, End: 8192}}, 1 << 20, 1 << 20},
		"inside two groups":        {[]rangeset.Range{{Start: 4096, End: 2*group - 4096}}, 1 << 20, 1 << 20},
		"small before large":       {[]rangeset.Range{{Start: 4096, End: 8192}, {Start: 3 * group, End: 5 * group}}, 1 << 20, 3 * group},
		"less wanted":              {[]rangeset.Range{{Start: group, End: 1 << 20}}, 100, 100},
		"the last group, a byte":   {[]rangeset.Range{{Start: group, End: group + 1}}, 1 << 20, group},
		"the end of another group": {[]rangeset.Range{{Start: 4096, End: 8000}}, 1 << 20, 1 << 20},
	} {
		if got := (announcedHoles{size: group + 1, ranges: x.holes}).headStart(x.n, group); got != x.want {
			t.Errorf("%s: a head start of %d, want %d", name, got, x.want)
		}
	}
}
