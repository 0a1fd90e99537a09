package integrity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"
)

// Sum agrees with the other library at the edges of blocks, however the reader cuts
// its bytes.
func TestSum(t *testing.T) {
	p := pattern(9*blockBytes + 5)
	for _, n := range []int{0, 1, 1023, 1024, 1025, 70_000} {
		for blocks := range 6 {
			for _, size := range []int{blocks*blockBytes + n, blocks*blockBytes - n} {
				if size < 0 {
					continue
				}
				want := Root(blake3.Sum256(p[:size]))
				for name, r := range map[string]io.Reader{
					"whole":          bytes.NewReader(p[:size]),
					"halves":         iotest.HalfReader(bytes.NewReader(p[:size])),
					"end with bytes": iotest.DataErrReader(bytes.NewReader(p[:size])),
				} {
					if got, err := Sum(t.Context(), r); err != nil || got != want {
						t.Errorf("%d bytes, %s: %v, %v, want %v", size, name, got, err, want)
					}
				}
			}
		}
	}
}

// Sum returns an error of the reader as it is, wherever it occurs. An unexpected end
// is such an error, and not the end of the stream.
func TestSumReadError(t *testing.T) {
	for _, want := range []error{errors.New("broken"), io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
		for _, n := range []int{0, 1, blockBytes - 1, blockBytes, blockBytes + 1, 3 * blockBytes} {
			r := io.MultiReader(bytes.NewReader(make([]byte, n)), iotest.ErrReader(want))
			got, err := Sum(t.Context(), r)
			if err != want {
				t.Errorf("after %d bytes: error %v, want %v", n, err, want)
			}
			if got != (Root{}) {
				t.Errorf("after %d bytes: root %v beside an error", n, got)
			}
		}
	}
}

func TestSumCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	read := 0
	if _, err := Sum(ctx, cancels{cancel: cancel, after: 1, read: &read}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	if read != 0 {
		t.Errorf("cancelled before: %d bytes read", read)
	}

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	within := cancels{cancel: cancel, after: 10 * blockBytes, read: &read}
	if _, err := Sum(ctx, within); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled within: %v", err)
	}
	if read > 10*blockBytes {
		t.Errorf("cancelled after %d bytes: %d read", 10*blockBytes, read)
	}
}

// cancels is an endless stream of zeros that cancels a context after some bytes.
type cancels struct {
	cancel func()
	after  int
	read   *int
}

func (c cancels) Read(p []byte) (int, error) {
	clear(p)
	if *c.read += len(p); *c.read >= c.after {
		c.cancel()
	}
	return len(p), nil
}

func BenchmarkSum(b *testing.B) {
	p := pattern(64 << 20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := Sum(b.Context(), bytes.NewReader(p)); err != nil {
			b.Fatal(err)
		}
	}
}
