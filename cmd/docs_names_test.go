package cmd

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// This file holds what the pages say against the program and the tree: options, commands, exit
// codes, variables, files, tests, links.

// docPagesByHand are the pages that people write. docs/REFERENCE.md and docs/kwikcp.1 are
// generated, and have their own tests.
var docPagesByHand = []string{
	"README.md", "CONTRIBUTING.md", "docs/TUTORIAL.md", "docs/OPERATIONS.md", "docs/SCRIPTING.md", "docs/DESIGN.md", "docs/PROTOCOL.md", "docs/PERFORMANCE.md",
}

// userPages are those of them that users read.
var userPages = []string{"README.md", "docs/TUTORIAL.md", "docs/OPERATIONS.md", "docs/SCRIPTING.md"}

// Every command and every option is in a page for users.
func TestDocsHaveEveryOption(t *testing.T) {
	var text strings.Builder
	for _, page := range userPages {
		text.WriteString(readDoc(t, "../"+page))
	}
	words := make(map[string]bool)
	for _, word := range regexp.MustCompile(`[-A-Za-z0-9]+`).FindAllString(text.String(), -1) {
		words[word] = true
	}
	for _, c := range testApp().Commands {
		if !strings.Contains(text.String(), "kwikcp "+c.Name) {
			t.Errorf("no page has the command %s", c.Name)
		}
		for _, f := range visibleFlags(c) {
			if !words[f.names[0]] {
				t.Errorf("no page has %s, which %s takes", f.names[0], c.Name)
			}
		}
	}
}

// foreignOptions are those of other programs.
var foreignOptions = []string{"--check", "--warnings"}

// Every option that a page names is one of kwikcp's.
func TestDocsNameOnlyOptionsThatExist(t *testing.T) {
	options := append([]string{"--help", "--version"}, foreignOptions...)
	for _, c := range testApp().Commands {
		for _, f := range visibleFlags(c) {
			options = append(options, f.names...)
		}
	}
	named := 0
	for _, page := range append(docPagesByHand, "docs/kwikcp.1") {
		text := strings.ReplaceAll(readDoc(t, "../"+page), `\-`, "-")
		for _, m := range regexp.MustCompile("(?m)(?:^|[\\s`(|\\[,])(--[a-z][-a-z0-9]*)").FindAllStringSubmatch(text, -1) {
			named++
			if !slices.Contains(options, m[1]) {
				t.Errorf("%s names %s, which kwikcp does not have", page, m[1])
			}
		}
	}
	if named < 100 {
		t.Errorf("the pages name only %d options", named)
	}
}

