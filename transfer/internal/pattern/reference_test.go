package pattern

import "strings"

// This file matches as rsync's C code does, step by step, so that the fuzzer has an oracle that is
// fast. TestAgainstRsync compares with the program itself.

type outcome int

const (
	failed outcome = iota
	matched
	abortAll
	abortToStarStar
)

// referenceMatches is rule_matches of exclude.c, for a rule without modifiers.
func referenceMatches(pattern, name string, isDir bool) bool {
	dirsOnly := false
	if len(pattern) > 1 && strings.HasSuffix(pattern, "/") {
		pattern, dirsOnly = pattern[:len(pattern)-1], true
	}
	slashes := strings.Count(pattern, "/")
	wild, wild2 := strings.ContainsAny(pattern, "*[?"), strings.Contains(pattern, "**")
	wild2Prefix := strings.HasPrefix(pattern, "**")
	text := name
	if slashes == 0 && !wild2 {
		text = text[strings.LastIndexByte(text, '/')+1:]
	} else if wild2Prefix {
		text = "/" + text
	}
	if isDir {
		if strings.HasSuffix(pattern, "***") {
			text += "/"
		}
	} else if dirsOnly {
		return false
	}
	where := 0
	pattern, anchored := strings.CutPrefix(pattern, "/")
	switch {
	case anchored:
	case slashes > 0 && !wild2:
		where = slashes + 1
	case wild2 && !wild2Prefix:
		where = -1
	}
	if !wild {
		if anchored {
			return text == pattern
		}
		return text == pattern || strings.HasSuffix(text, "/"+pattern)
	}
	if where > 0 {
		parts := strings.Split(text, "/")
		if len(parts) < where {
			return false
		}
		text = strings.Join(parts[len(parts)-where:], "/")
	}
	result := wildmatch(pattern, text)
	if where < 0 && result != matched && result != abortAll {
		for i := range len(text) {
			if text[i] != '/' {
				continue
			}
			if result = wildmatch(pattern, text[i+1:]); result != failed && result != abortToStarStar {
				break
			}
		}
	}
	return result == matched
}

// wildmatch is dowild of wildmatch.c.
func wildmatch(p, text string) outcome {
	for ; p != ""; p, text = p[1:], text[1:] {
		if text == "" && p[0] != '*' {
			return abortAll
		}
		switch p[0] {
		case '?':
			if text[0] == '/' {
				return failed
			}
		case '*':
			special := strings.HasPrefix(p, "**")
			if p = strings.TrimLeft(p, "*"); p == "" {
				if !special && strings.Contains(text, "/") {
					return failed
				}
				return matched
			}
			for ; text != ""; text = text[1:] {
				result := wildmatch(p, text)
				if result != failed {
					if !special || result != abortToStarStar {
						return result
					}
				} else if !special && text[0] == '/' {
					return abortToStarStar
				}
			}
			return abortAll
		case '[':
			in, length := wildmatchSet(p, text[0])
			if length == 0 {
				return abortAll
			}
			if !in || text[0] == '/' {
				return failed
			}
			p = p[length-1:]
		case '\\':
			if p = p[1:]; p == "" {
				return failed
			}
			fallthrough
		default:
			if text[0] != p[0] {
				return failed
			}
		}
	}
	if text != "" {
		return failed
	}
	return matched
}

// wildmatchSet matches the set at the beginning of a pattern. length is 0 if it is malformed.
func wildmatchSet(p string, c byte) (in bool, length int) {
	at := func(i int) byte {
		if i < len(p) {
			return p[i]
		}
		return 0
	}
	i := 1
	negated := at(i) == '!' || at(i) == '^'
	if negated {
		i++
	}
	previous := byte(0)
	for first := true; first || at(i) != ']'; first = false {
		b := at(i)
		switch {
		case b == 0:
			return false, 0
		case b == '\\':
			i++
			if b = at(i); b == 0 {
				return false, 0
			}
			in = in || c == b
		case b == '-' && previous != 0 && at(i+1) != 0 && at(i+1) != ']':
			i++
			if b = at(i); b == '\\' {
				i++
				if b = at(i); b == 0 {
					return false, 0
				}
			}
			in = in || c <= b && c >= previous
			b = 0
		case b == '[' && at(i+1) == ':':
			start := i + 2
			end := start
			for at(end) != 0 && at(end) != ']' {
				end++
			}
			if at(end) == 0 {
				return false, 0
			}
			if name, ok := strings.CutSuffix(p[start:end], ":"); ok {
				if classes[name] == nil {
					return false, 0
				}
				in = in || classes[name](c)
				i, b = end, 0
			} else {
				in = in || c == '['
			}
		default:
			in = in || c == b
		}
		previous = b
		i++
	}
	return in != negated, i + 1
}
