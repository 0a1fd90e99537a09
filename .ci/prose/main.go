// Command prose counts departures from the project's rules for English, line width and test
// assertions, and fails when a count exceeds its recorded limit.
//
//	go run ./.ci/prose                    check every tracked file against .ci/prose/limits
//	go run ./.ci/prose -v transfer cmd    list the findings below these paths; checks no limit
//	go run ./.ci/prose -v -only opening   list the findings of one category
//	go run ./.ci/prose -write             record the present counts as the limits
//
// It reads Go comments and messages, the rendered help of the program and Markdown. It also
// reads the comments of protos, scripts and test scripts, and the descriptions of the JSON
// schema. Generated files are skipped. The categories:
//
//	opening    a statement that opens with What, Who or Whoever
//	word       nobody, anew, "says that", "is said", comes, brings
//	come       other forms of come and bring
//	idiom      translated idioms, such as "in vain" and "takes leave"
//	fragment   a fragment that opens with a lower-case what, who or whoever
//	long       a sentence of more than 25 words
//	name       a doc comment that does not start with the name it documents
//	width      a line over its limit: code 120 columns, comments and docs 100, help 80; a tab is 4 columns
//	assertion  a test condition with more than three terms
//
// Width does not apply to tables, code blocks and lines with a URL.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// A finding is one departure from the rules.
type finding struct {
	file     string // slash-separated, relative to the module's root
	line     int
	category string
	text     string
}

// The categories, in the order of the table's columns.
var categories = []string{"opening", "word", "come", "idiom", "fragment", "long", "name", "width", "assertion"}

// A report collects findings, and the totals that give their counts a scale.
type report struct {
	findings  []finding
	lines     map[string]int // by area: lines of text and code
	sentences map[string]int // by area
}

func newReport() *report {
	return &report{lines: map[string]int{}, sentences: map[string]int{}}
}

func (r *report) add(file string, line int, category, text string) {
	r.findings = append(r.findings, finding{file, line, category, text})
}

// areaOf returns the area that a file's findings count for: its top directory. Markdown in the
// root belongs to docs.
func areaOf(file string) string {
	top, _, below := strings.Cut(file, "/")
	switch {
	case below:
		return top
	case strings.HasSuffix(file, ".md"):
		return "docs"
	}
	return "root"
}

// placeOf returns the place that a finding is counted under: its package for assertions, and
// its area for the rest.
func placeOf(f finding) string {
	if f.category == "assertion" {
		return path.Dir(f.file)
	}
	return areaOf(f.file)
}

// A key names one count and its limit.
type key struct{ place, category string }

func (r *report) counts() map[key]int {
	counts := map[key]int{}
	for _, f := range r.findings {
		counts[key{placeOf(f), f.category}]++
	}
	return counts
}

const limitsFile = ".ci/prose/limits"

func main() {
	verbose := flag.Bool("v", false, "list each finding")
	write := flag.Bool("write", false, "record the present counts as the limits")
	only := flag.String("only", "", "restrict the list to one `category`")
	flag.Parse()
	if err := run(os.Stdout, flag.Args(), *verbose, *write, *only); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, paths []string, verbose, write bool, only string) error {
	if only != "" && !slices.Contains(categories, only) {
		return fmt.Errorf("no category %q; the categories are %s", only, strings.Join(categories, ", "))
	}
	if write && len(paths) > 0 {
		return errors.New("-write records the whole tree and takes no paths")
	}
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("finding the root of the repository: %w", err)
	}
	if err := os.Chdir(strings.TrimSuffix(string(root), "\n")); err != nil {
		return err
	}
	r := newReport()
	if err := scanTree(r, paths); err != nil {
		return err
	}
	slices.SortStableFunc(r.findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
	})
	if verbose || only != "" {
		for _, f := range r.findings {
			if only == "" || f.category == only {
				fmt.Fprintf(out, "%s:%d: %s: %s\n", f.file, f.line, f.category, f.text)
			}
		}
	}
	printTable(out, r)
	switch {
	case write:
		return os.WriteFile(limitsFile, formatLimits(r.counts()), 0o644)
	case len(paths) > 0:
		return nil
	}
	return checkLimits(out, r.counts())
}

