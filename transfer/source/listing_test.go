package source

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

const nginxPage = `<html><head><title>Index of /d/</title></head><body><h1>Index of /d/</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>  27-Nov-2026 12:00   -
<a href="a%20b%3Fc">a b?c</a> 27-Nov-2026 12:00   17
<a href="./c%3Ad">c:d</a> 27-Nov-2026 12:00   17
</pre></body></html>`

const apachePage = `<!DOCTYPE HTML><html><head><title>Index of /d</title></head><body><h1>Index of /d</h1><table>
<tr><th><a href="?C=N;O=D">Name</a></th></tr><tr><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="x&amp;y.txt">x&amp;y.txt</a></td></tr><tr><td><a href="/d/abs">abs</a></td></tr>
<tr><td><a href="http://other/d/z">z</a></td></tr><tr><td><a href="/d/deep/er">er</a></td></tr></table></body></html>`

func namesOf(entries []objectInfo) string {
	var names []string
	for _, e := range entries {
		name := e.name
		if e.isDir {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " | ")
}

func TestParseListings(t *testing.T) {
	at, _ := url.Parse("https://host/d/")
	for page, want := range map[string]string{nginxPage: "a b?c | c:d | sub/", apachePage: "abs | x&y.txt"} {
		entries, err := parseHTMLListing([]byte(page), at)
		if got := namesOf(entries); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if _, err := parseHTMLListing([]byte(`<title>Shop</title><a href="a">a</a>`), at); err == nil {
		t.Error("a page that is no listing was read as one")
	}
	entries, err := parseJSONListing([]byte(`[{"name":"s","type":"directory","mtime":"Fri, 27 Nov 2026 12:00:00 GMT"},
{"name":"f","type":"file","mtime":"Fri, 27 Nov 2026 12:00:00 GMT","size":5},{"name":"p","type":"other"}]`))
	if got := namesOf(entries); err != nil || got != "f | s/" {
		t.Fatalf("%v, %v", entries, err)
	}
	if entries[1].size != 5 || entries[1].mtime.Unix() == 0 {
		t.Errorf("%v", entries)
	}
}

func TestReadIndex(t *testing.T) {
	index := "\ufeffb/c\r\n\n# comment\n./a\na//b\n../x\nb/c\nb-d\n/e\nf/\nb/d/e\n"
	paths, left, err := readIndex(strings.NewReader(index))
	if want := []string{"a", "b-d", "b/c", "b/d/e"}; err != nil || left != 4 || !slices.Equal(paths, want) {
		t.Errorf("%q, %d left out, %v", paths, left, err)
	}
	x := &indexFile{paths: paths}
	x.path = t.TempDir() + "/index" // it is gone: the old paths stay
	for dir, want := range map[string]string{"": "a | b-d | b/", "b": "c | d/", "b/d": "e", "x": "", "b-": ""} {
		var entries []objectInfo
		x.looked = x.looked.AddDate(9999, 0, 0)
		x.list(dir, func(info objectInfo, err error) bool {
			entries = append(entries, info)
			return err == nil
		})
		if got := namesOf(entries); got != want {
			t.Errorf("%q: %q, want %q", dir, got, want)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("a\nb/c\n#d\na//b\n")
	f.Fuzz(func(t *testing.T, text string) {
		paths, _, err := readIndex(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, path := range paths {
			if !isHoldablePath(path) {
				t.Errorf("%q", path)
			}
		}
	})
}

func FuzzListing(f *testing.F) {
	f.Add(nginxPage)
	f.Add(apachePage)
	f.Add(`[{"name":"f","type":"file","mtime":"Fri, 27 Nov 2026 12:00:00 GMT","size":5}]`)
	at, _ := url.Parse("https://host/d%2Fe/")
	f.Fuzz(func(t *testing.T, page string) {
		parseJSONListing([]byte(page))
		entries, _ := parseHTMLListing([]byte(page), at)
		for _, e := range entries {
			if e.name == "" {
				t.Errorf("an empty name in %q", page)
			}
		}
	})
}
