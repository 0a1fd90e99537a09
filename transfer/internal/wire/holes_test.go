package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"kwikcp/internal/rangeset"
)

func TestHolesAreReadAsWritten(t *testing.T) {
	const largest = math.MaxInt64
	for _, x := range []struct {
		size  int64
		holes []rangeset.Range
	}{
		{0, nil},
		{1, []rangeset.Range{{Start: 0, End: 1}}},
		{4096, []rangeset.Range{{Start: 0, End: 4096}}},
		{4097, []rangeset.Range{{Start: 4096, End: 4097}}},
		{1 << 20, []rangeset.Range{{Start: 0, End: 8192}, {Start: 12288, End: 16384}, {Start: 1 << 19, End: 1 << 20}}},
		{largest, []rangeset.Range{{Start: 0, End: 4096}, {Start: 8192, End: largest}}},
	} {
		raw := AppendHoles(nil, x.holes)
		got, err := ReadHoles(raw, x.size)
		if err != nil || !slices.Equal(got.Ranges(), x.holes) {
			t.Errorf("%v of %d bytes: read %v, %v", x.holes, x.size, got.Ranges(), err)
		}
	}
}

func TestMalformedHoles(t *testing.T) {
	uvarints := func(values ...uint64) (raw []byte) {
		for _, v := range values {
			raw = binary.AppendUvarint(raw, v)
		}
		return raw
	}
	var many []byte
	for range MaxHoles + 1 {
		many = append(many, 1, 1)
	}
	for name, x := range map[string]struct {
		size int64
		raw  []byte
	}{
		"of an empty file":     {0, uvarints(0, 1)},
		"negative size":        {-1, uvarints(0, 1)},
		"no length":            {1 << 20, uvarints(1)},
		"empty":                {1 << 20, uvarints(1, 0)},
		"touch each other":     {1 << 20, uvarints(1, 1, 0, 1)},
		"begins at the end":    {8192, uvarints(2, 1)},
		"beyond the end":       {8192, uvarints(1, 2)},
		"far beyond the end":   {8192, uvarints(math.MaxInt64, math.MaxInt64)},
		"overflow":             {math.MaxInt64, uvarints(1<<63, 1)},
		"length that wraps":    {math.MaxInt64, uvarints(1, math.MaxUint64)},
		"overlong varint":      {1 << 20, bytes.Repeat([]byte{0xff}, 11)},
		"a varint's first":     {1 << 20, []byte{1, 0x80}},
		"one more than it may": {1 << 30, many},
	} {
		if got, err := ReadHoles(x.raw, x.size); err == nil {
			t.Errorf("%s: read %v", name, got.Ranges())
		}
	}
	if _, err := ReadHoles(many[:2*MaxHoles], 1<<30); err != nil {
		t.Errorf("the most holes that are allowed: %v", err)
	}
}

func FuzzHoles(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1}, int64(10000))
	f.Add([]byte{0xff, 0xff, 1, 1}, int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		holes, err := ReadHoles(raw, size)
		if err != nil {
			return
		}
		last, _ := holes.Last()
		if holes.Len() > MaxHoles || last.End > max(size, 0) {
			t.Fatalf("%d holes up to %d in %d bytes", holes.Len(), last.End, size)
		}
		again, err := ReadHoles(AppendHoles(nil, holes.Ranges()), size)
		if err != nil || !slices.Equal(again.Ranges(), holes.Ranges()) {
			t.Fatalf("%v became %v, %v", holes.Ranges(), again.Ranges(), err)
		}
	})
}
