package rangeset

import (
	"math"
	"slices"
	"testing"
)

// of reads better in tables than Of.
func of(bounds ...int64) Set {
	var s Set
	for i := 0; i < len(bounds); i += 2 {
		s.Add(bounds[i], bounds[i+1])
	}
	return s
}

func TestAdd(t *testing.T) {
	for _, tt := range []struct {
		name       string
		set        Set
		start, end int64
		want       string
		added      int64
	}{
		{"into an empty set", of(), 10, 20, "{[10,20)}", 10},
		{"nothing", of(0, 5), 7, 7, "{[0,5)}", 0},
		{"inverted", of(0, 5), 9, 7, "{[0,5)}", 0},
		{"before all", of(20, 30), 0, 10, "{[0,10) [20,30)}", 10},
		{"after all", of(0, 10), 20, 30, "{[0,10) [20,30)}", 10},
		{"between", of(0, 10, 40, 50), 20, 30, "{[0,10) [20,30) [40,50)}", 10},
		{"one byte apart stays apart", of(0, 10), 11, 20, "{[0,10) [11,20)}", 9},
		{"touching the end of one joins", of(0, 10), 10, 20, "{[0,20)}", 10},
		{"touching the start of one joins", of(10, 20), 0, 10, "{[0,20)}", 10},
		{"filling a gap exactly joins both sides", of(0, 10, 20, 30), 10, 20, "{[0,30)}", 10},
		{"what is there already", of(0, 10), 0, 10, "{[0,10)}", 0},
		{"inside", of(0, 10), 3, 7, "{[0,10)}", 0},
		{"overlapping the end", of(0, 10), 5, 15, "{[0,15)}", 5},
		{"overlapping the start", of(10, 20), 5, 15, "{[5,20)}", 5},
		{"around one", of(10, 20), 5, 25, "{[5,25)}", 10},
		{"around several", of(10, 20, 30, 40, 50, 60), 5, 65, "{[5,65)}", 30},
		{"across several, into the outer two", of(0, 10, 20, 30, 40, 50), 5, 45, "{[0,50)}", 20},
		{"touching two and swallowing one", of(0, 10, 20, 30, 40, 50), 10, 40, "{[0,50)}", 20},
		{"leaving neighbours alone", of(0, 10, 20, 30, 40, 50), 15, 35, "{[0,10) [15,35) [40,50)}", 10},
		{"up to the largest offset", of(0, 10), 10, math.MaxInt64, "{[0,9223372036854775807)}", math.MaxInt64 - 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			added := tt.set.Add(tt.start, tt.end)
			if got := tt.set.String(); got != tt.want || added != tt.added {
				t.Errorf("Add(%d, %d): set %v, added %d; want %v, %d", tt.start, tt.end, got, added, tt.want, tt.added)
			}
			check(t, &tt.set)
		})
	}
}

func TestSub(t *testing.T) {
	for _, tt := range []struct {
		name       string
		set        Set
		start, end int64
		want       string
		removed    int64
	}{
		{"from an empty set", of(), 0, 10, "{}", 0},
		{"nothing", of(0, 10), 5, 5, "{[0,10)}", 0},
		{"inverted", of(0, 10), 7, 3, "{[0,10)}", 0},
		{"what is not there", of(0, 10, 20, 30), 10, 20, "{[0,10) [20,30)}", 0},
		{"exactly one", of(0, 10, 20, 30), 0, 10, "{[20,30)}", 10},
		{"everything", of(0, 10, 20, 30), 0, 30, "{}", 20},
		{"a hole", of(0, 10), 3, 7, "{[0,3) [7,10)}", 4},
		{"the head", of(0, 10), 0, 4, "{[4,10)}", 4},
		{"the tail", of(0, 10), 6, 10, "{[0,6)}", 4},
		{"beyond both ends", of(10, 20), 0, 30, "{}", 10},
		{"the tail of one and the head of the next", of(0, 10, 20, 30), 5, 25, "{[0,5) [25,30)}", 10},
		{"across three, the middle one vanishes", of(0, 10, 20, 30, 40, 50), 5, 45, "{[0,5) [45,50)}", 20},
		{"leaving neighbours alone", of(0, 10, 20, 30, 40, 50), 15, 35, "{[0,10) [40,50)}", 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			removed := tt.set.Sub(tt.start, tt.end)
			if got := tt.set.String(); got != tt.want || removed != tt.removed {
				t.Errorf("Sub(%d, %d): set %v, removed %d; want %v, %d", tt.start, tt.end, got, removed, tt.want, tt.removed)
			}
			check(t, &tt.set)
		})
	}
}

