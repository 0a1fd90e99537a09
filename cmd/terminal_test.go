package cmd

import (
	"bytes"
	"testing"
)

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
