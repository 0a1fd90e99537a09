package kwik

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// chunkReader returns at most one chunk of its bytes per Read, as a QUIC stream returns the
// bytes that have arrived. A Read beyond the last chunk would block, and fails the test.
type chunkReader struct {
	t      *testing.T
	chunks [][]byte
	end    error
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.chunks) == 0 {
		if r.end == nil {
			r.t.Fatal("a Read that would wait")
		}
		return 0, r.end
	}
	n := copy(p, r.chunks[0])
	if r.chunks[0] = r.chunks[0][n:]; len(r.chunks[0]) == 0 {
		r.chunks = r.chunks[1:]
	}
	return n, nil
}

func TestFrameReaderTakesWhatIsThere(t *testing.T) {
	content := randomBytes(1, 10_000)
	r := &chunkReader{t: t, chunks: [][]byte{content[:100], content[100:3000], content[3000:3001], content[3001:]}}
	f := &frameReader{r: r}
	defer f.release()
	head := make([]byte, 10)
	read := func(p []byte, from int) {
		t.Helper()
		if _, err := io.ReadFull(f, p); err != nil || !bytes.Equal(p, content[from:from+len(p)]) {
			t.Fatalf("%d bytes at %d: %v", len(p), from, err)
		}
	}
	read(head, 0)
	if f.buffered() != headWindow-10 || f.b != nil {
		t.Fatalf("for a head %d bytes were read ahead", f.buffered())
	}
	arrived := 0
	count := func(n int) { arrived += n }
	// 90 bytes are there. gather also takes the bytes that arrived with them, and does not wait
	// for more.
	if err := f.gather(60, 4096, count); err != nil || arrived != 60 || f.buffered() != 90 {
		t.Fatalf("%v, %d arrived, %d buffered", err, arrived, f.buffered())
	}
	if err := f.gather(2000, 4096, count); err != nil || arrived != 2060 || f.buffered() != 2990 {
		t.Fatalf("%v, %d arrived, %d buffered", err, arrived, f.buffered())
	}
	read(make([]byte, 2985), 10)
	if err := f.gather(8, 4096, count); err != nil || f.buffered() != 4096 || arrived != 2068 {
		t.Fatalf("%v, %d arrived, %d buffered", err, arrived, f.buffered()) // two Reads, the second of which the room ended
	}
	read(make([]byte, 4096), 2995)
	// From now on heads are read far ahead as well, until that is over.
	read(head, 7091)
	if f.buffered() != 10_000-7101 {
		t.Fatalf("%d buffered", f.buffered())
	}
	f.resetReadAhead()
	read(make([]byte, 2800), 7101)
	read(make([]byte, 99), 9901)
	r.end = io.EOF
	if _, err := f.Read(head); err != io.EOF || f.b != nil {
		t.Errorf("at the end: %v, a block is held: %v", err, f.b != nil)
	}
	if err := f.gather(1, 4096, count); err != io.ErrUnexpectedEOF {
		t.Errorf("gathering at the end: %v", err)
	}
}

func TestFrameReaderReady(t *testing.T) {
	for _, tt := range []struct {
		window string
		want   bool
	}{
		{"", false}, {"\x01", false}, {"\x01x", true}, {"\x01xy", true}, {"\x80", false}, {"\x80\x01", false},
		{"\x00", true}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", false}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", false},
	} {
		if f := (&frameReader{window: []byte(tt.window)}); f.ready() != tt.want {
			t.Errorf("%q: ready %v", tt.window, !tt.want)
		}
	}
}

// In whatever pieces bytes arrive and are read, they are the bytes that were written, and no
// block is left.
func TestFrameReaderModel(t *testing.T) {
	held := blocksHeld.Load()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		content := randomBytes(byte(seed), 20_000)
		r := &chunkReader{t: t, end: io.EOF}
		for rest := content; len(rest) > 0; {
			n := min(1+rng.IntN(1<<rng.IntN(12)), len(rest))
			r.chunks, rest = append(r.chunks, rest[:n]), rest[n:]
		}
		f := &frameReader{r: r}
		pos, arrived := 0, 0
		for pos < len(content) {
			n := min(1+rng.IntN(1<<rng.IntN(12)), len(content)-pos)
			switch rng.IntN(3) {
			case 0:
				f.resetReadAhead()
			case 1:
				arrived = 0
				if err := f.gather(n, 4096, func(k int) { arrived += k }); err != nil || arrived != n {
					t.Fatalf("seed %d at %d: gather(%d): %v, %d bytes arrived", seed, pos, n, err, arrived)
				}
				if have := f.buffered(); have < n || have > 4096 {
					t.Fatalf("seed %d at %d: gather(%d) leaves %d bytes in the buffer", seed, pos, n, have)
				}
			}
			p := make([]byte, n)
			if _, err := io.ReadFull(f, p); err != nil || !bytes.Equal(p, content[pos:pos+n]) {
				t.Fatalf("seed %d at %d: %v", seed, pos, err)
			}
			pos += n
		}
		f.release()
	}
	if n := blocksHeld.Load(); n != held {
		t.Errorf("%d blocks are held, want %d", n, held)
	}
}
