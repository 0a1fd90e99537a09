package webfile

import (
	"fmt"
	"io"
	"strings"
)

// maxNetrc bounds a netrc file, in bytes.
const maxNetrc = 1 << 20

// Netrc holds the entries of a netrc file, as curl and ftp read it: the tokens machine, default,
// login, password, account and macdef. Of several entries for a host the first counts.
type Netrc struct {
	machines map[string]netrcEntry
	fallback *netrcEntry // of default
}

type netrcEntry struct{ user, password string }

// ReadNetrc reads a netrc file. Its errors do not contain the file's words, but the one of a
// line.
func ReadNetrc(r io.Reader) (*Netrc, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxNetrc+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxNetrc {
		return nil, fmt.Errorf("it has more than %d bytes", maxNetrc)
	}
	n := &Netrc{machines: make(map[string]netrcEntry)}
	tokens := &netrcTokens{rest: string(text), line: 1}
	var host string
	var entry *netrcEntry
	isDefault := false
	end := func() {
		_, known := n.machines[host]
		switch {
		case entry == nil:
		case isDefault && n.fallback == nil:
			n.fallback = entry
		case !isDefault && !known:
			n.machines[host] = *entry
		}
	}
	for {
		token, ok := tokens.next()
		if !ok {
			end()
			return n, nil
		}
		switch {
		case token == "macdef": // up to an empty line
			tokens.skipMacro()
			continue
		case token == "default":
			end()
			entry, isDefault = &netrcEntry{}, true
			continue
		}
		line := tokens.line
		value, ok := tokens.next()
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d: a word has no value", line)
		case token == "machine":
			end()
			entry, isDefault, host = &netrcEntry{}, false, strings.ToLower(value)
		case entry == nil:
			return nil, fmt.Errorf("line %d: it begins with neither machine nor default", line)
		case token == "login":
			entry.user = value
		case token == "password":
			entry.password = value
		case token != "account":
			return nil, fmt.Errorf("line %d: a word that is none of netrc's", line)
		}
	}
}

// For returns the user and the password for a host. The entry "default" is for hosts that the user
// named, not for those to which a server redirects.
func (n *Netrc) For(host string, isRedirect bool) (user, password string, ok bool) {
	entry, ok := n.machines[strings.ToLower(host)]
	if !ok && n.fallback != nil && !isRedirect {
		entry, ok = *n.fallback, true
	}
	return entry.user, entry.password, ok
}

// netrcTokens are words between white space. A word in quotation marks may have white space, and
// escapes with a backslash. A # between words begins a comment.
type netrcTokens struct {
	rest string
	line int // of the end of the last token, from 1
}

func (t *netrcTokens) skip(n int) {
	t.line += strings.Count(t.rest[:n], "\n")
	t.rest = t.rest[n:]
}

func (t *netrcTokens) next() (token string, ok bool) {
	const space = " \t\r\n"
	for {
		t.skip(len(t.rest) - len(strings.TrimLeft(t.rest, space)))
		if !strings.HasPrefix(t.rest, "#") {
			break
		}
		end := strings.IndexByte(t.rest, '\n')
		if end < 0 {
			end = len(t.rest)
		}
		t.skip(end)
	}
	if t.rest == "" {
		return "", false
	}
	if t.rest[0] != '"' {
		end := strings.IndexAny(t.rest, space)
		if end < 0 {
			end = len(t.rest)
		}
		token = t.rest[:end]
		t.skip(end)
		return token, true
	}
	var b strings.Builder
	i := 1
	for ; i < len(t.rest) && t.rest[i] != '"'; i++ {
		c := t.rest[i]
		if c == '\\' && i+1 < len(t.rest) {
			i++
			switch c = t.rest[i]; c {
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			}
		}
		b.WriteByte(c)
	}
	t.skip(min(i+1, len(t.rest)))
	return b.String(), true
}

// skipMacro skips up to an empty line.
func (t *netrcTokens) skipMacro() {
	end := strings.Index(t.rest, "\n\n")
	if end < 0 {
		end = len(t.rest)
	}
	t.skip(end)
}
