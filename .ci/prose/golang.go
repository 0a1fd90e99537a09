package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scanGo scans the comments, messages, lines and assertions of a Go file.
func scanGo(r *report, name string, content []byte) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(file) {
		return nil
	}
	g := &goFile{report: r, name: name, set: set, file: file, test: strings.HasSuffix(name, "_test.go")}
	g.comments()
	g.messages()
	g.docNames()
	g.assertions()
	g.widths(content)
	return nil
}

// A goFile is a Go file that is being scanned.
type goFile struct {
	report *report
	name   string
	set    *token.FileSet
	file   *ast.File
	test   bool
}

func (g *goFile) line(p token.Pos) int { return g.set.Position(p).Line }

var directive = regexp.MustCompile(`^//([a-z0-9]+:[a-z0-9]|export |extern |line |nolint)`)

// commentText returns the lines of a comment group without their markers, with an empty line
// for each directive. An example's expected output is data, and is left out.
func commentText(group *ast.CommentGroup) []string {
	var lines []string
	for _, c := range group.List {
		switch {
		case directive.MatchString(c.Text):
			lines = append(lines, "")
		case strings.HasPrefix(c.Text, "//"):
			text := strings.TrimPrefix(c.Text[2:], " ")
			if t := strings.ToLower(text); strings.HasPrefix(t, "output:") || strings.HasPrefix(t, "unordered output:") {
				return lines
			}
			lines = append(lines, text)
		default:
			text := strings.TrimSuffix(strings.TrimPrefix(c.Text, "/*"), "*/")
			for line := range strings.SplitSeq(text, "\n") {
				lines = append(lines, strings.TrimPrefix(line, " "))
			}
		}
	}
	return lines
}

func (g *goFile) comments() {
	var blocks []block
	for _, group := range g.file.Comments {
		blocks = append(blocks, paragraphs(g.line(group.Pos()), commentText(group))...)
	}
	checkProse(g.report, g.name, blocks)
}

// testMessages are the methods of testing.T whose arguments are messages.
var testMessages = []string{"Error", "Errorf", "Fatal", "Fatalf", "Log", "Logf", "Skip", "Skipf"}

// messages scans the string literals that are prose: in tests the arguments of t.Errorf and
// its kin, elsewhere every literal of three words or more. Parts joined by + are one literal.
func (g *goFile) messages() {
	var blocks []block
	collect := func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.Field: // a tag is no message
				return n.Tag == nil
			case *ast.BinaryExpr:
				if text, ok := literal(n); ok {
					blocks = append(blocks, g.message(n.Pos(), text)...)
					return false
				}
			case *ast.BasicLit:
				if text, ok := literal(n); ok {
					blocks = append(blocks, g.message(n.Pos(), text)...)
				}
			}
			return true
		})
	}
	if !g.test {
		collect(g.file)
	} else {
		ast.Inspect(g.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if s, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(testMessages, s.Sel.Name) {
					for _, arg := range call.Args {
						collect(arg)
					}
					return false
				}
			}
			return true
		})
	}
	checkProse(g.report, g.name, blocks)
}

// literal returns the value of a string literal, or of several joined by +.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, ok := literal(e.X)
		if !ok {
			return "", false
		}
		right, ok := literal(e.Y)
		return left + right, ok
	}
	return "", false
}

// A tableRow has columns with at least three spaces between them.
var tableRow = regexp.MustCompile(`\S {3,}\S`)

var proseLike = regexp.MustCompile(`[A-Za-z]{2,}[,;:]? [a-z]+[,;:]? [a-z(]+`)

// message returns the blocks of a literal, if it reads as prose.
func (g *goFile) message(p token.Pos, text string) []block {
	if !proseLike.MatchString(text) {
		return nil
	}
	// An indented line of a help text is prose, too. A change of the indentation starts a new
	// block. A row of a table is a block by itself.
	var out []block
	indent := -1
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		depth := strings.Index(line, trimmed)
		item := listItem.FindString(trimmed)
		switch {
		case trimmed == "":
			indent = -1
		case tableRow.MatchString(trimmed):
			out = append(out, block{line: g.line(p) + i, text: trimmed[len(item):]})
			indent = -1
		case item != "" || depth != indent:
			out = append(out, block{line: g.line(p) + i, text: trimmed[len(item):]})
			indent = depth + len(item)
		default:
			out[len(out)-1].text += "\n" + trimmed
		}
	}
	return out
}

