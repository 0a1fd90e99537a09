package integrity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"
)

// Sum is zeebo's hash, at the edges of blocks and however the reader cuts its bytes.
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
					"whole": bytes.NewReader(p[:size]), "halves": iotest.HalfReader(bytes.NewReader(p[:size])),
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

// An error of the reader is returned as it is, at whatever byte it comes, and so is the end of a context.
func TestSumFails(t *testing.T) {
	broken := errors.New("broken")
	for _, n := range []int{0, 1, blockBytes - 1, blockBytes, blockBytes + 1, 3 * blockBytes} {
		r := io.MultiReader(bytes.NewReader(make([]byte, n)), iotest.ErrReader(broken))
		if got, err := Sum(t.Context(), r); err != broken || got != (Root{}) {
			t.Errorf("after %d bytes: %v, %v", n, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Sum(ctx, endless{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if _, err := Sum(ctx, cancels{cancel, 10 * blockBytes, new(int)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// endless has zeros without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// cancels is endless, and cancels after some bytes.
type cancels struct {
	cancel func()
	after  int
	read   *int
}

func (c cancels) Read(p []byte) (int, error) {
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
