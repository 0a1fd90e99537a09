package cmd

import (
	"bufio"
	"bytes"
	"hash/maphash"
	"io"
	"path/filepath"
	"strings"

	"kwikcp/internal/textfile"
	"kwikcp/transfer"
)

// maxListLine bounds a line of a list, in bytes. A URL and a path of the greatest lengths fit.
const maxListLine = 64 << 10

// A listLine is a line of a list that names a file.
type listLine struct {
	number  int // from 1
	url     string
	target  string // empty for the last component of the URL's path
	mirrors []transfer.WebMirror
	file    *metalinkFile // of a Metalink; nil for a line of a list
	repeats int           // the number of an earlier line with the same URL and file; 0 if there is none
	err     error         // the line is malformed
}

// A listReader reads the lines of a list. It holds one line, and about 50 bytes for each file that
// the list names.
type listReader struct {
	b           *bufio.Reader
	number      int // of the line that was read last, from 1
	destination destination
	allowHTTP   bool                     // of mirrors
	writers     map[[2]uint64]listWriter // by the hash of the place
	seeds       [2]maphash.Seed
	lastDir     string // the directory of the line before
	lastReal    string // the real name of lastDir
}

// A listWriter is the line that writes to a file.
type listWriter struct {
	number uint32
	url    uint64 // its hash
}

func newListReader(r io.Reader, d destination) *listReader {
	return &listReader{
		b: bufio.NewReaderSize(r, maxListLine), destination: d, writers: make(map[[2]uint64]listWriter),
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
}

// next returns the next line that is neither empty nor a comment (#), after the last one io.EOF. A
// usageError means that this is no list: it is not text, or it has a line without end.
func (r *listReader) next() (listLine, error) {
	for {
		text, err := r.readLine()
		if err != nil && (err != io.EOF || len(text) == 0) {
			return listLine{}, err
		}
		text = bytes.TrimRight(text, "\r\n")
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] != '#' {
			line := parseListLine(r.number, string(text), r.allowHTTP)
			r.compare(&line)
			return line, nil
		}
	}
}

// readLine reads a line with its end. With the first one it looks at everything that has arrived.
func (r *listReader) readLine() ([]byte, error) {
	text, err := r.b.ReadSlice('\n')
	r.number++
	if err == bufio.ErrBufferFull {
		return nil, usagef(adviseList, "line %d is longer than %d bytes", r.number, maxListLine)
	}
	isText := !bytes.ContainsRune(text, 0)
	if r.number == 1 {
		var wrong error
		if text, wrong = textfile.CutMark(text); wrong != nil {
			return nil, usagef(adviseList, "%w", wrong)
		}
		// Without waiting: lines may arrive one by one.
		rest, _ := r.b.Peek(r.b.Buffered())
		isText = isText && !bytes.ContainsRune(rest, 0) && !isRubbish(text)
	}
	if !isText {
		return nil, usagef(adviseList, "line %d is not text", r.number)
	}
	return text, err
}

// isRubbish reports whether a line has control characters where a URL is needed. In the name of a
// file they are allowed.
func isRubbish(text []byte) bool {
	url, _, _ := bytes.Cut(bytes.TrimRight(text, "\r\n"), []byte("\t"))
	isControl := func(c rune) bool { return c < ' ' || c == 0x7f }
	return bytes.IndexFunc(url, isControl) >= 0
}

// parseListLine parses a line: a URL, and after tabs the name of a file and the URLs of its web
// mirrors. An empty name stands for the last component of the URL's path if mirrors follow.
func parseListLine(number int, text string, allowHTTP bool) listLine {
	fields := strings.Split(text, "\t")
	line := listLine{number: number, url: strings.TrimSpace(fields[0])}
	if len(fields) == 1 {
		return line
	}
	line.target = fields[1]
	mirrors := fields[2:]
	switch isDefault := line.target == "" && len(mirrors) > 0; {
	case line.target == "" && !isDefault, line.target == "-":
		line.err = usagef(adviseList, "column 2: %q is not the name of a file", line.target)
		return line
	case len(mirrors) > transfer.MaxWebMirrors:
		const format = "it has %d web mirrors; at most %d are allowed"
		line.err = usagef(adviseList, format, len(mirrors), transfer.MaxWebMirrors)
		return line
	}
	for i, text := range mirrors {
		m := transfer.WebMirror{Template: strings.TrimSpace(text), Priority: i}
		if err := m.Check(allowHTTP); err != nil {
			line.err = usagef(adviseWebMirror, "column %d: the web mirror %q: %w", i+3, withoutUserInfo(text), err)
			return line
		}
		line.mirrors = append(line.mirrors, m)
	}
	return line
}

// compare compares a line with the earlier ones that write to the same file. If one has the same
// URL the line repeats it, otherwise the line is an error.
func (r *listReader) compare(line *listLine) {
	name, place, err := r.file(line)
	switch {
	case line.err != nil:
		return
	case isUsage(err):
		line.err = err
		return
	case err != nil: // the get reports it
		return
	}
	key := [2]uint64{maphash.String(r.seeds[0], place), maphash.String(r.seeds[1], place)}
	url := maphash.String(r.seeds[0], line.url)
	before, isTaken := r.writers[key]
	switch {
	case !isTaken:
		r.writers[key] = listWriter{uint32(line.number), url}
	case before.url == url:
		line.repeats = int(before.number)
	default:
		line.err = usagef(adviseList, "it writes to %q as line %d does", name, before.number)
	}
}

// file returns the file that a line writes to, and its place. The place is the absolute name in its
// real directory, the same for every spelling.
func (r *listReader) file(line *listLine) (name, place string, err error) {
	g := fileGet{fetcher: fetcher{destination: r.destination}}
	if err := g.aim(line.url, line.target); err != nil {
		return "", "", err
	}
	name = filepath.Clean(g.target)
	place, err = filepath.Abs(name)
	if err != nil {
		return name, name, nil
	}
	dir := filepath.Dir(place)
	if dir != r.lastDir {
		r.lastDir, r.lastReal = dir, dir
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			r.lastReal = real
		}
	}
	return name, filepath.Join(r.lastReal, filepath.Base(place)), nil
}
