package checksum

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A Sum is a hash that a file must have. Sums are comparable. The zero Sum is no hash.
type Sum struct {
	// algorithm is nil if the text named none. Then any algorithm with hashes of that length
	// counts. This makes a forgery no easier: it still takes a file with a given hash.
	algorithm *Algorithm
	value     string
}

// ParseSum parses NAME=HEX, such as sha256=9f86..., and HEX of any algorithm. The digits may be in
// either case, the name is in lower case.
func ParseSum(text string) (Sum, error) {
	name, digits, hasName := strings.Cut(text, "=")
	if !hasName {
		return newSum(nil, text)
	}
	a := named(name)
	if a == nil {
		return Sum{}, fmt.Errorf("%q is no algorithm", name)
	}
	return newSum(a, digits)
}

var errNoHash = errors.New("it is no hash")

// newSum returns the Sum with a value in hexadecimal digits. a may be nil.
func newSum(a *Algorithm, digits string) (Sum, error) {
	value, err := hex.DecodeString(digits)
	s := Sum{a, string(value)}
	if err != nil || len(s.Algorithms()) == 0 {
		return Sum{}, errNoHash
	}
	return s, nil
}

// String returns the form that ParseSum parses.
func (s Sum) String() string {
	if s.algorithm == nil {
		return s.Hex()
	}
	return s.algorithm.Name + "=" + s.Hex()
}

// Hex returns the hexadecimal digits, in lower case.
func (s Sum) Hex() string { return hex.EncodeToString([]byte(s.value)) }

// Algorithms returns the algorithms that may have made the hash: the one that was named, or all of
// its length.
func (s Sum) Algorithms() (all []*Algorithm) {
	for _, a := range algorithms {
		if a.Size == len(s.value) && (s.algorithm == nil || s.algorithm == a) {
			all = append(all, a)
		}
	}
	return all
}

// Is reports whether a hash of an algorithm is this one.
func (s Sum) Is(a *Algorithm, value []byte) bool {
	return s.value == string(value) && (s.algorithm == nil || s.algorithm == a)
}

// BLAKE3 returns the bytes of the hash, and whether it is one of BLAKE3 alone.
func (s Sum) BLAKE3() (value []byte, only bool) {
	return []byte(s.value), s.algorithm == BLAKE3
}

// A MismatchError reports that a file does not have a hash that it must have.
type MismatchError struct {
	// Want is the hash that the file must have.
	Want Sum
	// Has are the hashes of the file, by Want.Algorithms.
	Has [][]byte
}

func (e *MismatchError) Error() string {
	var has []string
	for i, a := range e.Want.Algorithms() {
		has = append(has, fmt.Sprintf("its %s hash is %x", a.Name, e.Has[i]))
	}
	return fmt.Sprintf("%s, not the expected %s", strings.Join(has, " and "), e.Want.Hex())
}
