// Package testdata holds real inputs: for tests, and for the demo, which must work wherever the binary is.
package testdata

import _ "embed"

// Words is a list of American English words of 985,084 bytes, from SCOWL (words.copyright says who made it and that it may
// be passed on).
//
//go:embed words.txt
var Words string

// WordsName is the name of the file that holds Words.
const WordsName = "words.txt"
