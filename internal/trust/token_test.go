package trust

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	tokenKey  = [32]byte{1, 2, 3}
	someToken = AccessToken{
		Name: "lab 7", Paths: []string{"a.iso", "data sets/"}, Issued: now, Expires: now.Add(30 * 24 * time.Hour),
	}
)

func signed(t *testing.T, token AccessToken, key [32]byte) string {
	t.Helper()
	text, err := token.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAccessToken(t *testing.T) {
	text := signed(t, someToken, tokenKey)
	if len(text) > MaxTokenText || strings.ContainsAny(text, " \r\n\t/+=") || !strings.HasPrefix(text, TokenPrefix) {
		t.Errorf("text %q", text)
	}
	parsed, err := ParseAccessToken(text)
	if err != nil || !reflect.DeepEqual(parsed, someToken) {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	forever := someToken
	forever.Expires = time.Time{}
	future := someToken
	future.Issued = now.Add(time.Hour)
	for _, c := range []struct {
		name string
		text string
		key  [32]byte
		at   time.Time
		want error
	}{
		{"when it is issued", text, tokenKey, now, nil},
		{"just before its end", text, tokenKey, someToken.Expires.Add(-time.Millisecond), nil},
		{"at its end", text, tokenKey, someToken.Expires, ErrTokenExpired},
		{"long after", text, tokenKey, someToken.Expires.AddDate(50, 0, 0), ErrTokenExpired},
		{"a slow clock", text, tokenKey, now.Add(-issueTolerance), nil},
		{"a clock that is wrong", text, tokenKey, now.Add(-issueTolerance - time.Millisecond), ErrTokenNotYet},
		{"without an end", signed(t, forever, tokenKey), tokenKey, now.AddDate(200, 0, 0), nil},
		{"issued in the future", signed(t, future, tokenKey), tokenKey, now, ErrTokenNotYet},
		{"another key", text, [32]byte{1, 2, 4}, now, ErrTokenInvalid},
		{"another key, expired", text, [32]byte{1, 2, 4}, someToken.Expires, ErrTokenInvalid},
		{"empty", "", tokenKey, now, ErrTokenInvalid},
		{"the prefix alone", TokenPrefix, tokenKey, now, ErrTokenInvalid},
		{"another version", strings.Replace(text, "kwikcp1_", "kwikcp2_", 1), tokenKey, now, ErrTokenInvalid},
		{"a line end", text + "\n", tokenKey, now, ErrTokenInvalid},
		{"a line end inside", text[:20] + "\n" + text[20:], tokenKey, now, ErrTokenInvalid},
		{"padded", text + "=", tokenKey, now, ErrTokenInvalid},
		{"cut", text[:len(text)-1], tokenKey, now, ErrTokenInvalid},
		{"twice", text + text, tokenKey, now, ErrTokenInvalid},
	} {
		got, err := CheckAccessToken(c.key, c.text, c.at)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		isKnown := !errors.Is(err, ErrTokenInvalid)
		if isKnown != (got.Name == someToken.Name) {
			t.Errorf("%s: token %+v", c.name, got)
		}
	}
}

// No changed byte of a token gives another token: each has one text.
func TestAttackTokenTampered(t *testing.T) {
	text := signed(t, someToken, tokenKey)
	for i := range len(text) {
		for b := range 256 {
			if byte(b) == text[i] {
				continue
			}
			changed := text[:i] + string([]byte{byte(b)}) + text[i+1:]
			if _, err := CheckAccessToken(tokenKey, changed, now); !errors.Is(err, ErrTokenInvalid) {
				t.Fatalf("byte %d replaced by %#x: %v", i, b, err)
			}
		}
	}
}

func TestAccessTokenLimits(t *testing.T) {
	long := strings.Repeat("p", 300)
	for name, change := range map[string]func(*AccessToken){
		"no name":            func(t *AccessToken) { t.Name = "" },
		"a long name":        func(t *AccessToken) { t.Name = strings.Repeat("n", MaxTokenName+1) },
		"a line end":         func(t *AccessToken) { t.Name = "a\nb" },
		"an escape sequence": func(t *AccessToken) { t.Name = "a\x1b[2J" },
		"reversed text":      func(t *AccessToken) { t.Name = "a\u202eb" },
		"not UTF-8":          func(t *AccessToken) { t.Name = "a\xffb" },
		"a comment":          func(t *AccessToken) { t.Name = "a#b" },
		"a space":            func(t *AccessToken) { t.Name = " a" },
		"no path":            func(t *AccessToken) { t.Paths = nil },
		"dot dot":            func(t *AccessToken) { t.Paths = []string{"a/../b"} },
		"not normal":         func(t *AccessToken) { t.Paths = []string{"/a/"} },
		"not sorted":         func(t *AccessToken) { t.Paths = []string{"b", "a"} },
		"one in another":     func(t *AccessToken) { t.Paths = []string{"a/", "a/b"} },
		"too many paths": func(t *AccessToken) {
			t.Paths = nil
			for i := range MaxTokenPaths + 1 {
				t.Paths = append(t.Paths, fmt.Sprintf("p%02d", i))
			}
		},
		"too long":              func(t *AccessToken) { t.Paths = []string{"1" + long, "2" + long, "3" + long, "4"} },
		"not issued":            func(t *AccessToken) { t.Issued = time.Time{} },
		"expired when issued":   func(t *AccessToken) { t.Expires = t.Issued },
		"expires before issued": func(t *AccessToken) { t.Expires = t.Issued.Add(-time.Hour) },
	} {
		token := someToken
		change(&token)
		if text, err := token.Sign(tokenKey); err == nil {
			t.Errorf("%s: signed as %q", name, text)
		}
		// A text that was signed by other software is not accepted either.
		if token.Issued.UnixMilli() > 0 {
			body := token.encode()
			text := TokenPrefix + tokenEncoding.EncodeToString(append(body, tokenMAC(tokenKey, body)...))
			if _, err := CheckAccessToken(tokenKey, text, now); !errors.Is(err, ErrTokenInvalid) {
				t.Errorf("%s: accepted: %v", name, err)
			}
		}
	}
	most := someToken
	most.Name, most.Paths = strings.Repeat("ü", MaxTokenName/2), nil
	for i := range MaxTokenPaths {
		most.Paths = append(most.Paths, fmt.Sprintf("path-number-%02d/%s", i, strings.Repeat("x", 20)))
	}
	if _, err := CheckAccessToken(tokenKey, signed(t, most, tokenKey), now); err != nil {
		t.Error(err)
	}
}

func TestNormalizePaths(t *testing.T) {
	for _, c := range []struct {
		paths []string
		want  []string // nil for an error
	}{
		{[]string{"/"}, []string{""}},
		{[]string{""}, nil},
		{[]string{"/datasets/"}, []string{"datasets/"}},
		{[]string{"datasets/"}, []string{"datasets/"}},
		{[]string{"/datasets/a.iso"}, []string{"datasets/a.iso"}},
		{[]string{"/b", "/a/", "/a/c", "a/"}, []string{"a/", "b"}},
		{[]string{"/a", "/", "/b/"}, []string{""}},
		{[]string{"/a", "/ab", "/a.b/"}, []string{"a", "a.b/", "ab"}},
		{[]string{"/ä ö/日本/"}, []string{"ä ö/日本/"}},
		{[]string{"/...", "/..a"}, []string{"...", "..a"}},
		{nil, nil},
		{[]string{"//"}, nil},
		{[]string{"//a"}, nil},
		{[]string{"/a//"}, nil},
		{[]string{"/a//b"}, nil},
		{[]string{"/.."}, nil},
		{[]string{"/a/../b"}, nil},
		{[]string{"/a/.."}, nil},
		{[]string{"."}, nil},
		{[]string{"/./"}, nil},
		{[]string{"/a\x00b"}, nil},
		{[]string{`/a\b`}, nil},
		{[]string{"/ok", "/a/.."}, nil},
	} {
		got, err := NormalizePaths(c.paths)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q: %q, %v; want %q", c.paths, got, err, c.want)
		}
	}
	if _, err := NormalizePath(""); err == nil {
		t.Error("an empty path allows everything")
	}
}

func TestAccessKey(t *testing.T) {
	one, _ := identity(t, now)
	other, _ := identity(t, now)
	key := AccessKey(one)
	if key != AccessKey(one) || key == AccessKey(other) {
		t.Error("the key does not follow the private key")
	}
	for name, secret := range map[string][32]byte{
		"tickets": TicketKey(one), "resets": StatelessResetKey(one), "QUIC tokens": TokenKey(one),
	} {
		if secret == key {
			t.Errorf("the key of %s", name)
		}
	}
}

// A token of an earlier version stays valid.
func TestAccessTokenVector(t *testing.T) {
	token := AccessToken{Name: "lab7", Paths: []string{"datasets/"}, Issued: time.UnixMilli(1_700_000_000_000).UTC()}
	if got := hex.EncodeToString(token.encode()); got != "0180d095ffbc3100046c616237010964617461736574732f" {
		t.Errorf("signed bytes %s", got)
	}
	if got := signed(t, token, tokenKey); got != vectorToken {
		t.Errorf("token %s", got)
	}
}

const vectorToken = "kwikcp1_AYDQlf-8MQAEbGFiNwEJZGF0YXNldHMvboZBQh_If16vDsPgN-IhrTJrE47cbYJ3JObvAkNVi3w"

func TestParseRevoked(t *testing.T) {
	names, err := ParseRevoked([]byte("\ufeff# gone\r\nlab7\r\n\n  two words  # left in May\n#lab8\nlab9"))
	if want := []string{"lab7", "two words", "lab9"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v", names, err)
	}
	names, err = ParseRevoked([]byte("lab7\na\x07b\n" + strings.Repeat("x", MaxTokenName+1) + "\nlab8"))
	if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") || !slices.Equal(names, []string{"lab7", "lab8"}) {
		t.Errorf("%q, %v", names, err)
	}
}