func TestQueries(t *testing.T) {
	s := of(10, 20, 30, 40)
	for off, want := range map[int64]bool{0: false, 9: false, 10: true, 19: true, 20: false, 29: false, 30: true, 39: true, 40: false} {
		if got := s.Contains(off); got != want {
			t.Errorf("Contains(%d) = %v", off, got)
		}
	}
	for _, tt := range []struct {
		start, end int64
		all        bool
		overlap    int64
	}{
		{10, 20, true, 10},
		{12, 15, true, 3},
		{9, 20, false, 10},
		{10, 21, false, 10},
		{10, 40, false, 20}, // a gap is a gap
		{0, 100, false, 20},
		{20, 30, false, 0},
		{5, 5, true, 0}, // no byte of an empty range is missing
		{7, 3, true, 0},
		{40, 50, false, 0},
	} {
		if got := s.ContainsRange(tt.start, tt.end); got != tt.all {
			t.Errorf("ContainsRange(%d, %d) = %v", tt.start, tt.end, got)
		}
		if got := s.Overlap(tt.start, tt.end); got != tt.overlap {
			t.Errorf("Overlap(%d, %d) = %d, want %d", tt.start, tt.end, got, tt.overlap)
		}
	}
}

func TestNext(t *testing.T) {
	s := of(10, 20, 30, 40)
	none := Range{}
	for _, tt := range []struct {
		from, limit      int64
		missing, present Range
	}{
		{0, 50, Range{0, 10}, Range{10, 20}},
		{0, 5, Range{0, 5}, none},
		{0, 10, Range{0, 10}, none},
		{0, 11, Range{0, 10}, Range{10, 11}},
		{10, 50, Range{20, 30}, Range{10, 20}},
		{10, 20, none, Range{10, 20}},
		{15, 18, none, Range{15, 18}},
		{15, 25, Range{20, 25}, Range{15, 20}},
		{20, 50, Range{20, 30}, Range{30, 40}},
		{35, 50, Range{40, 50}, Range{35, 40}},
		{40, 50, Range{40, 50}, none},
		{20, 20, none, none},
		{15, 15, none, none},
		{50, 0, none, none},
	} {
		if got, ok := s.NextMissing(tt.from, tt.limit); got != tt.missing || ok != (tt.missing != none) {
			t.Errorf("NextMissing(%d, %d) = %v, %v; want %v", tt.from, tt.limit, got, ok, tt.missing)
		}
		if got, ok := s.NextPresent(tt.from, tt.limit); got != tt.present || ok != (tt.present != none) {
			t.Errorf("NextPresent(%d, %d) = %v, %v; want %v", tt.from, tt.limit, got, ok, tt.present)
		}
	}
	var empty Set
	if got, ok := empty.NextMissing(3, 9); got != (Range{3, 9}) || !ok {
		t.Errorf("NextMissing of an empty set = %v, %v", got, ok)
	}
}

func TestZeroSet(t *testing.T) {
	var s Set
	if s.Total() != 0 || s.Len() != 0 {
		t.Errorf("an empty set has %d bytes in %d ranges", s.Total(), s.Len())
	}
	if s.Contains(0) {
		t.Error("an empty set contains offset 0")
	}
	if r := s.Ranges(); len(r) != 0 {
		t.Errorf("an empty set has the ranges %v", r)
	}
	if _, ok := s.First(); ok {
		t.Error("First of an empty set")
	}
	if _, ok := s.Last(); ok {
		t.Error("Last of an empty set")
	}
	for r := range s.All() {
		t.Errorf("All of an empty set yields %v", r)
	}
}

func TestCopies(t *testing.T) {
	s := Of(Range{30, 40}, Range{10, 20}, Range{15, 15})
	want := []Range{{10, 20}, {30, 40}}
	if got := slices.Collect(s.All()); !slices.Equal(got, want) {
		t.Errorf("All = %v, want %v", got, want)
	}
	if r, ok := s.First(); r != want[0] || !ok {
		t.Errorf("First = %v", r)
	}
	if r, ok := s.Last(); r != want[1] || !ok {
		t.Errorf("Last = %v", r)
	}
	c, rs := s.Clone(), s.Ranges()
	s.Add(0, 100)
	if c.String() != "{[10,20) [30,40)}" || c.Total() != 20 || !slices.Equal(rs, want) {
		t.Errorf("a copy changed with its original: clone %v, ranges %v", &c, rs)
	}
	for range s.All() {
		break // an iterator may be left early
	}
}