// tableRows returns the cells of a table's rows, from the line after its head to the first line
// that is none.
func tableRows(t *testing.T, text, head string) (rows [][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(text, head+"\n")
	if !ok {
		t.Fatalf("no table %q", head)
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		rows = append(rows, cells)
	}
	return rows
}

// The tables of exit codes and of variables have the program's rows and no others, in its order.
func TestTablesOfScripting(t *testing.T) {
	page := readDoc(t, "../docs/SCRIPTING.md")
	var got, want []string
	for _, row := range tableRows(t, page, "| code | `error_code` | meaning |") {
		got = append(got, row[0]+" "+row[1])
	}
	for _, row := range exitStatuses {
		want = append(want, fmt.Sprint(row.code, " ", row.word))
	}
	if !slices.Equal(got, want) {
		t.Errorf("exit codes are %q, want %q", got, want)
	}
	got, want = nil, nil
	for _, row := range tableRows(t, page, "| variable | meaning |") {
		got = append(got, row[0])
	}
	for _, v := range environment {
		want = append(want, v.name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("variables are %q, want %q", got, want)
	}
}

// treeFiles returns the names of all files and directories of the project, relative to its root.
func treeFiles(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		name, err = filepath.Rel("..", name)
		names[filepath.ToSlash(name)] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var (
	docCode = regexp.MustCompile("`([^`\n]+)`")
	docFile = regexp.MustCompile(`^[A-Za-z0-9_./*-]+\.(go|md|proto|json|txt|1|pb\.go)$|^(cmd|transfer|integrity|kwik|internal|bench|testdata|docs|\.ci)/[A-Za-z0-9_./*-]*$`)
	docTest = regexp.MustCompile(`\b(Test|Fuzz|Benchmark|Example)[A-Z][A-Za-z0-9_]*`)
)

// Files that a page names are there. In a row of a table, and in a paragraph, a name without a
// directory belongs to a directory named there, or to any.
func TestDocsNameOnlyFilesThatExist(t *testing.T) {
	files := treeFiles(t)
	bases := make(map[string]bool)
	for name := range files {
		bases[path.Base(name)] = true
	}
	exists := func(name string) bool {
		name = strings.TrimSuffix(name, "/")
		if strings.Contains(name, "*") {
			for file := range files {
				if ok, err := path.Match(name, file); err == nil && ok {
					return true
				}
				if ok, err := path.Match(name, path.Base(file)); err == nil && ok {
					return true
				}
			}
			return false
		}
		return files[name] || !strings.Contains(name, "/") && bases[name]
	}
	named := 0
	for _, page := range docPagesByHand {
		for _, m := range docCode.FindAllStringSubmatch(readDoc(t, "../"+page), -1) {
			name, _, _ := strings.Cut(m[1], " ")
			if !docFile.MatchString(name) || name == "kwik/1" { // an ALPN
				continue
			}
			named++
			if !exists(name) {
				t.Errorf("%s names the file %s, which does not exist", page, name)
			}
		}
	}
	if named < 50 {
		t.Errorf("the pages name only %d files", named)
	}
}

// Tests that a page names are there.
func TestDocsNameOnlyTestsThatExist(t *testing.T) {
	tests := make(map[string]bool)
	for name := range treeFiles(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)^func (\w+)\(`).FindAllStringSubmatch(readDoc(t, filepath.Join("..", name)), -1) {
			tests[m[1]] = true
		}
	}
	named := 0
	for _, page := range docPagesByHand {
		fenced := false
		for line := range strings.Lines(readDoc(t, "../"+page)) {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			if fenced { // the output of an earlier benchmark
				continue
			}
			for _, m := range docCode.FindAllStringSubmatch(line, -1) {
				for _, name := range docTest.FindAllString(m[1], -1) {
					named++
					if !tests[name] && !slices.ContainsFunc(patternsOf(m[1]), func(p string) bool { return matchesAny(p, tests) }) {
						t.Errorf("%s names %s, which does not exist", page, name)
					}
				}
			}
		}
	}
	if named < 50 {
		t.Errorf("the pages name only %d tests", named)
	}
}

// patternsOf returns the arguments of -run and -bench in a command.
func patternsOf(command string) (patterns []string) {
	fields := strings.Fields(command)
	for i, field := range fields {
		if (field == "-run" || field == "-bench") && i+1 < len(fields) {
			patterns = append(patterns, strings.Trim(fields[i+1], "'"))
		}
	}
	return patterns
}

func matchesAny(pattern string, names map[string]bool) bool {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return false
	}
	for name := range names {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

var (
	docLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// Links between the pages lead to files and headings that are there.
func TestDocLinks(t *testing.T) {
	links := 0
	for _, page := range docPagesByHand {
		for _, m := range docLink.FindAllStringSubmatch(readDoc(t, "../"+page), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			name := page
			if target != "" {
				name = path.Join(path.Dir(page), target)
			}
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if anchor != "" && !slices.Contains(anchorsOf(readDoc(t, filepath.Join("..", name))), anchor) {
				t.Errorf("%s: %s has no heading #%s", page, name, anchor)
			}
		}
	}
	if links < 20 {
		t.Errorf("the pages have only %d links", links)
	}
}

// anchorsOf returns the anchors that GitHub gives the headings of a page.
func anchorsOf(page string) (anchors []string) {
	for _, m := range docHeading.FindAllStringSubmatch(page, -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}
