package cmd

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain ü 漢 \U0001f600":    "plain ü 漢 \U0001f600",
		"two\nlines":              "two; lines",
		"cr\rtab\tnul\x00":        `cr\rtab\tnul\x00`,
		"\x1b[2J\x07\x7f\u009b":   `\x1b[2J\a\x7f\u009b`,
		"\u202egnp.exe\u2066":     `\u202egnp.exe\u2066`,
		"not \xff UTF-8":          "not \ufffd UTF-8",
		"no-break\u00a0space":     `no-break\u00a0space`,
		"zero\u200bwidth\ufeff":   `zero\u200bwidth\ufeff`,
		"line\u2028paragraph":     `line\u2028paragraph`,
		`quotes ' " and back \ .`: `quotes ' " and back \ .`,
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("\x1b]0;title\x07\r\n\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 }) {
			t.Errorf("%q: %q", s, got)
		}
		if oneLine(got) != got {
			t.Errorf("%q is not what oneLine makes of itself", got)
		}
	})
}

func TestErrorWithHint(t *testing.T) {
	var stderr bytes.Buffer
	term := &terminal{stderr: &stderr}
	term.errorWithHint("it \x1b[31m\nfailed", "try\nagain")
	term.errorWithHint("plain", "")
	term.warningf("%d", 1)
	const want = "kwikcp: error: it \\x1b[31m; failed (hint: try; again)\nkwikcp: error: plain\nkwikcp: warning: 1\n"
	if stderr.String() != want {
		t.Errorf("%q", stderr.String())
	}
	if term.interactive() || term.width() != 80 {
		t.Error("a buffer is no terminal")
	}
}

func TestQuantities(t *testing.T) {
	for got, want := range map[string]string{
		size(0): "0 B", size(-1): "0 B", size(1023): "1023 B", size(64 << 20): "64 MiB",
		rate(0): "0 B/s", rate(-5): "0 B/s", rate(1 << 30): "1.0 GiB/s",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"kwik://h:1/a-b_c%20d?": `'kwik://h:1/a-b_c%20d?'`,
		"kwik://h:1/a":          "kwik://h:1/a",
		"it's":                  `'it'\''s'`,
		"$(rm)":                 `'$(rm)'`,
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
