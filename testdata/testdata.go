// Package testdata holds real inputs for the tests and for the demo. They are embedded, so that
// the binary needs no other file.
package testdata

import _ "embed"

// Words is a list of American English words from SCOWL, 985,084 bytes long. words.copyright has
// its authors and its license.
//
//go:embed words.txt
var Words string

// WordsName is the name of the file that holds Words.
const WordsName = "words.txt"
