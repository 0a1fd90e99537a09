package wire

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"kwikcp/internal/rangeset"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

func TestParseByteRange(t *testing.T) {
	for text, want := range map[string]rangeset.Range{ // in a file of 100 bytes
		"0-0": {Start: 0, End: 1}, "0-": {Start: 0, End: 100}, "99-": {Start: 99, End: 100},
		"10-19": {Start: 10, End: 20}, "10-1000": {Start: 10, End: 100},
		"-1": {Start: 99, End: 100}, "-100": {Start: 0, End: 100}, "-1000": {Start: 0, End: 100},
		"007-8": {Start: 7, End: 9}, "0-9223372036854775807": {Start: 0, End: 100},
		"100-": {}, "100-200": {}, "9223372036854775807-": {},
	} {
		r, err := ParseByteRange(text)
		got := r.Of(100)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if bothEmpty := got.Empty() && want.Empty(); got != want && !bothEmpty {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
		if !r.Of(0).Empty() {
			t.Errorf("%s: %v of an empty file", text, r.Of(0))
		}
		if again, err := ParseByteRange(r.String()); err != nil || again != r {
			t.Errorf("%s became %v: %v", text, r, err)
		}
	}
	for _, text := range []string{
		"", "-", "5", "5-4", "-0", "a-b", "1-b", "a-1", "1-2-3", "--1", "+1-2", "1-+2", " 1-2", "1 - 2", "0-1,3-4",
		"0x1-", "9223372036854775808-", "bytes=0-1", "1_0-",
	} {
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

func TestReadByteRangeRefuses(t *testing.T) {
	for _, m := range []*transferpb.ByteRange{
		{Start: 1, End: 1},
		{Start: 2, End: 1},
		{Start: 1, Suffix: 1},
		{End: 1, Suffix: 1},
		{Start: math.MaxInt64 + 1},
		{End: math.MaxInt64 + 1},
		{Suffix: math.MaxUint64},
	} {
		if r, err := ReadByteRange(m); err == nil {
			t.Errorf("%v is %v, %v", m, r, err)
		}
	}
}

// FuzzReadByteRange checks that every accepted range survives encoding and lies within any
// file.
func FuzzReadByteRange(f *testing.F) {
	for _, m := range []*transferpb.ByteRange{{}, {Start: 5}, {Start: 5, End: 6}, {Suffix: 7}, {End: math.MaxInt64}} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, int64(1000))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		m := &transferpb.ByteRange{}
		if proto.Unmarshal(raw, m) != nil || size < 0 {
			return
		}
		r, err := ReadByteRange(m)
		if err != nil {
			return
		}
		if again, err := ReadByteRange(r.Message()); err != nil || again != r {
			t.Errorf("%v became %v: %v", r, again, err)
		}
		if of := r.Of(size); !of.Empty() && (of.Start < 0 || of.End > size) {
			t.Errorf("%v of %d is %v", r, size, of)
		}
	})
}
