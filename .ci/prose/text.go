package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The widest lines, in columns.
const (
	codeWidth  = 120
	proseWidth = 100
	helpWidth  = 80
	tabWidth   = 4
)

func columns(s string) int {
	return utf8.RuneCountInString(s) + (tabWidth-1)*strings.Count(s, "\t")
}

// checkWidth counts a line, and reports one that exceeds its limit unless it is exempt or
// holds a URL.
func checkWidth(r *report, file string, line int, text string, limit int, exempt bool) {
	r.lines[areaOf(file)]++
	if columns(text) > limit && !exempt && !strings.Contains(text, "://") {
		r.add(file, line, "width", text)
	}
}

// scanComments scans a file whose comments start with the marker. A comment behind code
// is a separate block.
func scanComments(r *report, name string, content []byte, marker string) {
	var blocks []block
	var group []string
	flush := func(next int) {
		blocks = append(blocks, paragraphs(next-len(group), group)...)
		group = nil
	}
	lines := strings.Split(string(content), "\n")
	for i, text := range lines {
		trimmed := strings.TrimSpace(text)
		whole := strings.HasPrefix(trimmed, marker) && !strings.HasPrefix(trimmed, "#!")
		if trimmed != "" {
			limit := codeWidth
			if whole {
				limit = proseWidth
			}
			checkWidth(r, name, i+1, text, limit, false)
		}
		if whole {
			group = append(group, strings.TrimPrefix(trimmed[len(marker):], " "))
			continue
		}
		flush(i + 1)
		if _, comment, ok := strings.Cut(text, " "+marker+" "); ok && !strings.ContainsAny(comment, `'"`) {
			blocks = append(blocks, block{line: i + 1, text: comment})
		}
	}
	flush(len(lines) + 1)
	checkProse(r, name, blocks)
}

// scanMarkdown scans the paragraphs, list items and table cells of a Markdown file. Headings
// and code are left out.
func scanMarkdown(r *report, name string, content []byte) {
	var blocks []block
	fenced, open, item := false, false, false
	for i, text := range strings.Split(string(content), "\n") {
		trimmed := strings.TrimSpace(text)
		table := strings.HasPrefix(trimmed, "|")
		fence := strings.HasPrefix(trimmed, "```")
		indented := strings.HasPrefix(text, "    ") || strings.HasPrefix(text, "\t")
		code := fenced || fence || indented && !open && !item
		if trimmed != "" {
			checkWidth(r, name, i+1, text, proseWidth, table || code)
		}
		if fence {
			fenced, open = !fenced, false
			continue
		}
		switch mark := listItem.FindString(text); {
		case trimmed == "":
			open = false
		case code, strings.HasPrefix(trimmed, "#"), strings.HasPrefix(trimmed, "<!--"):
			open = false
		case table:
			open = false
			for cell := range strings.SplitSeq(strings.Trim(trimmed, "|"), "|") {
				if strings.Trim(cell, " -:") != "" {
					blocks = append(blocks, block{line: i + 1, text: cell})
				}
			}
		case mark != "":
			blocks = append(blocks, block{line: i + 1, text: text[len(mark):]})
			open, item = true, true
		case open:
			blocks[len(blocks)-1].text += "\n" + text
		default:
			item = indented && item
			blocks = append(blocks, block{line: i + 1, text: text})
			open = true
		}
	}
	checkProse(r, name, blocks)
}

var description = regexp.MustCompile(`"description": ("(?:[^"\\]|\\.)*")`)

// scanSchema scans the descriptions of a JSON schema. Its lines are laid out as data, and have
// no limit.
func scanSchema(r *report, name string, content []byte) {
	var blocks []block
	for i, text := range strings.Split(string(content), "\n") {
		for _, m := range description.FindAllStringSubmatch(text, -1) {
			var value string
			if json.Unmarshal([]byte(m[1]), &value) == nil {
				blocks = append(blocks, block{line: i + 1, text: value})
			}
		}
	}
	checkProse(r, name, blocks)
}

// scanHelpText scans what the program prints for --help. Only its width is checked: its prose
// is that of the program's string literals. A line is too wide even with a URL, since a
// terminal shows it.
func scanHelpText(r *report, name string, text []byte) {
	for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		r.lines[areaOf(name)]++
		if columns(line) > helpWidth {
			r.add(name, i+1, "width", line)
		}
	}
}
