package metalink

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// hashOf returns the text of a hash that begins with a byte.
func hashOf(b byte) string { return fmt.Sprintf("%02x", b) + strings.Repeat("0", 62) }

// document returns a document with the elements of one file.
func document(elements ...string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<metalink xmlns="urn:ietf:params:xml:ns:metalink">` +
		`<generator>x</generator><file name="d/a b.iso">` + strings.Join(elements, "\n") + `</file></metalink>`
}

// sha returns an element with a SHA-256 hash that begins with a byte.
func sha(b byte) string { return `<hash type="sha-256">` + hashOf(b) + `</hash>` }

// pieces returns an element with the hashes of pieces.
func pieces(length string, hashes ...byte) string {
	text := `<pieces length="` + length + `" type="sha-256">`
	for _, b := range hashes {
		text += "<hash>" + hashOf(b) + "</hash>"
	}
	return text + "</pieces>"
}

func TestParse(t *testing.T) {
	files, err := Parse(strings.NewReader(document(
		`<size> 10 </size><identity>x</identity>`,
		`<hash type="md5">00</hash>`, strings.Replace(sha(0xab), "ab0", "AB0", 1), `<hash type="sha-512">0</hash>`,
		`<pieces length="4" type="sha-1"><hash>00</hash></pieces>`, pieces("4", 1, 2, 3),
		`<url location="de">https://last.example/</url>`,
		`<url priority="2">http://second.example/a&amp;b</url><url priority="1">HTTPS://first.example/</url>`,
		`<url priority="1">ftp://no.example/</url><metaurl mediatype="torrent">https://t.example/x.torrent</metaurl>`,
		`<x:url xmlns:x="other">https://other.example/</x:url>`,
	)))
	if err != nil {
		t.Fatal(err)
	}
	var hash, last [hashSize]byte
	hash[0], last[0] = 0xab, 3
	f := files[0]
	if f.Name != "d/a b.iso" || f.Size != 10 || f.PieceLength != 4 {
		t.Errorf("%+v", f)
	}
	if !bytes.Equal(f.SHA256, hash[:]) || len(f.Pieces) != 3 || f.Pieces[2] != last {
		t.Errorf("%x, %x", f.SHA256, f.Pieces)
	}
	if want := []string{"md5", "sha-512", "sha-1"}; !slices.Equal(f.Ignored, want) {
		t.Errorf("%q", f.Ignored)
	}
	want := []string{"HTTPS://first.example/", "http://second.example/a&b", "https://last.example/"}
	if !slices.Equal(f.URLs, want) {
		t.Errorf("%q", f.URLs)
	}
	bare, err := Parse(strings.NewReader(document()))
	if err != nil || len(bare) != 1 {
		t.Fatal(err)
	}
	if f := bare[0]; f.Size != -1 || f.URLs != nil || f.SHA256 != nil {
		t.Errorf("%+v", f)
	}
}

func TestParseRefuses(t *testing.T) {
	const again = `</file><file name="d/a b.iso"/>`
	long := strings.Repeat("x", maxURL)
	named := func(name string) string { return strings.Replace(document(), "d/a b.iso", name, 1) }
	for text, want := range map[string]string{
		"": "not a Metalink", "hello": "not a Metalink", "<html></html>": "not a Metalink",
		"<metalink/>": "not a Metalink",
		`<metalink version="3.0" xmlns="http://www.metalinker.org/"/>`:   "version 3",
		`<metalink xmlns="urn:ietf:params:xml:ns:metalink"></metalink>`:  "no file",
		`<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="`: "line 1",
		`<!DOCTYPE m [<!ENTITY a "b">]>` + document():                    "document type",
		document("&undefined;"):                          "not XML",
		document("<size>-1</size>"):                      "size",
		document("<size>99999999999999999999</size>"):    "size",
		document("<size>1</size><size>2</size>"):         "size",
		document(`<hash type="sha-256">00</hash>`):       "sha-256",
		document(sha(1), sha(2)):                         "two different",
		document(pieces("0")):                            "pieces",
		document(pieces("x")):                            "pieces",
		document(pieces("4", 1), pieces("4", 1)):         "pieces",
		document(`<size>9</size>`, pieces("4", 1)):       "1 pieces",
		document(`<url priority="0">https://a/</url>`):   "priority",
		document(`<url>https://a/` + long + `</url>`):    "more than",
		document(strings.Repeat("<a>", 40)):              "deep",
		strings.Replace(document(), "</file>", again, 1): "twice",
		named(""):                             "no name",
		named("/etc/passwd"):                  "leads out",
		named("../x"):                         "leads out",
		named("a/../b"):                       "leads out",
		named("a//b"):                         "leads out",
		named("./a"):                          "leads out",
		named("a/"):                           "leads out",
		named(".."):                           "leads out",
		named(`a\b`):                          "backslash",
		named("C:x"):                          "colon",
		named("a&#10;b"):                      "control",
		named(strings.Repeat("x", maxName+1)): "more than",
	} {
		files, err := Parse(strings.NewReader(text))
		switch {
		case err == nil || files != nil:
			t.Errorf("%.150q: no error", text)
		case !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%.150q: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse(bytes.NewReader(make([]byte, MaxSize+1))); err != ErrTooLong {
		t.Error(err)
	}
	var many strings.Builder
	for i := range MaxFiles + 1 {
		fmt.Fprintf(&many, `<file name="%d"/>`, i)
	}
	text := `<metalink xmlns="urn:ietf:params:xml:ns:metalink">` + many.String() + `</metalink>`
	if _, err := Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "10000 files") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(`<size>4</size><hash type="sha-256">` + hashOf(1) + `</hash><url priority="3">https://a/</url>`))
	f.Add(document(`<pieces length="4" type="sha-256"><hash>` + hashOf(1) + `</hash></pieces>`))
	f.Add(`<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="../a"/></metalink>`)
	f.Fuzz(func(t *testing.T, text string) {
		files, err := Parse(strings.NewReader(text))
		if err != nil {
			if files != nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%d files, %q", len(files), err)
			}
			return
		}
		for _, f := range files {
			isOutside := strings.HasPrefix(f.Name, "/") || strings.Contains("/"+f.Name+"/", "/../")
			if f.Name == "" || isOutside || f.Size < -1 {
				t.Errorf("%+v", f)
			}
			if isHash := len(f.SHA256) == 0 || len(f.SHA256) == hashSize; !isHash {
				t.Errorf("a hash of %d bytes", len(f.SHA256))
			}
			if f.Size >= 0 && f.PieceLength > 0 && f.check() != nil {
				t.Errorf("%d pieces of %d make %d", len(f.Pieces), f.PieceLength, f.Size)
			}
		}
	})
}
