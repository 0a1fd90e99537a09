package pattern

import (
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A wild is a parsed pattern with wildcards.
type wild struct {
	tokens []token
	sets   []set
}

type kind uint8

const (
	kindByte     kind = iota // one byte
	kindAny                  // ?, any byte but a slash
	kindSet                  // [a-z], one byte of a set
	kindStar                 // *, any bytes but slashes
	kindStarStar             // **, any bytes
)

// A token matches bytes, not characters, as in rsync.
type token struct {
	kind kind
	b    byte // of kindByte
	set  int  // of kindSet: an index into wild.sets
}

// parseWild parses a pattern with wildcards, in which a backslash is an escape.
func parseWild(text string, fold bool) (*wild, *Error) {
	w := &wild{}
	if fold {
		// Case may change the length of other characters, so positions are those of the original.
		if _, err := parseWild(text, false); err != nil {
			return nil, err
		}
		text = foldOthers(text)
	}
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '*':
			n := len(text[i:]) - len(strings.TrimLeft(text[i:], "*"))
			i += n
			k := kindStar
			if n > 1 {
				k = kindStarStar
			}
			w.tokens = append(w.tokens, token{kind: k})
		case '?':
			i++
			w.tokens = append(w.tokens, token{kind: kindAny})
		case '[':
			s, n, err := parseSet(text[i:], fold)
			if err != nil {
				err.Column += i
				return nil, err
			}
			i += n
			w.tokens = append(w.tokens, token{kind: kindSet, set: len(w.sets)})
			w.sets = append(w.sets, s)
		default:
			if c == '\\' {
				if i++; i == len(text) {
					return nil, &Error{Column: i, Message: "a backslash ends the pattern; a literal one is \\\\"}
				}
				c = text[i]
			}
			i++
			if fold {
				c = lower(c)
			}
			w.tokens = append(w.tokens, token{kind: kindByte, b: c})
		}
	}
	return w, nil
}

// An input is a path, with a slash before it or after it.
type input struct {
	leadingSlash  bool
	path          string
	trailingSlash bool
}

// at returns a byte of the input.
func (in input) at(i int) byte {
	if in.leadingSlash {
		if i == 0 {
			return '/'
		}
		i--
	}
	if i == len(in.path) {
		return '/'
	}
	return in.path[i]
}

func (in input) len() int {
	n := len(in.path)
	if in.leadingSlash {
		n++
	}
	if in.trailingSlash {
		n++
	}
	return n
}

// A states is a set of indices of tokens: those that the rest of an input must match next. The
// index behind the last token is the end of the pattern.
type states [maxPattern/64 + 1]uint64

// matches reports whether the tokens match an input from its beginning to its end; with anywhere,
// instead of its beginning, from any component on. It follows all ways through the pattern at
// once, so its time is bounded by the product of both lengths.
func (w *wild) matches(in input, anywhere bool) bool {
	if !w.mayMatch(in, anywhere) {
		return false
	}
	words := len(w.tokens)/64 + 1
	var a, b states
	current, next := a[:words], b[:words]
	w.add(current, 0)
	for i := range in.len() {
		c := in.at(i)
		clear(next)
		for word, set := range current {
			for ; set != 0; set &= set - 1 {
				w.step(next, word*64+bits.TrailingZeros64(set), c)
			}
		}
		if anywhere && c == '/' {
			w.add(next, 0)
		}
		current, next = next, current
	}
	end := len(w.tokens)
	return current[end/64]&(1<<(end%64)) != 0
}

// mayMatch compares the ends of the pattern with those of an input. It is a fast path.
func (w *wild) mayMatch(in input, anywhere bool) bool {
	n := in.len()
	if n == 0 {
		return true
	}
	first, last := w.tokens[0], w.tokens[len(w.tokens)-1]
	if first.kind == kindByte && !anywhere && first.b != in.at(0) {
		return false
	}
	return last.kind != kindByte || last.b == in.at(n-1)
}

// step adds the states after a byte to next, for one state before it.
func (w *wild) step(next []uint64, state int, c byte) {
	if state == len(w.tokens) {
		return
	}
	matched, stays := false, false
	switch t := w.tokens[state]; t.kind {
	case kindByte:
		matched = t.b == c
	case kindAny:
		matched = c != '/'
	case kindSet:
		matched = w.sets[t.set].has(c)
	case kindStar:
		stays = c != '/'
	case kindStarStar:
		stays = true
	}
	switch {
	case matched:
		w.add(next, state+1)
	case stays:
		w.add(next, state)
	}
}

// add adds a state. A * matches nothing as well, so the state behind it is added, too.
func (w *wild) add(to []uint64, state int) {
	for {
		to[state/64] |= 1 << (state % 64)
		if state == len(w.tokens) || w.tokens[state].kind < kindStar {
			return
		}
		state++
	}
}

// foldText returns a text in which two spellings that differ only in case are equal.
func foldText(text string) string {
	folded := []byte(foldOthers(text))
	for i, c := range folded {
		folded[i] = lower(c)
	}
	return string(folded)
}

// foldOthers folds the characters that are not of ASCII. Bytes that are not UTF-8 stay.
func foldOthers(text string) string {
	if isASCII(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r < utf8.RuneSelf || r == utf8.RuneError {
			b.WriteString(text[i : i+n])
		} else {
			b.WriteRune(foldRune(r))
		}
		i += n
	}
	return b.String()
}

// foldRune returns the first of all characters that differ from r only in case.
func foldRune(r rune) rune {
	first := r
	for x := unicode.SimpleFold(r); x != r; x = unicode.SimpleFold(x) {
		first = min(first, x)
	}
	return first
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
