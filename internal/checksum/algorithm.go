// Package checksum reads and checks hashes of files as publishers write them: in options
// (sha256=HEX), and in files such as SHA256SUMS, MD5SUMS and B3SUMS. It has the only table of the
// hash algorithms that files may be checked with.
//
// BLAKE3 is one of them, but this package hashes with the others only. Its callers know the BLAKE3
// hash of a file, or compute it on all cores.
package checksum

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"

	"github.com/zeebo/blake3"
)

// An Algorithm is a hash algorithm. Two are the same if their pointers are equal.
type Algorithm struct {
	// Name is the name in options, such as sha256.
	Name string
	// Size is the length of a hash in bytes.
	Size int

	tags []string // the names in lines of the form "SHA256 (name) = hex"
	new  func() hash.Hash
}

// BLAKE3 is the algorithm of kwikcp's own hashes.
var BLAKE3 = &Algorithm{
	Name: "blake3", Size: 32, tags: []string{"BLAKE3"}, new: func() hash.Hash { return blake3.New() },
}

// algorithms has all of them. OpenSSL writes SHA2-256 for SHA256.
var algorithms = []*Algorithm{
	BLAKE3,
	{Name: "sha256", Size: sha256.Size, tags: []string{"SHA256", "SHA2-256"}, new: sha256.New},
	{Name: "sha512", Size: sha512.Size, tags: []string{"SHA512", "SHA2-512"}, new: sha512.New},
	{Name: "md5", Size: md5.Size, tags: []string{"MD5"}, new: md5.New},
}

// New returns a new hash.
func (a *Algorithm) New() hash.Hash { return a.new() }

// Forms describes the values that ParseSum accepts with a name: "blake3= and 64 hexadecimal
// digits, sha256= and 64, ...".
func Forms() string {
	var forms []string
	for i, a := range algorithms {
		form := fmt.Sprintf("%s= and %d", a.Name, 2*a.Size)
		if i == 0 {
			form += " hexadecimal digits"
		}
		forms = append(forms, form)
	}
	last := len(forms) - 1
	return strings.Join(forms[:last], ", ") + " or " + forms[last]
}

// named returns the algorithm with a name of options; nil if there is none.
func named(name string) *Algorithm {
	for _, a := range algorithms {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// tagged returns the algorithm whose tag a text begins with, and the rest of the text. The tag is
// followed by at most one space and an opening parenthesis, which rest does not have.
func tagged(text string) (a *Algorithm, rest string) {
	for _, a := range algorithms {
		for _, tag := range a.tags {
			after, ok := strings.CutPrefix(text, tag)
			if !ok {
				continue
			}
			if rest, ok := strings.CutPrefix(strings.TrimPrefix(after, " "), "("); ok {
				return a, rest
			}
		}
	}
	return nil, ""
}
