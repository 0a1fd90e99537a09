package main

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWords is the number of words that a sentence may have.
const maxWords = 25

// A block is a run of prose without a break: a paragraph, a list item, a table cell or a message.
type block struct {
	line int // where it starts
	text string
}

// A sentence is one sentence of a block, without the space around it.
type sentence struct {
	line int
	text string
}

var (
	quotedCode = regexp.MustCompile("`[^`]*`")
	markdown   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	emphasis   = strings.NewReplacer("**", "", "__", "")
	// A stop ends a sentence unless one of these precedes it.
	abbreviation = regexp.MustCompile(`(?i)(^|[\s("'])(e\.g|i\.e|cf|vs|etc|approx|no|fig|sec|resp|incl|viz|al|[a-z])\.$`)
	// Closing quotation marks and parentheses belong to the sentence before them.
	sentenceEnd = regexp.MustCompile(`[.!?]+["')\]*”]*(\s+|$)`)
)

// clean replaces code and links by words, so that what they contain is not read as prose.
func clean(text string) string {
	text = quotedCode.ReplaceAllString(text, "CODE")
	text = markdown.ReplaceAllString(text, "$1")
	return emphasis.Replace(text)
}

// split cuts a block into sentences. Lines are counted by the line breaks in its text.
func split(b block) []sentence {
	var out []sentence
	text := clean(b.text)
	start := 0
	emit := func(end int) {
		s := text[start:end]
		trimmed := strings.TrimLeft(s, " \t\n")
		if strings.TrimSpace(trimmed) != "" {
			line := b.line + strings.Count(text[:start], "\n") + strings.Count(s[:len(s)-len(trimmed)], "\n")
			out = append(out, sentence{line, strings.Join(strings.Fields(trimmed), " ")})
		}
		start = end
	}
	for _, m := range sentenceEnd.FindAllStringIndex(text, -1) {
		if !endsSentence(text, m[0], m[1]) {
			continue
		}
		emit(m[1])
	}
	emit(len(text))
	return out
}

// endsSentence reports whether the stop at text[at:], followed by text[next:], ends a sentence.
func endsSentence(text string, at, next int) bool {
	if next == len(text) {
		return true
	}
	stops := text[at:next]
	following, _ := utf8.DecodeRuneInString(text[next:])
	if strings.HasPrefix(stops, "..") {
		return unicode.IsUpper(following)
	}
	return !strings.HasPrefix(stops, ".") || !abbreviation.MatchString(text[:at+1])
}

// words counts the words of a sentence. A dash or a bare sign is none.
func words(s string) int {
	n := 0
	for _, w := range strings.Fields(s) {
		if strings.ContainsFunc(w, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
			n++
		}
	}
	return n
}

var (
	opening  = regexp.MustCompile(`^["'(*]*(What|Who|Whoever)\b`)
	fragment = regexp.MustCompile(`^["'(*]*(what|who|whoever)\b`)
	wordRule = regexp.MustCompile(`(?i)\b(nobody|anew|(?:says?|said|saying) that|(?:is|are|was|were) said|comes|brings)\b`)
	comeRule = regexp.MustCompile(`(?i)\b(come|came|coming|bring|brought|bringing)\b`)
	idioms   = regexp.MustCompile(`(?i)\b(` + strings.Join([]string{"in vain", "tak(?:e|es|en|ing) leave", "took leave",
		"all the +same", "of (?:its|their) own", "asked for", "that it +has", "as good +as"}, "|") + `)\b`)
)

// checkProse applies the rules for sentences and words to the blocks of one file.
func checkProse(r *report, file string, blocks []block) {
	area := areaOf(file)
	for _, b := range blocks {
		for _, s := range split(b) {
			r.sentences[area]++
			question := strings.Contains(s.text[max(0, len(s.text)-3):], "?")
			switch {
			case question:
			case opening.MatchString(s.text):
				r.add(file, s.line, "opening", s.text)
			case fragment.MatchString(s.text):
				r.add(file, s.line, "fragment", s.text)
			}
			for _, m := range wordRule.FindAllString(s.text, -1) {
				r.add(file, s.line, "word", m+": "+s.text)
			}
			for _, m := range comeRule.FindAllString(s.text, -1) {
				r.add(file, s.line, "come", m+": "+s.text)
			}
			for _, m := range idioms.FindAllString(s.text, -1) {
				r.add(file, s.line, "idiom", m+": "+s.text)
			}
			if n := words(s.text); n > maxWords {
				r.add(file, s.line, "long", s.text)
			}
		}
	}
}

var listItem = regexp.MustCompile(`^\s*([-*+•]|\d+[.)])\s+`)

// paragraphs cuts commented text into blocks as go doc does. Blank lines and list items
// separate them. Indented lines are code, and a line that starts with "# " is a heading. Lines
// are those of the comment without its markers.
func paragraphs(line int, lines []string) []block {
	var out []block
	open := false
	for i, text := range lines {
		switch item := listItem.FindString(text); {
		case strings.TrimSpace(text) == "", strings.HasPrefix(text, "# "):
			open = false
		case item != "":
			out = append(out, block{line: line + i, text: text[len(item):]})
			open = true
		case (strings.HasPrefix(text, "\t") || strings.HasPrefix(text, "  ")) && !(open && inList(lines, i)):
			open = false
		case open:
			out[len(out)-1].text += "\n" + text
		default:
			out = append(out, block{line: line + i, text: text})
			open = true
		}
	}
	return out
}

// inList reports whether the indented line i continues a list item above it.
func inList(lines []string, i int) bool {
	for i--; i >= 0; i-- {
		switch {
		case listItem.MatchString(lines[i]):
			return true
		case !strings.HasPrefix(lines[i], " ") && !strings.HasPrefix(lines[i], "\t"):
			return false
		}
	}
	return false
}
