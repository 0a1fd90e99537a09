package checksum

import (
	"errors"
	"strings"
)

// A Line is a line of a checksum file: the hash of a named file.
type Line struct {
	Sum  Sum
	Name string // any bytes but NUL, not empty; unescaped
}

// ErrMalformed is the error of a line that names no file and hash.
var ErrMalformed = errors.New("the line is malformed")

// A separation is how a file separates a hash from a name. BSD's -r writes one space, all others
// write two spaces, or a space and an asterisk. A file has one way only, as for sha256sum:
// otherwise a name with a space at its start would be another name.
type separation int

const (
	separationUnknown separation = iota
	separationMarked
	separationReversed
)

// A Parser parses the lines of one checksum file. It accepts what sha256sum accepts:
//
//	hex  name             text mode, as b3sum writes it, too
//	hex *name             binary mode
//	hex name              BSD's reversed form, if all lines have it
//	SHA256 (name) = hex   BSD's form, the form of --tag, and OpenSSL's
//
// A backslash before the first character reports that \\, \n and \r in the name are escapes.
// The zero value is ready to use.
type Parser struct{ separation separation }

// Parse parses a line without its end. Empty lines and comments have ok false and no error.
func (p *Parser) Parse(line string) (l Line, ok bool, err error) {
	line = strings.TrimSuffix(line, "\r")
	if line == "" || line[0] == '#' {
		return Line{}, false, nil
	}
	text, escaped := strings.CutPrefix(strings.TrimLeft(line, " \t"), `\`)
	if a, rest := tagged(text); a != nil {
		l, ok = parseTagged(a, rest)
	} else {
		l, ok = p.parsePlain(text)
	}
	if ok && escaped {
		l.Name, ok = Unescape(l.Name)
	}
	if !ok || l.Name == "" || strings.ContainsRune(l.Name, 0) {
		return Line{}, false, ErrMalformed
	}
	return l, true, nil
}

// parseTagged parses what follows "SHA256 (". A name may have parentheses.
func parseTagged(a *Algorithm, text string) (l Line, ok bool) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return Line{}, false
	}
	digits, ok := strings.CutPrefix(strings.TrimLeft(text[end+1:], " \t"), "=")
	if !ok {
		return Line{}, false
	}
	sum, err := newSum(a, strings.TrimLeft(digits, " \t"))
	return Line{sum, text[:end]}, err == nil
}

func (p *Parser) parsePlain(text string) (l Line, ok bool) {
	space := strings.IndexAny(text, " \t")
	if space < 0 {
		return Line{}, false
	}
	sum, err := newSum(nil, text[:space])
	name := text[space+1:]
	if err != nil || name == "" {
		return Line{}, false
	}
	hasMark := len(name) > 1 && (name[0] == ' ' || name[0] == '*')
	switch {
	case !hasMark && p.separation == separationMarked:
		return Line{}, false
	case !hasMark:
		p.separation = separationReversed
	case p.separation != separationReversed:
		p.separation = separationMarked
		name = name[1:]
	}
	return Line{sum, name}, true
}
