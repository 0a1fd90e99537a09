package escape

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
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
		if got := Line(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("\x1b]0;title\x07\r\n\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, isControl) {
			t.Errorf("%q: %q", s, got)
		}
		if Line(got) != got {
			t.Errorf("%q is not stable", got)
		}
	})
}

func isControl(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 }

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü":        "plain ü",
		`back\slash`:     `back\\slash`,
		"new\nline\x1b[": `new\nline\x1b[`,
		"\xff\u202e":     `\xff\u202e`,
		"\ufffd":         "\ufffd",
	} {
		if got := Name(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Different names must be told apart.
func FuzzName(f *testing.F) {
	f.Add("a\nb", `a\nb`)
	f.Add("\xff", "\ufffd")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && Name(a) == Name(b) {
			t.Errorf("%q and %q are both %q", a, b, Name(a))
		}
		if strings.ContainsFunc(Name(a), isControl) {
			t.Errorf("%q: %q", a, Name(a))
		}
	})
}

func TestReason(t *testing.T) {
	for in, want := range map[string]string{
		"no such file":         "no such file",
		"a\x1b[2J\u202e\u009b": "a?[2J??",
		"\xff":                 "?",
		"0123456789abcdef":     "0123456789abcdef"[:12],
	} {
		if got := Reason(in, 12); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	in := "a\x7f\u009b\u202e\U000e0001 ü 漢 \U0001f600"
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if n, err := JSON(&out).Write(text); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
	if want := `"a\u007f\u009b\u202e\udb40\udc01 ü 漢 ` + "\U0001f600" + `"`; out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
	var back string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in {
		t.Errorf("%q, %v", back, err)
	}
}
