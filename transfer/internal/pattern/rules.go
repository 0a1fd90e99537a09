package pattern

import (
	"fmt"
	"slices"
	"strings"

	"kwikcp/internal/textfile"
)

// Rules is a list of rules for the entries of a tree. The first rule that matches an entry
// decides. The zero value includes everything.
type Rules struct{ list []rule }

type rule struct {
	include bool
	pattern *Pattern
}

// Add appends a rule. A text that begins with "+ " or "- " decides itself whether it includes,
// and the text "!" removes the rules before it. With fold the rule matches names in any case.
func (r *Rules) Add(text string, include, fold bool) error {
	if text == "!" {
		r.list = nil
		return nil
	}
	if err := checkFilterRule(text); err != nil {
		return err
	}
	rest := text
	switch {
	case strings.HasPrefix(text, "+ "):
		include, rest = true, text[2:]
	case strings.HasPrefix(text, "- "):
		include, rest = false, text[2:]
	}
	p, err := Compile(rest, fold)
	if err != nil {
		if e, ok := err.(*Error); ok {
			e.Column += len(text) - len(rest)
		}
		return err
	}
	r.list = append(r.list, rule{include, p})
	return nil
}

// AddFile appends the rules of a file, one a line. Lines end with a line feed, a carriage return
// or both; with nul they end with a NUL byte instead. Empty lines are ignored, and so are those
// that begin with # or ;. An error leaves the rules as they were.
func (r *Rules) AddFile(text []byte, include, fold, nul bool) error {
	added := Rules{slices.Clone(r.list)}
	text, err := CutMark(text, nul)
	if err != nil {
		return err
	}
	for number, line := range Lines(text, nul) {
		if err := added.Add(line, include, fold); err != nil {
			if e, ok := err.(*Error); ok {
				e.Line = number
			}
			return err
		}
	}
	*r = added
	return nil
}

// Wants reports whether an entry is included. Its directory must be.
func (r *Rules) Wants(path string, isDir bool) bool {
	for i := range r.list {
		if x := &r.list[i]; x.pattern.Matches(path, isDir) {
			return x.include
		}
	}
	return true
}

// Len returns the number of rules.
func (r *Rules) Len() int { return len(r.list) }

// CutMark returns the text of a file without its byte order mark. A file in another encoding than
// UTF-8 is an error. With nul, as programs write it, a file has no marks.
func CutMark(text []byte, nul bool) ([]byte, error) {
	if nul {
		return text, nil
	}
	text, err := textfile.CutMark(text)
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Message: err.Error()}
	}
	return text, nil
}

// Lines returns the lines of a file of rules or of names, with their numbers from 1, except empty
// ones and comments. See AddFile.
func Lines(text []byte, nul bool) func(yield func(number int, line string) bool) {
	return func(yield func(int, string) bool) {
		for number, rest := 1, string(text); rest != ""; number++ {
			var line string
			line, rest = cutLine(rest, nul)
			if isComment := line != "" && (line[0] == '#' || line[0] == ';'); line == "" || isComment {
				continue
			}
			if !yield(number, line) {
				return
			}
		}
	}
}

// cutLine returns the first line of a text, and the lines after it.
func cutLine(text string, nul bool) (line, rest string) {
	if nul {
		line, rest, _ = strings.Cut(text, "\x00")
		return line, rest
	}
	end := strings.IndexAny(text, "\r\n")
	if end < 0 {
		return text, ""
	}
	rest = text[end+1:]
	if text[end] == '\r' {
		rest = strings.TrimPrefix(rest, "\n")
	}
	return text[:end], rest
}

// checkFilterRule returns an error for a text that looks like a rule for rsync's --filter which
// merges a file or has modifiers.
func checkFilterRule(text string) error {
	word, _, isRule := strings.Cut(text, " ")
	if !isRule || word == "" {
		return nil
	}
	refuse := func(column int, what string) error {
		const format = "%s not supported; for an entry of that name use %q"
		return &Error{Column: column, Message: fmt.Sprintf(format, what, "- "+text)}
	}
	long, _, _ := strings.Cut(word, ",")
	switch {
	case long == "merge" || long == "dir-merge":
		return refuse(1, "rules that merge a file are")
	case word[0] == '.' || word[0] == ':':
		if isModified(word[1:], "/-+!Cenprswx") {
			return refuse(1, "rules that merge a file are")
		}
	case word[0] == '-' || word[0] == '+':
		if len(word) > 1 && isModified(word[1:], "/!Cprsx") {
			return refuse(2, "modifiers of rules are")
		}
	}
	return nil
}

// isModified reports whether a text is a list of modifiers, which may be empty or follow a comma.
func isModified(text, modifiers string) bool {
	return strings.Trim(strings.TrimPrefix(text, ","), modifiers) == ""
}