var testFunction = regexp.MustCompile(`^(Test|Benchmark|Fuzz|Example)($|[^a-z])`)

// docNames checks that the doc comment of each function, method and type starts with its name,
// maybe after an article. Packages and tests are left out, and so are groups, whose doc
// comment belongs to no single name.
func (g *goFile) docNames() {
	check := func(doc *ast.CommentGroup, name string) {
		if doc == nil {
			return
		}
		first := strings.Fields(doc.Text())
		if len(first) > 1 && slices.Contains([]string{"A", "An", "The"}, first[0]) && first[0] != name {
			first = first[1:]
		}
		if len(first) > 0 && strings.TrimSuffix(strings.Trim(first[0], ".,:;()"), "'s") != name {
			g.report.add(g.name, g.line(doc.Pos()), "name", name+": "+strings.SplitN(doc.Text(), "\n", 2)[0])
		}
	}
	for _, d := range g.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !g.test || !testFunction.MatchString(d.Name.Name) {
				check(d.Doc, d.Name.Name)
			}
		case *ast.GenDecl:
			if d.Tok == token.TYPE && len(d.Specs) == 1 && d.Lparen == token.NoPos {
				check(d.Doc, d.Specs[0].(*ast.TypeSpec).Name.Name)
			}
		}
	}
}

// maxOperators is the number of || and && that an assertion may have: three terms.
const maxOperators = 2

// assertions counts conditions of more than three terms that lead directly to t.Errorf and its
// kin. The message of such an assertion cannot name the term that failed.
func (g *goFile) assertions() {
	ast.Inspect(g.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt:
			g.assertion(n.Cond, n.Body.List)
		case *ast.CaseClause:
			for _, cond := range n.List {
				g.assertion(cond, n.Body)
			}
		}
		return true
	})
}

func (g *goFile) assertion(cond ast.Expr, body []ast.Stmt) {
	if operators(cond) > maxOperators && slices.ContainsFunc(body, reportsFailure) {
		g.report.add(g.name, g.line(cond.Pos()), "assertion", "a condition with more than three terms")
	}
}

// operators counts the || and && of a condition, without those of function literals in it.
func operators(cond ast.Expr) int {
	n := 0
	ast.Inspect(cond, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncLit:
			return false
		case *ast.BinaryExpr:
			if node.Op == token.LOR || node.Op == token.LAND {
				n++
			}
		}
		return true
	})
	return n
}

// reportsFailure reports whether a statement calls Error, Errorf, Fatal or Fatalf of a test.
func reportsFailure(s ast.Stmt) bool {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains(testMessages[:4], f.Sel.Name) {
		return false
	}
	on, ok := f.X.(*ast.Ident)
	return !ok || !slices.Contains([]string{"fmt", "log", "slog", "errors"}, on.Name)
}

// widths checks the width of each line: that of a comment where the line is all comment, and
// that of code elsewhere. Multi-line string literals are laid out by what they hold, and are
// left out.
func (g *goFile) widths(content []byte) {
	all := strings.Split(string(content), "\n")
	commented := make([]bool, len(all)+1)
	exempt := make([]bool, len(all)+1)
	for _, group := range g.file.Comments {
		for _, c := range group.List {
			first := g.line(c.Pos())
			for line := first; line <= g.line(c.End()); line++ {
				commented[line] = line > first || strings.HasPrefix(strings.TrimSpace(all[line-1]), "/")
				exempt[line] = directive.MatchString(c.Text) || strings.HasPrefix(c.Text, "//\t") || strings.HasPrefix(c.Text, "//  ")
			}
		}
	}
	ast.Inspect(g.file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && g.line(lit.Pos()) != g.line(lit.End()) {
			for line := g.line(lit.Pos()); line <= g.line(lit.End()); line++ {
				exempt[line] = true
			}
		}
		return true
	})
	for i, text := range all {
		if text == "" {
			continue
		}
		limit := codeWidth
		if commented[i+1] {
			limit = proseWidth
		}
		checkWidth(g.report, g.name, i+1, text, limit, exempt[i+1])
	}
}
