package checksum

import "hash"

// A Hasher checks whether a content has some sums. The content is written to it in order. It
// hashes with each algorithm once, and with BLAKE3 not at all: Verify takes that hash.
type Hasher struct {
	sums   []Sum
	hashes map[*Algorithm]hash.Hash
}

// NewHasher returns a Hasher for sums.
func NewHasher(sums []Sum) *Hasher {
	h := &Hasher{sums: sums, hashes: make(map[*Algorithm]hash.Hash)}
	for _, s := range sums {
		for _, a := range s.Algorithms() {
			if a != BLAKE3 && h.hashes[a] == nil {
				h.hashes[a] = a.New()
			}
		}
	}
	return h
}

// Needed reports whether the content matters if its BLAKE3 hash is known.
func (h *Hasher) Needed(blake3 []byte) bool {
	for _, s := range h.sums {
		if _, only := s.BLAKE3(); !only && !s.Is(BLAKE3, blake3) {
			return true
		}
	}
	return false
}

// Write takes the next bytes of the content. It never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	for _, x := range h.hashes {
		x.Write(p)
	}
	return len(p), nil
}

// Verify returns nil if the content that was written has all of the sums, otherwise a
// *MismatchError. blake3 is the BLAKE3 hash of the content. If it is all that is needed, nothing
// needs to be written before.
func (h *Hasher) Verify(blake3 []byte) error {
	for _, s := range h.sums {
		if err := h.verify(s, blake3); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hasher) verify(s Sum, blake3 []byte) error {
	var has [][]byte
	for _, a := range s.Algorithms() {
		value := blake3
		if a != BLAKE3 {
			value = h.hashes[a].Sum(nil)
		}
		if s.Is(a, value) {
			return nil
		}
		has = append(has, value)
	}
	return &MismatchError{Want: s, Has: has}
}
