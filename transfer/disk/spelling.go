package disk

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// This file is about file systems to which some names are the same. They ignore case, as FAT and
// exFAT do, or the normal form of Unicode, as APFS does.

// A Folding says which names are the same to a file system. The zero value stands for one to which
// all names differ.
type Folding struct {
	Case bool // names that differ in case
	Form bool // names that differ in the normal form of Unicode
}

// Key returns a text that is the same for names that are the same to the file system.
func (f Folding) Key(name string) string {
	if f.Form {
		name = norm.NFC.String(name)
	}
	if f.Case {
		name = strings.ToLower(name)
	}
	return name
}

// FoldingOf finds out which names are the same in a directory. For that it creates a file and
// removes it.
func FoldingOf(d Dir) (Folding, error) {
	const (
		accented   = "a\u00e9"  // in normal form C
		decomposed = "ae\u0301" // the same in form D
	)
	base := probeName("")
	exists := func(name string) bool {
		_, err := d.Lstat(name)
		return err == nil
	}
	name := base + accented
	f, err := d.Create(name)
	if err != nil { // it may hold no such character
		name = base
		f, err = d.Create(name)
	}
	if err != nil {
		return Folding{}, err
	}
	f.Close()
	folding := Folding{Case: exists(strings.ToUpper(name)), Form: name != base && exists(base+decomposed)}
	return folding, d.Remove(name)
}

// maxSpellings bounds the names among which Spelling searches.
const maxSpellings = 1 << 20

// Spelling returns the name under which a directory lists a file. That is another one than name
// only if both are the same to the file system. Spelling returns name if there is no such file, or
// if the directory cannot be listed.
func Spelling(d Dir, name string) string {
	tree, ok := d.(TreeDir)
	if _, err := d.Lstat(name); !ok || err != nil || !hasTwin(d, name) {
		return name
	}
	names, err := tree.Names(maxSpellings)
	if err != nil {
		return name
	}
	key, other := (Folding{true, true}).Key(name), name
	for _, n := range names {
		switch {
		case n == name:
			return name
		case (Folding{true, true}).Key(n) == key:
			other = n
		}
	}
	return other
}

// hasTwin reports whether a directory has a file for another spelling of a name, too.
func hasTwin(d Dir, name string) bool {
	for _, twin := range []string{SwapCase(name), norm.NFC.String(name), norm.NFD.String(name)} {
		if twin == name {
			continue
		}
		if _, err := d.Lstat(twin); err == nil {
			return true
		}
	}
	return false
}

// SwapCase returns a name with small letters for capitals, and capitals for small ones.
func SwapCase(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, name)
}
