package checksum

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

var (
	hex32  = strings.Repeat("0f", 16)
	hex64  = strings.Repeat("0f", 32)
	hex128 = strings.Repeat("0f", 64)
)

// parse parses the lines of a text, each to "sum name", "-" for one that is skipped and "!" for a
// malformed one.
func parse(text string) (all []string) {
	var p Parser
	for line := range strings.SplitSeq(text, "|") {
		l, ok, err := p.Parse(line)
		switch {
		case err != nil:
			all = append(all, "!")
		case !ok:
			all = append(all, "-")
		default:
			all = append(all, fmt.Sprintf("%v %s", l.Sum, l.Name))
		}
	}
	return all
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		// The forms of all tools.
		hex64 + "  f":                     hex64 + " f",
		hex64 + " *f":                     hex64 + " f",
		hex64 + " f":                      hex64 + " f",
		hex64 + "\t f":                    hex64 + " f",
		hex32 + "  f":                     hex32 + " f",
		hex128 + "  f":                    hex128 + " f",
		"SHA256 (f) = " + hex64:           "sha256=" + hex64 + " f",
		"SHA256(f)= " + hex64:             "sha256=" + hex64 + " f",
		"SHA2-256(f)= " + hex64:           "sha256=" + hex64 + " f",
		"SHA512 (f) = " + hex128:          "sha512=" + hex128 + " f",
		"MD5 (f) = " + hex32:              "md5=" + hex32 + " f",
		"BLAKE3 (f) = " + hex64:           "blake3=" + hex64 + " f",
		strings.ToUpper(hex64) + "  f":    hex64 + " f",
		"  " + hex64 + "  f":              hex64 + " f",
		hex64 + "  f\r":                   hex64 + " f",
		"SHA256 (a) = (b) = " + hex64:     "sha256=" + hex64 + " a) = (b",
		hex64 + "  two  words ":           hex64 + " two  words ",
		hex64 + "   f":                    hex64 + "  f",
		hex64 + "  *f":                    hex64 + " *f",
		hex64 + "  -":                     hex64 + " -",
		hex64 + "  \xff":                  hex64 + " \xff",
		hex64 + `  a\nb`:                  hex64 + ` a\nb`,
		`\` + hex64 + `  a\nb\\c\rd`:      hex64 + " a\nb\\c\rd",
		`\SHA256 (a\nb) = ` + hex64:       "sha256=" + hex64 + " a\nb",
		hex64 + "  a|" + hex64 + " *b":    hex64 + " a," + hex64 + " b",
		hex64 + " a|" + hex64 + " *b":     hex64 + " a," + hex64 + " *b",
		"#c|" + hex64 + "  f|":            "-," + hex64 + " f,-",
		"\r|# " + hex64 + "  f|" + "  ":   "-,-,!",
		"MD5 (f) = " + hex32 + "|x":       "md5=" + hex32 + " f,!",
		hex64 + "  a|" + hex64 + " b":     hex64 + " a,!",
		hex64 + "  a|x|" + hex64 + " b|y": hex64 + " a,!,!,!",

		// Malformed lines.
		hex64:                             "!",
		hex64 + " ":                       "!",
		hex64 + "f":                       "!",
		hex64 + "0f  f":                   "!",
		hex64[1:] + "  f":                 "!",
		"g" + hex64[1:] + "  f":           "!",
		"SHA256 (f) = " + hex32:           "!",
		"SHA256 () = " + hex64:            "!",
		"SHA256 (f) " + hex64:             "!",
		"SHA256 (f = " + hex64:            "!",
		"SHA256 (f) = " + hex64 + " ":     "!",
		"SHA256  (f) = " + hex64:          "!",
		"SHA1 (f) = " + hex64:             "!",
		"sha256 (f) = " + hex64:           "!",
		`\` + hex64 + `  a\tb`:            "!",
		`\` + hex64 + `  a\`:              "!",
		hex64 + "  a\x00b":                "!",
		"-----BEGIN PGP SIGNED MESSAGE--": "!",
	} {
		if got := strings.Join(parse(text), ","); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestReader(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	text := "\ufeff" + hex64 + "  a\r\n# comment\n\nbad\n" + hex64 + "  " + long + "\n" + hex32 + "  b"
	r := NewReader(strings.NewReader(text))
	for _, want := range []string{"a", "b"} {
		if l, err := r.Next(); err != nil || l.Name != want {
			t.Fatalf("%.20q, %v, want %q", l.Name, err, want)
		}
	}
	if _, err := r.Next(); err != io.EOF || r.Lines != 2 || r.Malformed != 2 {
		t.Errorf("%v, %d lines, %d malformed", err, r.Lines, r.Malformed)
	}
	broken := NewReader(io.MultiReader(strings.NewReader(hex64+"  a\n"+hex64), brokenReader{}))
	if _, err := broken.Next(); err != nil {
		t.Error(err)
	}
	if _, err := broken.Next(); err != errBroken {
		t.Error(err)
	}
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// FuzzParse checks that every line is refused or has a name and a hash that survive being written
// and parsed again.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		hex64 + "  f", hex64 + " *f", hex32 + " f", "SHA512 (f) = " + hex128, "BLAKE3(a) = (b)= " + hex64,
		`\` + hex64 + `  a\nb\\`, "#", "\r", "\\",
		"SHA256 (", "  ", hex64 + "\t\t",
	} {
		f.Add(line, line)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		var p Parser
		for _, line := range []string{first, second} {
			l, ok, err := p.Parse(line)
			if !ok || err != nil {
				if ok || l != (Line{}) {
					t.Fatalf("%q: %+v, %v, %v", line, l, ok, err)
				}
				continue
			}
			if l.Name == "" || len(l.Sum.Algorithms()) == 0 {
				t.Fatalf("%q: %+v", line, l)
			}
			if sum, err := ParseSum(l.Sum.String()); err != nil || sum != l.Sum {
				t.Fatalf("%q: %v is parsed as %v, %v", line, l.Sum, sum, err)
			}
			if strings.HasSuffix(l.Name, "\r") {
				continue // the end of a line of Windows
			}
			mark, name := Escape(l.Name)
			again, ok, err := new(Parser).Parse(mark + l.Sum.Hex() + "  " + name)
			same := again.Name == l.Name && again.Sum.Hex() == l.Sum.Hex()
			if !ok || err != nil || !same {
				t.Fatalf("%q: %q is parsed as %q, %v, %v", line, l.Name, again.Name, ok, err)
			}
		}
	})
}
