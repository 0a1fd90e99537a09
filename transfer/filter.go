package transfer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// A Filter selects entries of a tree. Its rules are tried in order, and the first match decides.
// Entries without a match are included. The zero value includes everything.
//
// Patterns are a subset of rsync's:
//
//	?         one character but a slash
//	**, *     any characters; the latter matches no slash
//	[a-z]     one character of a set
//	[!a-z]    one character but those of a set, and no slash
//	\c        the character c
//	/a/b      begins with a slash: matches from the top of the tree
//	a/b       has a slash elsewhere, or **: matches the end of a path, from a component on
//	a         matches the last component
//	a/        ends with a slash: matches directories only
//
// Entries below an excluded directory are excluded, whichever rules match them.
type Filter struct {
	// IgnoreCase makes Add compile patterns that match names in any case.
	IgnoreCase bool

	rules []filterRule
}

type filterRule struct {
	include  bool
	dirsOnly bool
	whole    bool // matches the path, not only its last component
	match    *regexp.Regexp
}

// maxPattern bounds a pattern, in bytes.
const maxPattern = 4096

// Add appends a rule.
func (f *Filter) Add(include bool, pattern string) error {
	r := filterRule{include: include}
	text := pattern
	if text, r.dirsOnly = strings.CutSuffix(text, "/"); text == "" {
		return errors.New("the pattern is empty")
	}
	if len(pattern) > maxPattern {
		return fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	}
	text, anchored := strings.CutPrefix(text, "/")
	r.whole = anchored || strings.Contains(text, "/") || strings.Contains(text, "**")
	expression, err := translate(text)
	if err != nil {
		return err
	}
	before := "^"
	if r.whole && !anchored {
		before = "(?:^|/)"
	}
	flags := "s"
	if f.IgnoreCase {
		flags = "si"
	}
	if r.match, err = regexp.Compile("(?" + flags + ":" + before + expression + "$)"); err != nil {
		return errors.New("the pattern does not parse")
	}
	f.rules = append(f.rules, r)
	return nil
}

// translate turns a pattern into a regular expression, whose time is linear in the length of a
// name.
func translate(pattern string) (string, error) {
	if !utf8.ValidString(pattern) {
		return "", errors.New("the pattern is not valid UTF-8")
	}
	var b strings.Builder
	for i := 0; i < len(pattern); {
		switch c := pattern[i]; {
		case strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(".*")
			for i < len(pattern) && pattern[i] == '*' {
				i++
			}
			continue
		case c == '*':
			b.WriteString("[^/]*")
		case c == '?':
			b.WriteString("[^/]")
		case c == '[':
			set, n, err := translateSet(pattern[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(set)
			i += n
			continue
		case c == '\\' && i+1 == len(pattern):
			return "", errors.New("the pattern ends with a backslash")
		case c == '\\':
			i++
			fallthrough
		default:
			_, n := utf8.DecodeRuneInString(pattern[i:])
			b.WriteString(regexp.QuoteMeta(pattern[i : i+n]))
			i += n
			continue
		}
		i++
	}
	return b.String(), nil
}

// translateSet turns the set at the start of a pattern, such as [!a-z], into one of a regular
// expression. It also returns the length of the set in the pattern.
func translateSet(pattern string) (string, int, error) {
	rest := pattern[1:]
	out := "["
	if strings.HasPrefix(rest, "!") || strings.HasPrefix(rest, "^") {
		out, rest = "[^/", rest[1:]
	}
	for first := true; ; first = false {
		r, n := utf8.DecodeRuneInString(rest)
		switch {
		case n == 0:
			return "", 0, errors.New("a set in the pattern has no end")
		case r == ']' && !first:
			return out + "]", len(pattern) - len(rest) + 1, nil
		case r == '\\':
			if rest = rest[1:]; rest == "" {
				return "", 0, errors.New("a set in the pattern has no end")
			}
			r, n = utf8.DecodeRuneInString(rest)
			out += regexp.QuoteMeta(string(r))
		case r == '-':
			out += "-"
		case r == '[' || r == ']' || r == '^' || r == '&' || r == '~':
			out += `\` + string(r)
		default:
			out += regexp.QuoteMeta(string(r))
		}
		rest = rest[n:]
	}
}

// Wants reports whether an entry is included. Its directory must be.
func (f *Filter) Wants(path string, dir bool) bool {
	for _, r := range f.rules {
		if r.dirsOnly && !dir {
			continue
		}
		name := path
		if !r.whole {
			name = path[strings.LastIndexByte(path, '/')+1:]
		}
		if r.match.MatchString(name) {
			return r.include
		}
	}
	return true
}