func credentials(t *testing.T, content string) *Credentials {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenCredentials(path, "4433")
}

func TestCredentials(t *testing.T) {
	c := credentials(t, "# comment\n\nfiles.example.org first\nfiles.example.org:4434\tother\r\n[2001:db8::1] six\n"+
		"2001:db8::2 seven\nFILES.example.org.:4433 last\n")
	for host, want := range map[string]string{
		"files.example.org:4433": "last", "Files.Example.Org.:4434": "other", "files.example.org:4435": "",
		"[2001:db8::1]:4433": "six", "[2001:db8::1]:1": "", "[2001:db8::2]:4433": "seven", "example.org:4433": "",
	} {
		if got, err := c.Lookup(host); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", host, got, err, want)
		}
	}
	if got, err := OpenCredentials(filepath.Join(t.TempDir(), "none"), "1").Lookup("a:1"); got != "" || err != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	for name, content := range map[string]string{
		"no token": "a\n", "three words": "a b c\n", "no host": "kwikcp1_SECRET= x/\n",
		"too long":    "a " + strings.Repeat("SECRET", 200) + "\n",
		"a long line": "a " + strings.Repeat("SECRET", 1000) + "\n", "control": "a\x00b SECRET\n",
	} {
		got, err := credentials(t, "a:1 fine\n"+content).Lookup("a:1")
		if got != "" || err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%s: %q, %v", name, got, err)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error has text of the file: %v", name, err)
		}
	}
	if runtime.GOOS == "windows" {
		return // has no such modes
	}
	for _, mode := range []os.FileMode{0o604, 0o640, 0o622} {
		os.Chmod(c.Path(), mode)
		if got, err := c.Lookup("files.example.org:4433"); got != "" || err == nil {
			t.Errorf("mode %o: %q, %v", mode, got, err)
		}
	}
}

