package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kwikcp/internal/rangeset"
)

// A ByteRange is a part of a file as HTTP and curl write it (RFC 9110 section 14.1.2):
// FIRST-LAST, both included and counted from 0, FIRST- to the end, or -N for the last N bytes.
type ByteRange struct {
	First int64 // -1 for the last N bytes
	Last  int64 // included, math.MaxInt64 for the end; N if First is -1
}

// ParseByteRange reads a ByteRange. Its errors say what is wrong with it in a few words.
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

// String returns the range in a form that ParseByteRange reads.
func (r ByteRange) String() string {
	switch {
	case r.First < 0:
		return fmt.Sprintf("-%d", r.Last)
	case r.Last == math.MaxInt64:
		return fmt.Sprintf("%d-", r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Of returns the bytes of the range in a file of some size, as far as there are any.
func (r ByteRange) Of(size int64) rangeset.Range {
	if r.First < 0 {
		return rangeset.Range{Start: max(0, size-r.Last), End: size}
	}
	return rangeset.Range{Start: min(r.First, size), End: min(r.Last, size-1) + 1}
}

// A RangeError says that a file has no byte of the range that was asked for.
type RangeError struct {
	Range ByteRange
	Size  int64 // of the file, in bytes
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("there are no bytes %v, the file has %d", e.Range, e.Size)
}

// setWindow finds out which bytes are wanted and prepares the part file for them.
func (g *get) setWindow() error {
	want := g.Range.Of(g.tree.Size())
	if want.Empty() {
		return &Error{Kind: KindNotFound, Op: fmt.Sprintf("fetch %q", g.URL.Path), Err: &RangeError{*g.Range, g.tree.Size()}}
	}
	cover, err := g.part.SetWindow(want, g.tree)
	if err != nil {
		return targetError(g.path, err)
	}
	g.result.Offset = want.Start
	g.observer.outside(g.tree.Size() - cover.Len())
	return nil
}

// spool makes a place for a range that goes to the output: its groups come in any order, and
// may be more than memory holds. The directory is the caller's to remove.
func spool() (target, dir string, err error) {
	if dir, err = os.MkdirTemp("", "kwikcp-"); err != nil {
		return "", "", LocalError("make a temporary file for the range", err)
	}
	return filepath.Join(dir, "range"), dir, nil
}

// copyOut copies the range from the part file to the output.
func (g *get) copyOut(ctx context.Context) error {
	r := g.part.Content()
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := g.Output.Write(buf[:n]); err != nil {
				return LocalError("write the output", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return LocalError("read the temporary file of the range", err)
		}
	}
	return context.Cause(ctx)
}
