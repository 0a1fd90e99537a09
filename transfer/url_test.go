package transfer

import (
	"bytes"
	"encoding/base64"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/transfer/internal/wire"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// somePin has bits that the two base64 alphabets spell differently.
var (
	somePin  = trust.Pin(bytes.Repeat([]byte{0xfb, 0xff, 0x3e, 0x01}, 8))
	someRoot = integrity.Root(bytes.Repeat([]byte{0xab, 0x0c}, 16))
)

func TestParseURL(t *testing.T) {
	plain := func(host, path string) URL { return URL{Host: host, Path: path} }
	pinned := URL{Host: "h:4433", Path: "x", Pin: (*[32]byte)(&somePin)}
	standard := base64.StdEncoding.EncodeToString(somePin[:])
	for in, want := range map[string]URL{
		"kwik://host/file":                            plain("host:4433", "file"),
		"KWIK://host/file":                            plain("host:4433", "file"),
		"kwik://host:1/a/b/c":                         plain("host:1", "a/b/c"),
		"kwik://host:65535/x":                         plain("host:65535", "x"),
		"kwik://192.0.2.1:99/x":                       plain("192.0.2.1:99", "x"),
		"kwik://[2001:db8::1]/x":                      plain("[2001:db8::1]:4433", "x"),
		"kwik://[::1]:7/x":                            plain("[::1]:7", "x"),
		"kwik://xn--mnchen-3ya.de/x":                  plain("xn--mnchen-3ya.de:4433", "x"),
		"kwik://h/with%20space":                       plain("h:4433", "with space"),
		"kwik://h/a%2fb":                              plain("h:4433", "a/b"),
		"kwik://h/%3f%23%25":                          plain("h:4433", "?#%"),
		"kwik://h/umläut":                             plain("h:4433", "umläut"),
		"kwik://h/not%ffutf8%0aline":                  plain("h:4433", "not\xffutf8\nline"),
		"kwik://h/-x":                                 plain("h:4433", "-x"),
		"kwik://h/.hidden/...":                        plain("h:4433", ".hidden/..."),
		"kwik://h/~/C:x":                              plain("h:4433", "~/C:x"),
		`kwik://h/a\b`:                                plain("h:4433", `a\b`),
		"kwik://h/a%5cb":                              plain("h:4433", `a\b`),
		"kwik://[fe80::1%25eth0]/x":                   plain("[fe80::1%eth0]:4433", "x"),
		"kwik://[fe80::1%eth0]:1/x%25":                plain("[fe80::1%eth0]:1", "x%"),
		"kwik://[fe80::1%2]/x":                        plain("[fe80::1%2]:4433", "x"),
		"kwik://[fe80::1%25]/x":                       plain("[fe80::1%25]:4433", "x"),
		"kwik://h/x?pin=" + somePin.String():          pinned,
		"kwik://h/x?pin=" + url.QueryEscape(standard): pinned,
		"kwik://h/x?pin=" + url.QueryEscape("sha256//"+standard): pinned,
		"kwik://h/x#b3=" + someRoot.String():                     {Host: "h:4433", Path: "x", Root: &someRoot},
		"kwik://h/x#b3=" + strings.ToUpper(someRoot.String()):    {Host: "h:4433", Path: "x", Root: &someRoot},
		"kwik://h/x?pin=" + somePin.String() + "#b3=" + someRoot.String(): {Host: "h:4433", Path: "x", Pin: (*[32]byte)(&somePin),
			Root: &someRoot},
		"kwik://h/" + strings.Repeat("p", wire.MaxPath): plain("h:4433",
			strings.Repeat("p", wire.MaxPath)),
		"kwik://" + strings.Repeat("h", 253) + "/x": plain(strings.Repeat("h", 253)+":4433", "x"),
	} {
		got, err := ParseURL(in)
		if err != nil {
			t.Errorf("ParseURL(%.100q): %v", in, err)
			continue
		}
		if !sameURL(got, want) {
			t.Errorf("ParseURL(%.100q) = %+v, want %+v", in, got, want)
		}
		if again, err := ParseURL(got.String()); err != nil || !sameURL(again, got) {
			t.Errorf("%.100q became %.100q, which is %+v, %v", in, got.String(), again, err)
		}
	}
}

func sameURL(a, b URL) bool {
	pins := a.Pin == b.Pin || a.Pin != nil && b.Pin != nil && *a.Pin == *b.Pin
	roots := a.Root == b.Root || a.Root != nil && b.Root != nil && *a.Root == *b.Root
	return a.Host == b.Host && a.Path == b.Path && pins && roots
}

func TestParseURLRefuses(t *testing.T) {
	pin := somePin.String()
	for in, reason := range map[string]string{
		"":                                "no scheme",
		"host":                            "no scheme",
		"host/file":                       "no scheme",
		"//host/file":                     "no scheme",
		"http://host/file":                `scheme is "http"`,
		"host:4433/file":                  `scheme is "host"`,
		"kwik:host/file":                  "no host",
		"kwik:///file":                    "no host",
		"kwik:/file":                      "no host",
		"kwik://:4433/file":               "host",
		"kwik://user@host/x":              "user name",
		"kwik://user:secret@h/x":          "user name",
		"kwik://h:/x":                     "port is empty",
		"kwik://h:0/x":                    "port 0",
		"kwik://h:65536/x":                "port 65536",
		"kwik://h:99999999999999999999/x": "port",
		"kwik://h:-1/x":                   "port",
		"kwik://h:http/x":                 "port",
		"kwik://h:1:2/x":                  "",
		"kwik://::1:443/x":                "",
		"kwik://::1/x":                    "",
		"kwik://[::1/x":                   "",
		"kwik://[::1]x/y":                 "",
		"kwik://[]/x":                     "",
		"kwik://fe80::1%25eth0/x":         "",
		"kwik://]/x":                      "host",
		"kwik://[/x":                      "",
		"kwik://[1:2]/x":                  "host",
		"kwik://[host]/x":                 "",
		"kwik://a b/x":                    "",
		"kwik://a%20b/x":                  "",
		`kwik://a\b/x`:                    "",
		"kwik://" + strings.Repeat("h", 254) + "/x": "host",
		"kwik://h":                   "names no file",
		"kwik://h/":                  "names no file",
		"kwik://h?pin=" + pin:        "names no file",
		"kwik://h//x":                "empty component",
		"kwik://h/a//b":              "empty component",
		"kwik://h/a/":                "empty component",
		"kwik://h/..":                `component ".."`,
		"kwik://h/../etc/passwd":     `component ".."`,
		"kwik://h/a/../b":            `component ".."`,
		"kwik://h/%2e%2e/x":          `component ".."`,
		"kwik://h/a%2f..%2fb":        `component ".."`,
		"kwik://h/.":                 `component "."`,
		"kwik://h/a/./b":             `component "."`,
		"kwik://h/a%00b":             "NUL",
		"kwik://h/x#":                "fragment is empty",
		"kwik://h/x?":                "query is empty",
		"kwik://h/x?#":               "is empty",
		"kwik://[fe80::1%]/x":        "zone",
		"kwik://[fe80::1%25a%20b]/x": "not valid",
		"kwik://[fe80::1%a b]/x":     "",
		"kwik://[1.2.3.4%lo]/x":      "host",
		"kwik://h/%zz":               "",
		"kwik://h/a\nb":              "control characters",
		"kwik://h/a\x1b[2J":          "control characters",
		"kwik://h/a\x00b":            "control characters",
		"kwik://h/a\x7f":             "control characters",
		"\tkwik://h/a":               "control characters",
		"kwik://h/" + strings.Repeat("p", wire.MaxPath+1): "longer than 4096",
		"kwik://h/x?pin":                            "pin",
		"kwik://h/x?pin=":                           "pin",
		"kwik://h/x?pin=short":                      "pin",
		"kwik://h/x?pin=" + pin + "A":               "pin",
		"kwik://h/x?pin=" + strings.Repeat("!", 43): "pin",
		"kwik://h/x?pin=" + pin + "&pin=" + pin:     "one pin",
		"kwik://h/x?pins=" + pin:                    `"pins"`,
		"kwik://h/x?pin=" + pin + "&a=1":            `"a"`,
		"kwik://h/x?a;b":                            "query",
		"kwik://h/x?%zz=1":                          "query",
		"kwik://h/x#top":                            `"top"`,
		"kwik://h/x#b3=":                            "BLAKE3",
		"kwik://h/x#b3=" + someRoot.String()[1:]:    "BLAKE3",
		"kwik://h/x#b3=" + someRoot.String() + "00": "BLAKE3",
		"kwik://h/x#b3=" + strings.Repeat("g", 64):  "BLAKE3",
		"kwik://h/x#sha256=" + someRoot.String():    "b3=HEX",
	} {
		u, err := ParseURL(in)
		switch {
		case err == nil:
			t.Errorf("ParseURL(%.100q) = %+v, want an error", in, u)
		case !strings.Contains(err.Error(), reason):
			t.Errorf("ParseURL(%.100q): %q does not say %q", in, err, reason)
		case strings.ContainsAny(err.Error(), "\n\x1b\x00"):
			t.Errorf("ParseURL(%.100q): the error has control characters: %q", in, err)
		case strings.Contains(err.Error(), "secret"):
			t.Errorf("ParseURL(%.100q): the error repeats the password: %q", in, err)
		}
	}
}

func TestServerURLNeedsNoFile(t *testing.T) {
	for _, in := range []string{"kwik://h", "kwik://h/", "kwik://h:4433?pin=" + somePin.String()} {
		if u, err := ParseServerURL(in); err != nil || u.Host != "h:4433" || u.Path != "" {
			t.Errorf("ParseServerURL(%q) = %+v, %v", in, u, err)
		}
	}
	if u, err := ParseServerURL("kwik://h/.."); err == nil {
		t.Errorf("ParseServerURL took %+v", u)
	}
}

// FuzzParseURL checks that whatever is accepted can be used, and is the same again after String.
func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{
		"kwik://h/x", "kwik://[::1]:7/a%20b?pin=" + somePin.String() + "#b3=" + someRoot.String(), "kwik://h/%2e%2e",
		"kwik://h:0/", "kwik://u:p@h/x", "kwik://h/%00", "kwik://h?a=b", "kwik://h/a%2f..%2fb", "kwik://h:00080/%ff%0a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := ParseServerURL(in)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 || r == 0x7f }) {
				t.Fatalf("the error for %q has control characters: %q", in, err)
			}
			return
		}
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil || host == "" {
			t.Fatalf("%q gives the address %q", in, u.Host)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			t.Fatalf("%q gives the port %q", in, port)
		}
		if u.Path != "" && (wire.CheckPath(u.Path) != nil || !filepath.IsLocal(u.Path)) {
			t.Fatalf("%q gives the path %q", in, u.Path)
		}
		again, err := ParseServerURL(u.String())
		if err != nil || !sameURL(again, u) {
			t.Fatalf("%q became %q, which is %+v, %v", in, u.String(), again, err)
		}
	})
}

// FuzzCheckPath checks that no accepted path leads out of a directory, by the judgement of
// package filepath.
func FuzzCheckPath(f *testing.F) {
	for _, seed := range []string{"a", "a/b", "", ".", "..", "/", "a/", "//", "a/../b", "a\x00b", `a\b`, "...", "-",
		"~", strings.Repeat("a/", 2048) + "a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if wire.CheckPath(p) != nil {
			return
		}
		if !filepath.IsLocal(p) || filepath.ToSlash(filepath.Clean(p)) != p {
			t.Fatalf("%q is accepted, which is not local or not clean", p)
		}
		if strings.Contains(p, "\x00") || len(p) > wire.MaxPath {
			t.Fatalf("%q is accepted, with %d bytes", p, len(p))
		}
	})
}
