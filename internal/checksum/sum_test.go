package checksum

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

func TestParseSum(t *testing.T) {
	for text, want := range map[string]string{
		"sha256=" + hex64:                  "sha256=" + hex64,
		"blake3=" + strings.ToUpper(hex64): "blake3=" + hex64,
		"sha512=" + hex128:                 "sha512=" + hex128,
		"md5=" + hex32:                     "md5=" + hex32,
		hex64:                              hex64,
		hex128:                             hex128,
		"":                                 "",
		"sha256=":                          "",
		"=" + hex64:                        "",
		"sha256=" + hex32:                  "",
		"sha256=0" + hex64:                 "",
		"md5=" + hex64:                     "",
		"SHA256=" + hex64:                  "",
		"sha1=" + hex32 + "00000000":       "",
		hex32 + "00":                       "",
		"sha256= " + hex64[1:]:             "",
		"sha256=" + hex64 + "=":            "",
	} {
		s, err := ParseSum(text)
		if got := s.String(); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if want := "blake3= and 64 hexadecimal digits, sha256= and 64, sha512= and 128 or md5= and 32"; Forms() != want {
		t.Error(Forms())
	}
}

// TestHasher checks each algorithm and each form against the content that has the hashes, and
// against one that has not.
func TestHasher(t *testing.T) {
	content := []byte("abc")
	root := blake3.Sum256(content)
	for _, hex := range []string{
		"sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"md5=900150983cd24fb0d6963f7d28e17f72",
		"sha512=ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
			"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
		fmt.Sprintf("blake3=%x", root), fmt.Sprintf("%x", root),
	} {
		sum, err := ParseSum(hex)
		if err != nil {
			t.Fatal(err)
		}
		right := NewHasher([]Sum{sum, sum})
		right.Write(content[:1])
		right.Write(content[1:])
		if err := right.Verify(root[:]); err != nil {
			t.Errorf("%s: %v", hex, err)
		}
		if !right.Needed(make([]byte, 32)) == !strings.HasPrefix(hex, "blake3=") {
			t.Errorf("%s: needed %v", hex, right.Needed(make([]byte, 32)))
		}
		wrong := NewHasher([]Sum{sum})
		wrong.Write(content[1:])
		other := blake3.Sum256(content[1:])
		err = wrong.Verify(other[:])
		if err == nil || !strings.Contains(err.Error(), ", not the expected "+sum.Hex()) {
			t.Errorf("%s: %v", hex, err)
		}
	}
	if anyOf, _ := ParseSum(fmt.Sprintf("%x", root)); NewHasher([]Sum{anyOf}).Needed(root[:]) {
		t.Error("the content is needed although its BLAKE3 hash is enough")
	}
}

// TestCoreutils parses what sha256sum, sha512sum and md5sum write for unusual names, in all forms.
func TestCoreutils(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("coreutils are not installed")
	}
	dir := t.TempDir()
	names := []string{"f", "two words", " leading", "*star", "back\\slash", "new\nline", "a\\nb", "a) = (b", "\xff\xfe",
		"-q", "#c", "漢", "tab\t", "MD5 (x) = y"}
	var args []string
	for i, name := range names {
		args = append(args, "./"+name)
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range []string{"sha256", "sha512", "md5"} {
		for _, form := range []string{"--text", "--binary", "--tag"} {
			c := exec.Command(tool+"sum", append([]string{form, "--"}, args...)...)
			c.Dir = dir
			out, err := c.Output()
			if err != nil {
				t.Fatal(err)
			}
			r := NewReader(bytes.NewReader(out))
			for i, name := range names {
				l, err := r.Next()
				h := NewHasher([]Sum{l.Sum})
				h.Write(fmt.Append(nil, i))
				if err != nil || l.Name != "./"+name || h.Verify(make([]byte, 32)) != nil {
					t.Errorf("%s %s: %q is parsed as %q, %v, %v", tool, form, name, l.Name, l.Sum, err)
				}
			}
			if r.Malformed != 0 {
				t.Errorf("%s %s: %d lines are malformed", tool, form, r.Malformed)
			}
		}
	}
}