// scanTree scans the files that git tracks or would track, restricted to the given paths
// unless there are none.
func scanTree(r *report, paths []string) error {
	list := exec.Command("git", append([]string{"ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, paths...)...)
	list.Stderr = os.Stderr
	names, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing the files: %w", err)
	}
	help := false
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.FromSlash(name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted in the work tree, still in the index
		}
		if err != nil {
			return err
		}
		if err := scanFile(r, name, content); err != nil {
			return err
		}
		help = help || name == "cmd/main.go"
	}
	if help {
		return scanHelp(r)
	}
	return nil
}

// scanFile scans one file according to its kind. Files of other kinds hold no prose of ours.
func scanFile(r *report, name string, content []byte) error {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(name, ".pb.go"), name == "docs/REFERENCE.md", name == "docs/kwikcp.1", base == "LICENSE":
		return nil
	case strings.HasSuffix(name, ".go"):
		return scanGo(r, name, content)
	case strings.HasSuffix(name, ".proto"):
		scanComments(r, name, content, "//")
	case strings.HasSuffix(name, ".md"):
		scanMarkdown(r, name, content)
	case strings.HasSuffix(name, ".schema.json"):
		scanSchema(r, name, content)
	case strings.HasSuffix(name, ".txtar"):
		script, _, _ := bytes.Cut(content, []byte("\n-- ")) // files follow
		scanComments(r, name, script, "#")
	case bytes.HasPrefix(content, []byte("#!")):
		scanComments(r, name, content, "#")
	}
	return nil
}

// scanHelp builds the program and scans what its --help prints for each command.
func scanHelp(r *report) error {
	dir, err := os.MkdirTemp("", "prose")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("building the program for its help: %w\n%s", err, out)
	}
	main, err := exec.Command(program, "--help").Output()
	if err != nil {
		return fmt.Errorf("the program's help: %w", err)
	}
	scanHelpText(r, "help/kwikcp", main)
	for _, command := range commandsOf(main) {
		text, err := exec.Command(program, command, "--help").Output()
		if err != nil {
			return fmt.Errorf("the help of %s: %w", command, err)
		}
		scanHelpText(r, "help/"+command, text)
	}
	return nil
}

// commandsOf returns the commands that a help text lists below its heading COMMANDS.
func commandsOf(help []byte) []string {
	var names []string
	listed := false
	for line := range strings.Lines(string(help)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 0 && !strings.HasPrefix(line, " "):
			listed = fields[0] == "COMMANDS:"
		case listed && len(fields) > 0 && strings.HasPrefix(line, "   ") && !strings.HasPrefix(line, "     "):
			if name := strings.Trim(fields[0], ",:"); name != "help" && name != "h" {
				names = append(names, name)
			}
		}
	}
	return names
}

// printTable prints one row per area, with the totals of lines and sentences, and one line per
// package for assertions.
func printTable(out io.Writer, r *report) {
	counts := map[key]int{}
	areas := map[string]bool{}
	for a := range r.lines {
		areas[a] = true
	}
	packages := map[string]int{}
	total := map[string]int{}
	for _, f := range r.findings {
		areas[areaOf(f.file)] = true
		counts[key{areaOf(f.file), f.category}]++
		total[f.category]++
		if f.category == "assertion" {
			packages[path.Dir(f.file)]++
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "area\t%s\tsentences\tlines\tover width\t\n", strings.Join(categories, "\t"))
	row := func(name string, count func(category string) int, sentences, lines int) {
		fmt.Fprintf(w, "%s\t", name)
		for _, c := range categories {
			fmt.Fprintf(w, "%d\t", count(c))
		}
		fmt.Fprintf(w, "%d\t%d\t%.1f %%\t\n", sentences, lines, 100*float64(count("width"))/float64(max(lines, 1)))
	}
	lines, sentences := 0, 0
	for _, a := range sortedKeys(areas) {
		row(a, func(c string) int { return counts[key{a, c}] }, r.sentences[a], r.lines[a])
		lines += r.lines[a]
		sentences += r.sentences[a]
	}
	row("all", func(c string) int { return total[c] }, sentences, lines)
	w.Flush()
	for _, p := range sortedKeys(packages) {
		fmt.Fprintf(out, "assertions with more than three terms in %s: %d\n", p, packages[p])
	}
}
