package cmd

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A constantSet evaluates the integer constants of the tree by their names, whose first letter may
// be of either case. It reads the source, so that a test of one package can hold a page against all
// of them.
type constantSet struct {
	values map[string]ast.Expr
}

func parseConstants(t *testing.T) constantSet {
	t.Helper()
	set := constantSet{make(map[string]ast.Expr)}
	for name := range treeFiles(t) {
		inRoom := strings.HasPrefix(name, "kwik/") || strings.HasPrefix(name, "transfer/")
		if !inRoom || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				s := spec.(*ast.ValueSpec)
				for i, id := range s.Names {
					if i < len(s.Values) {
						set.values[strings.ToLower(id.Name)] = s.Values[i]
					}
				}
			}
		}
	}
	return set
}

func (s constantSet) value(t *testing.T, name string) int64 {
	t.Helper()
	e, ok := s.values[strings.ToLower(name)]
	if !ok {
		t.Fatalf("there is no constant %s", name)
	}
	n, exact := constant.Int64Val(s.eval(t, e))
	if !exact {
		t.Fatalf("%s is no integer", name)
	}
	return n
}

func (s constantSet) eval(t *testing.T, e ast.Expr) constant.Value {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return s.eval(t, e.X)
	case *ast.Ident:
		return constant.MakeInt64(s.value(t, e.Name))
	case *ast.SelectorExpr:
		return constant.MakeInt64(s.value(t, e.Sel.Name))
	case *ast.BinaryExpr:
		x, y := s.eval(t, e.X), s.eval(t, e.Y)
		if e.Op == token.SHL || e.Op == token.SHR {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(n))
		}
		return constant.BinaryOp(x, e.Op, y)
	}
	t.Fatalf("an expression %T", e)
	return nil
}

// grouped writes a number as the page does: 16,384.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func mebi(n int64) string {
	if n < 1<<20 {
		return fmt.Sprint(n>>10, " KiB")
	}
	return fmt.Sprint(n>>20, " MiB")
}

// The limits of docs/PROTOCOL.md section 11 are those of the code.
func TestLimitsOfProtocol(t *testing.T) {
	text := readDoc(t, "../docs/PROTOCOL.md")
	rows := make(map[string]string)
	for _, row := range tableRows(t, text, "| limited | limit | beyond it |") {
		rows[row[0]] = row[1]
	}
	c := parseConstants(t)
	number := func(name string) string { return grouped(c.value(t, name)) }
	withShare := func(name string) string { return number(name) + "; " + grouped(c.value(t, name)/4) }
	unproved := "handshakes with addresses that are not validated"
	unvalidated := number("maxUnvalidated") + " in progress; " + number("initialBurst")
	places := "handshakes of a server in progress, up to Hello or the end of a join"
	handshakes := number("defaultHandshakes") + "; " + grouped(c.value(t, "defaultHandshakes")/2)
	bytes := func(name string) string { return mebi(c.value(t, name)) }
	for what, want := range map[string]string{
		"control frame":                                              bytes("maxControlFrame") + ", read",
		"metadata frame other than DATA":                             bytes("maxMetadataFrame"),
		"DATA payload":                                               bytes("maxDataPayload"),
		"descriptor":                                                 bytes("maxDescriptor"),
		"addresses in an AddPath":                                    number("maxAddresses"),
		"path id":                                                    number("maxServerIDLength") + " bytes",
		"aggregate streams of a session":                             number("maxStreamsPerSession"),
		"grants queued with a source for one stream":                 number("maxGrantsQueued"),
		"ranges of a stream that a source lacks":                     number("maxMissingPieces"),
		"head start of a stream":                                     bytes("maxHeadStart"),
		"pieces, with holes between them, of one stream":             number("maxPieces"),
		"paths of a client":                                          number("maxSecondaryPaths") + " secondaries; " + number("MaxConnectionsPerServer") + " to each server, " + number("maxFurtherPaths") + " further",
		"queued control frames to a peer that does not read":         bytes("maxControlQueue"),
		"secondaries of a primary":                                   withShare("defaultMembers"),
		"joins in progress at a primary":                             withShare("defaultMembers"),
		"sessions of a server, each path counts":                     withShare("defaultSessions"),
		places:                                                       handshakes,
		unproved:                                                     unvalidated,
		"new connections of one client":                              number("connectionBurst"),
		"listings of one session in progress (file protocol)":        number("maxListings"),
		"batches of one session in progress (file protocol)":         number("maxBatches"),
		"names that a server holds for all listings (file protocol)": grouped(2 * c.value(t, "maxDirNames")),
	} {
		if got, ok := rows[what]; !ok || !strings.HasPrefix(got, want) {
			t.Errorf("%s: the page has %q, the code %q", what, got, want)
		}
	}
	page := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		"length = varint, bytes of the ControlFrame that follows; at most " + number("maxControlFrame"),
		"`alignment`: bytes of a unit, at most " + number("maxUnit"),
		"`descriptor`: at most " + number("maxDescriptor") + " bytes",
		"at most the payload and " + number("maxDataOverhead") + " bytes for a DATA frame, and " + number("maxMetadataFrame") + " for another",
		"carries 1 to " + number("maxDataPayload") + " bytes",
		"length-delimited JoinFrames (at most " + number("maxJoinFrame") + " bytes each)",
		"the server's software (at most " + number("maxSoftware") + " bytes)",
		"there are at most " + number("maxMissingPieces") + " such ranges",
		"`credential`, at most " + number("maxCredential") + " bytes",
		"is at most " + number("maxHeadStart") + ", and is 0 in a pushed stream",
		"An AddPath has at most " + number("maxAddresses") + " addresses",
		"kwikcp's servers announce " + number("grantQueueLimit"),
		"a source accepts " + number("maxGrantsQueued") + " queued grants",
		"length-delimited, at most " + number("maxMessage") + " bytes each",
		"NUL, at most " + number("maxPath") + " bytes",
		"names of at most " + number("maxName") + " bytes, at most " + number("maxTreePath") + " bytes in all",
		"after `limit` entries (at most " + number("maxListed") + ")",
		"A client accepts " + number("maxEntries") + " entries",
		"the paths of up to " + number("maxBatchFiles") + " files, in tree order, at most " + bytes("maxBatchPaths"),
		"(" + bytes("maxBatchTrees") + " of files after the first)",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}
