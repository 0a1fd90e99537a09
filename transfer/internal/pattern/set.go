package pattern

import (
	"fmt"
	"strings"
)

// A set is a set of bytes. It never has a slash.
type set [4]uint64

func (s *set) has(c byte) bool { return s[c/64]&(1<<(c%64)) != 0 }
func (s *set) add(c byte)      { s[c/64] |= 1 << (c % 64) }

// addRange adds the bytes from first to last. It adds none if last is before first.
func (s *set) addRange(first, last byte) {
	for c := int(first); c <= int(last); c++ {
		s.add(byte(c))
	}
}

// classes are the character classes, in the C locale.
var classes = map[string]func(c byte) bool{
	"alnum":  func(c byte) bool { return isAlpha(c) || isDigit(c) },
	"alpha":  isAlpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  isGraph,
	"lower":  isLower,
	"print":  func(c byte) bool { return c == ' ' || isGraph(c) },
	"punct":  func(c byte) bool { return isGraph(c) && !isAlpha(c) && !isDigit(c) },
	"space":  func(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' },
	"upper":  isUpper,
	"xdigit": func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' },
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isAlpha(c byte) bool { return isLower(c) || isUpper(c) }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isGraph(c byte) bool { return '!' <= c && c <= '~' }

// A setParser is at a position in the text of a set.
type setParser struct {
	text string
	at   int
	set  set
	// previous is the byte that a range may begin with; 0 means none, as after a range or a
	// class.
	previous byte
}

// parseSet parses the set at the beginning of a text, such as [!a-z], and returns its length.
func parseSet(text string, fold bool) (s set, length int, err *Error) {
	p := setParser{text: text, at: 1}
	negated := strings.HasPrefix(text[p.at:], "!") || strings.HasPrefix(text[p.at:], "^")
	if negated {
		p.at++
	}
	for first := true; first || p.peek() != ']'; first = false { // a ] at the beginning is a member
		if err := p.member(); err != nil {
			return s, 0, err
		}
	}
	s = p.set
	if fold {
		for c := byte('A'); c <= 'Z'; c++ {
			if s.has(c) || s.has(lower(c)) {
				s.add(lower(c))
			}
		}
	}
	if negated {
		for i := range s {
			s[i] = ^s[i]
		}
	}
	s['/'/64] &^= 1 << ('/' % 64)
	return s, p.at + 1, nil
}

// peek returns the byte at the position, 0 at the end.
func (p *setParser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

// noEnd is the error of a set without a ].
func noEnd() *Error { return &Error{Column: 1, Message: "the set has no end: a ] is missing"} }

// member parses a byte, the end of a range or a class.
func (p *setParser) member() *Error {
	switch c := p.peek(); {
	case c == 0:
		return noEnd()
	case c == '[' && strings.HasPrefix(p.text[p.at:], "[:"):
		return p.class()
	case c == '-' && p.previous != 0 && p.beginsRange():
		p.at++
		last, err := p.byte()
		if err != nil {
			return err
		}
		p.set.addRange(p.previous, last)
		p.previous = 0
		return nil
	}
	c, err := p.byte()
	if err != nil {
		return err
	}
	p.set.add(c)
	p.previous = c
	return nil
}

// beginsRange reports whether another byte of the set follows the one at the position.
func (p *setParser) beginsRange() bool { return p.at+1 < len(p.text) && p.text[p.at+1] != ']' }

// byte parses a byte, which may be escaped.
func (p *setParser) byte() (byte, *Error) {
	c := p.peek()
	if c == '\\' {
		p.at++
		c = p.peek()
	}
	if c == 0 {
		return 0, noEnd()
	}
	p.at++
	return c, nil
}

// class parses a class such as [:upper:]. A [: without :] is two members of the set.
func (p *setParser) class() *Error {
	name, _, closed := strings.Cut(p.text[p.at+2:], "]")
	if !closed {
		return noEnd()
	}
	isClass := strings.HasSuffix(name, ":")
	if !isClass {
		p.set.add('[')
		p.previous = '['
		p.at++
		return nil
	}
	name = name[:len(name)-1]
	has := classes[name]
	if has == nil {
		return &Error{Column: 1 + p.at, Message: fmt.Sprintf("unknown character class [:%s:]", name)}
	}
	for c := range 256 {
		if has(byte(c)) {
			p.set.add(byte(c))
		}
	}
	p.previous = 0
	p.at += len("[:") + len(name) + len(":]")
	return nil
}