// check fails the test if s is not in canonical form.
func check(t *testing.T, s *Set) {
	t.Helper()
	var total int64
	for i, r := range s.ranges {
		if r.Empty() {
			t.Fatalf("empty range in %v", s)
		}
		if i > 0 && s.ranges[i-1].End >= r.Start {
			t.Fatalf("ranges overlap, touch or are out of order in %v", s)
		}
		total += r.Len()
	}
	if total != s.Total() || s.Len() != len(s.ranges) {
		t.Fatalf("Total %d, Len %d of %v", s.Total(), s.Len(), s)
	}
}

// FuzzSet replays operations, three bytes each, beside a []bool.
func FuzzSet(f *testing.F) {
	f.Add([]byte{0, 10, 20, 0, 20, 30, 1, 15, 25})
	f.Add([]byte{0, 0, 255, 1, 3, 4, 1, 7, 9, 0, 2, 8, 0, 9, 3})
	f.Add([]byte{0, 1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 8, 1, 2, 7, 0, 0, 9})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const size = 256
		if len(ops) > 300 {
			ops = ops[:300]
		}
		var s Set
		var model [size]bool
		for len(ops) >= 3 {
			op, start, end := ops[0], int64(ops[1]), int64(ops[2])
			ops = ops[3:]
			var changed int64
			for i := start; i < end; i++ {
				if model[i] != (op%2 == 0) {
					changed++
					model[i] = op%2 == 0
				}
			}
			var got int64
			if op%2 == 0 {
				got = s.Add(start, end)
			} else {
				got = s.Sub(start, end)
			}
			if got != changed {
				t.Fatalf("op %d [%d,%d) changed %d bytes, model says %d", op%2, start, end, got, changed)
			}
			check(t, &s)
			compare(t, &s, model[:], start, end)
		}
	})
}

// compare checks every query about [from, limit), and each byte, by the model.
func compare(t *testing.T, s *Set, model []bool, from, limit int64) {
	t.Helper()
	next := func(want bool) (r Range, ok bool) {
		for i := from; i < limit; i++ {
			switch {
			case model[i] == want && !ok:
				r, ok = Range{i, i + 1}, true
			case model[i] == want:
				r.End = i + 1
			case ok:
				return r, ok
			}
		}
		return r, ok
	}
	wm, wmok := next(false)
	if r, ok := s.NextMissing(from, limit); r != wm || ok != wmok {
		t.Fatalf("NextMissing(%d, %d) of %v = %v, %v; model says %v, %v", from, limit, s, r, ok, wm, wmok)
	}
	if s.ContainsRange(from, limit) != !wmok {
		t.Fatalf("ContainsRange(%d, %d) of %v; model says %v", from, limit, s, !wmok)
	}
	wp, wpok := next(true)
	if r, ok := s.NextPresent(from, limit); r != wp || ok != wpok {
		t.Fatalf("NextPresent(%d, %d) of %v = %v, %v; model says %v, %v", from, limit, s, r, ok, wp, wpok)
	}
	var overlap, total int64
	for i, b := range model {
		if s.Contains(int64(i)) != b {
			t.Fatalf("Contains(%d) of %v, model says %v", i, s, b)
		}
		if b {
			total++
			if int64(i) >= from && int64(i) < limit {
				overlap++
			}
		}
	}
	if s.Total() != total || s.Overlap(from, limit) != overlap {
		t.Fatalf("Total %d, Overlap %d of %v; model says %d, %d", s.Total(), s.Overlap(from, limit), s, total, overlap)
	}
}

// BenchmarkAddScattered is the reassembly of 4096 groups that arrive in a scattered order, the
// worst case of a many-source copy.
func BenchmarkAddScattered(b *testing.B) {
	const n, group = 4096, 16 << 10
	for b.Loop() {
		var s Set
		for i := range int64(n) {
			k := i * 2039 % n // 2039 is odd, so this visits every group once
			s.Add(k*group, (k+1)*group)
		}
		if s.Len() != 1 {
			b.Fatal(s.Len())
		}
	}
}
