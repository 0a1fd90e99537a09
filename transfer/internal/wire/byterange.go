package wire

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"kwikcp/internal/rangeset"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A ByteRange is a part of a file in the notation of HTTP and curl (RFC 9110 section 14.1.2).
// FIRST-LAST includes both ends and counts from 0. FIRST- extends to the end of the file. -N
// means the last N bytes.
type ByteRange struct {
	First int64 // -1 for the last N bytes
	Last  int64 // included, math.MaxInt64 for the end; N if First is -1
}

// ParseByteRange parses a ByteRange. The text of its errors is a short clause for
// the user, such as "it ends before it starts".
func ParseByteRange(text string) (ByteRange, error) {
	first, last, ok := strings.Cut(text, "-")
	if !ok || first == "" && last == "" {
		return ByteRange{}, errors.New("it is not START-END, START- or -LAST")
	}
	r := ByteRange{First: -1, Last: math.MaxInt64}
	for _, x := range []struct {
		text string
		to   *int64
	}{{first, &r.First}, {last, &r.Last}} {
		if x.text == "" {
			continue
		}
		n, err := strconv.ParseUint(x.text, 10, 63) // takes no sign
		if err != nil {
			return ByteRange{}, fmt.Errorf("%q is not a number of bytes", x.text)
		}
		*x.to = int64(n)
	}
	switch {
	case r.First > r.Last:
		return ByteRange{}, errors.New("it ends before it starts")
	case r.First < 0 && r.Last == 0:
		return ByteRange{}, errors.New("it has no byte")
	}
	return r, nil
}

// String returns the range in the notation that [ParseByteRange] parses.
func (r ByteRange) String() string {
	switch {
	case r.First < 0:
		return fmt.Sprintf("-%d", r.Last)
	case r.Last == math.MaxInt64:
		return fmt.Sprintf("%d-", r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Of returns the bytes of the range that a file of size bytes has.
func (r ByteRange) Of(size int64) rangeset.Range {
	if r.First < 0 {
		return rangeset.Range{Start: max(0, size-r.Last), End: size}
	}
	return rangeset.Range{Start: min(r.First, size), End: min(r.Last, size-1) + 1}
}

// Message returns the range as a field of a Request.
func (r ByteRange) Message() *transferpb.ByteRange {
	switch {
	case r.First < 0:
		return &transferpb.ByteRange{Suffix: uint64(r.Last)}
	case r.Last == math.MaxInt64:
		return &transferpb.ByteRange{Start: uint64(r.First)}
	}
	return &transferpb.ByteRange{Start: uint64(r.First), End: uint64(r.Last) + 1}
}

var errRange = errors.New("no file can have the range")

// ReadByteRange returns the range of a Request. It fails for a range that no file can have.
func ReadByteRange(m *transferpb.ByteRange) (ByteRange, error) {
	start, end, suffix := m.GetStart(), m.GetEnd(), m.GetSuffix()
	isSuffix := suffix != 0
	tooLarge := max(start, end, suffix) > math.MaxInt64
	empty := end != 0 && end <= start
	switch {
	case tooLarge, empty, isSuffix && (start != 0 || end != 0):
		return ByteRange{}, errRange
	case isSuffix:
		return ByteRange{First: -1, Last: int64(suffix)}, nil
	case end == 0:
		return ByteRange{First: int64(start), Last: math.MaxInt64}, nil
	}
	return ByteRange{First: int64(start), Last: int64(end) - 1}, nil
}
