package kwik

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"kwikcp/internal/rangeset"
)

// Bytes are put in pieces of any size and order. They must be consumed as from a byte array, and
// memory must stay within its bound.
func TestReorderBuffer(t *testing.T) {
	const size = 5*pageSize + 100
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		r := newReorderBuffer()
		model, arrived := make([]byte, size), rangeset.Set{}
		content := randomBytes(byte(seed), size)
		longest := []int{3, 1000, pageSize, 3 * pageSize}[seed%4]
		pos := 0
		for events := 0; pos < size && events < 500; events++ { // then release the rest
			switch start := pos + random.IntN(min(2*longest, size-pos)); random.IntN(4) {
			case 0, 1: // a delivery; only missing bytes are put
				end := min(start+1+random.IntN(longest), size)
				b := newBlock(end - start)
				copy(b.data, content[start:end])
				for _, x := range missing(&arrived, int64(start), int64(end)) {
					r.put(b, x.Start, b.data[x.Start-int64(start):x.End-int64(start)])
					copy(model[x.Start:x.End], content[x.Start:x.End])
				}
				b.release()
				arrived.Add(int64(start), int64(end))
			case 2: // another source's bytes win
				if x, ok := arrived.NextPresent(int64(start), int64(size)); ok {
					x.End = min(x.End, x.Start+int64(longest))
					p := randomBytes(byte(seed+1), int(x.Len()))
					r.overwrite(x, p)
					copy(model[x.Start:x.End], p)
				}
			case 3:
				p := make([]byte, 1+random.IntN(2*longest))
				n := r.consume(int64(pos), p)
				if (n > 0) != arrived.Contains(int64(pos)) || !bytes.Equal(p[:n], model[pos:pos+n]) {
					t.Fatalf("seed %d: %d bytes at %d differ from the model", seed, n, pos)
				}
				pos += n
			}
			held := 0
			for _, x := range r.runs {
				held += len(x.p)
			}
			if want := int(arrived.Total()) - pos; held != want {
				t.Fatalf("seed %d: %d bytes are held, want %d", seed, held, want)
			}
			most := 2*held + (size/pageSize+1)*(pageSize+blockHeadroom) + len(r.runs)*blockHeadroom
			if r.memory() > most {
				t.Fatalf("seed %d: %d bytes of memory for %d", seed, r.memory(), held)
			}
			for end, start := range r.ends {
				if x := r.runs[start]; !x.page || start+int64(len(x.p)) != end {
					t.Fatalf("seed %d: no run ends at %d", seed, end)
				}
			}
		}
		var blocks []*block
		for _, x := range r.runs {
			blocks = append(blocks, x.b)
		}
		for _, page := range r.pages {
			blocks = append(blocks, page)
		}
		if pos == size && len(blocks) > 0 {
			t.Fatalf("seed %d: %d blocks are held though all was read", seed, len(blocks))
		}
		r.release()
		if len(r.runs)+len(r.ends)+len(r.pages) > 0 {
			t.Fatalf("seed %d: something is left", seed)
		}
	}
}

// Adjacent runs are merged, from either side. A page is released with its last run.
func TestReorderBufferMerges(t *testing.T) {
	for name, order := range map[string]func(i, n int) int{
		"ascending":  func(i, _ int) int { return i },
		"descending": func(i, n int) int { return n - 1 - i },
		"halves":     func(i, n int) int { return (2*i)%n + 2*i/n },
	} {
		r := newReorderBuffer()
		const n = 1000
		for i := range n {
			b := newBlock(1)
			r.put(b, int64(pageSize-n/2+order(i, n)), b.data)
			if b.release(); b.holders.Load() > 0 {
				t.Fatal("a block of one byte is held")
			}
		}
		if len(r.runs) != 2 || len(r.ends) != 2 || len(r.pages) != 2 {
			t.Errorf("%s: %d runs in %d pages", name, len(r.runs), len(r.pages))
		}
		for pos := int64(pageSize - n/2); pos < pageSize+n/2; {
			pos += int64(r.consume(pos, make([]byte, 300)))
		}
		if len(r.runs)+len(r.ends)+len(r.pages) > 0 {
			t.Errorf("%s: something is left", name)
		}
	}
}

// The claimed bytes never have more than maxPieces pieces.
func TestOffsetPieces(t *testing.T) {
	m := newOffsetManager(ConflictResolutionFirstWins)
	claim := func(start, end int64) error { _, _, err := m.claim("a", false, start, end); return err }
	for i := range int64(maxPieces) {
		if err := claim(10*i, 10*i+1); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, claim(5, 6), ErrSecondaryStreamOverflow)
	wantError(t, claim(10*maxPieces, 10*maxPieces+1), ErrSecondaryStreamOverflow)
	// These touch or fill a piece; then there is room for a new one.
	for _, x := range [][2]int64{{1, 2}, {9, 10}, {2, 9}, {100, 200}, {10 * maxPieces, 10*maxPieces + 1}} {
		if err := claim(x[0], x[1]); err != nil {
			t.Errorf("%v: %v", x, err)
		}
	}
	if m.claimed.Len() > maxPieces || m.wasted != 2+10 {
		t.Errorf("%d pieces, %d wasted", m.claimed.Len(), m.wasted)
	}
}
