package cmd

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"serve", "get", "sum", "verify", "demo", "--json", "--max-time", "--no-clobber", "-q"}
	for typed, want := range map[string]string{
		"gte": "get", "GET": "get", "ge": "get", "gett": "get", "verfy": "verify", "vreify": "verify", "ver": "verify", "server": "serve",
		"--jsn": "--json", "--maxtime": "--max-time", "--no-cl": "--no-clobber", "--no-clober": "--no-clobber",
		"bogus": "", "x": "", "": "", "--": "", "--x": "", "upload": "", "download": "", strings.Repeat("get", 1000): "",
	} {
		if got := nearest(typed, words); got != want {
			t.Errorf("%.20q: %q, want %q", typed, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xbc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q and %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestSecretFlag(t *testing.T) {
	options := []string{"--root", "--join-token-file"}
	for _, name := range []string{"--join-token", "--join-token=abc", "--token", "--password"} {
		if got := secretFlag(name, options); got != "--join-token-file" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := secretFlag("--token", []string{"--root"}); got != "" {
		t.Error(got)
	}
}

func TestWithoutSecret(t *testing.T) {
	for in, want := range map[string]string{
		"kwik://u:secret@h/f": "kwik://...@h/f", "kwik://a@b@h": "kwik://...@h", "kwik://h/f@g": "kwik://h/f@g", "f": "f", "": "",
	} {
		if got := withoutSecret(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
