// Package pattern has rsync's patterns: a parser, a matcher and lists of rules. It is pure: it
// knows no files, and a decision depends on its arguments alone. Where rsync and POSIX differ,
// rsync decides (its wildmatch.c and exclude.c). A pattern that rsync accepts but never matches,
// such as one whose set has no end, is an error here.
package pattern

import (
	"fmt"
	"strings"
)

// maxPattern bounds a pattern, in bytes, as in rsync.
const maxPattern = 4095

// An Error is a pattern that cannot be parsed.
type Error struct {
	Line    int // in a file, from 1; 0 outside of a file
	Column  int // in bytes, from 1
	Message string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
	}
	return fmt.Sprintf("column %d: %s", e.Column, e.Message)
}

// A scope is the part of a path that a pattern must match.
type scope int

const (
	scopeLast     scope = iota // the last component
	scopeEnd                   // as many components at the end as the pattern has
	scopeWhole                 // the path
	scopeAnywhere              // the path, or its end from any component on
)

// A Pattern matches paths of a tree. It is immutable.
type Pattern struct {
	scope    scope
	dirsOnly bool
	fold     bool // ignores case
	slashes  int  // of scopeEnd
	// leadingSlash and trailingSlash add a slash to the path before it is compared. With ** at the
	// beginning "a" is compared as "/a". With *** at the end the directory "a" is compared as "a/".
	leadingSlash  bool
	trailingSlash bool
	literal       string // the text to match; without wildcards a backslash is one
	wild          *wild  // nil if the pattern has no wildcards
}

// Compile parses a pattern. With fold it matches names in any case.
func Compile(text string, fold bool) (*Pattern, error) {
	if len(text) > maxPattern {
		tooLong := fmt.Sprintf("the pattern is longer than %d bytes", maxPattern)
		return nil, &Error{Column: 1 + maxPattern, Message: tooLong}
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return nil, &Error{Column: 1 + i, Message: "a NUL byte, which no name has"}
	}
	if strings.Trim(text, "/") == "" {
		return nil, &Error{Column: 1, Message: "the pattern names no entry"}
	}
	p := &Pattern{fold: fold}
	text, p.dirsOnly = strings.CutSuffix(text, "/")
	// The next four are properties of the text, inside of sets and behind backslashes as well.
	isWild := strings.ContainsAny(text, "*[?")
	crosses := strings.Contains(text, "**")
	p.leadingSlash = strings.HasPrefix(text, "**")
	p.trailingSlash = strings.HasSuffix(text, "***")
	p.slashes = strings.Count(text, "/")
	rest, anchored := strings.CutPrefix(text, "/")
	switch {
	case anchored || p.leadingSlash:
		p.scope = scopeWhole
	case crosses:
		p.scope = scopeAnywhere
	case p.slashes > 0:
		p.scope = scopeEnd
	}
	if !isWild {
		p.literal = rest
		if fold {
			p.literal = foldText(rest)
		}
		return p, nil
	}
	wild, err := parseWild(rest, fold)
	if err != nil {
		err.Column += len(text) - len(rest)
		return nil, err
	}
	p.wild = wild
	return p, nil
}

// Matches reports whether the pattern matches an entry. The path is relative to the top of the
// tree and has no slash at its ends.
func (p *Pattern) Matches(path string, isDir bool) bool {
	trailingSlash := p.trailingSlash && isDir
	if p.dirsOnly && !isDir {
		return false
	}
	switch p.scope {
	case scopeLast:
		path = path[strings.LastIndexByte(path, '/')+1:]
	case scopeEnd:
		var enough bool
		if path, enough = lastComponents(path, p.slashes+1); !enough {
			return false
		}
	}
	if p.fold {
		path = foldText(path)
	}
	if p.wild == nil {
		return path == p.literal
	}
	return p.wild.matches(input{p.leadingSlash, path, trailingSlash}, p.scope == scopeAnywhere)
}

// lastComponents returns the last n components of a path. enough is false if it has fewer.
func lastComponents(path string, n int) (end string, enough bool) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] != '/' {
			continue
		}
		if n--; n == 0 {
			return path[i+1:], true
		}
	}
	return path, n == 1
}