// A text that is accepted means one token, whose text it is.
func FuzzParseAccessToken(f *testing.F) {
	text, _ := someToken.Sign(tokenKey)
	f.Add(text)
	f.Add(TokenPrefix)
	f.Add(vectorToken)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseAccessToken(text)
		if err != nil {
			if !errors.Is(err, ErrTokenInvalid) || !reflect.DeepEqual(token, AccessToken{}) {
				t.Errorf("%+v, %v", token, err)
			}
			return
		}
		if token.check() != nil || len(text) > MaxTokenText {
			t.Errorf("%+v: %v", token, token.check())
		}
		again, err := token.Sign(tokenKey)
		if err != nil {
			t.Fatal(err)
		}
		want := len(text) == len(again) && text[:len(TokenPrefix)+8] == again[:len(TokenPrefix)+8]
		if !want {
			t.Errorf("%q is also %q", text, again)
		}
	})
}

// A path in its normal form is its own normal form, and leads nowhere else.
func FuzzNormalizePath(f *testing.F) {
	for _, path := range []string{"/", "/a/", "a", "/a/../b", "//", "/a/./", "\x00"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		normal, err := NormalizePath(path)
		if err != nil || normal == "" {
			return
		}
		if again, err := NormalizePath(normal); again != normal || err != nil {
			t.Errorf("%q, then %q, %v", normal, again, err)
		}
		if strings.HasPrefix(normal, "/") || slices.Contains(strings.Split(normal, "/"), "..") {
			t.Errorf("%q", normal)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte("files.example.org token\n# x\n[::1]:5 other"))
	f.Fuzz(func(t *testing.T, data []byte) {
		token, err := findCredential(data, "files.example.org:4433", "4433")
		if err != nil && token != "" {
			t.Errorf("%q with the error %v", token, err)
		}
		if len(token) > MaxTokenText || strings.ContainsAny(token, " \n\r\t") {
			t.Errorf("%q, %v", token, err)
		}
	})
}

func FuzzParseRevoked(f *testing.F) {
	f.Add([]byte("lab7\n# x\n two words # y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, _ := ParseRevoked(data)
		for _, name := range names {
			if err := CheckTokenName(name); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}
