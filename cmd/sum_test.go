package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
)

// TestSumLine compares with the output of b3sum 1.2.0. Names with a carriage return, or with bytes
// that are not UTF-8, are those of sha256sum. TestScripts/sum runs both where they are installed.
func TestSumLine(t *testing.T) {
	root := integrity.Root{0xab}
	hex := root.String()
	for name, want := range map[string]string{
		"f":               "  f",
		"-":               "  -",
		"./a b/c":         "  ./a b/c",
		"two\nlines":      `  two\nlines`,
		`\`:               `  \\`,
		`\n`:              `  \\n`,
		"return\r\x1b":    `  return\r` + "\x1b",
		"漢":               "  漢",
		"x\xff\xfey":      "  x\xff\xfey",
		"\xff\nx":         "  \xff\\nx",
		"was \ufffd \xc3": "  was \ufffd \xc3",
	} {
		mark := ""
		if strings.Contains(want, `\`) {
			mark = `\`
		}
		if got := sumLine(root, name); got != mark+hex+want+"\n" {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// Files around the size from which on they are read in pieces.
func TestSumOf(t *testing.T) {
	for _, n := range []int{0, 1, parallelSize - 1, parallelSize, parallelSize + 1, 3<<20 + 5} {
		content := []byte(strings.Repeat("0123456789abcde", n/15+1))[:n]
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := sumOf(t.Context(), name); err != nil || got != integrity.Root(blake3.Sum256(content)) {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
}
