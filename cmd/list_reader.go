package cmd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"kwikcp/internal/textfile"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
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

// A listReader reads the lines of a list. It holds one line, and about 100 bytes for each file that
// the list names, twice as many if its name is not ASCII.
type listReader struct {
	b           *bufio.Reader
	number      int // of the line that was read last, from 1
	destination destination
	allowHTTP   bool                     // of mirrors
	writers     map[[2]uint64]listWriter // by the hash of the place
	spellings   map[[2]uint64]uint32     // the line by the hash of the folding and of the folded place
	seeds       [2]maphash.Seed
	lastDir     string                                 // the directory of the line before
	lastReal    string                                 // the real name of lastDir
	foldingIn   func(dir string) (disk.Folding, error) // disk.FoldingOf a directory that exists
	foldingOf   string                                 // the directory that was asked last
	foldings    disk.Folding
}

// A listWriter is the line that writes to a file.
type listWriter struct {
	number uint32
	url    uint64 // its hash
}

func newListReader(r io.Reader, d destination) *listReader {
	return &listReader{
		b: bufio.NewReaderSize(r, maxListLine), destination: d, writers: make(map[[2]uint64]listWriter),
		spellings: make(map[[2]uint64]uint32), foldingIn: foldingIn,
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
	key := r.hash(place)
	url := maphash.String(r.seeds[0], line.url)
	before, isTaken := r.writers[key]
	switch {
	case !isTaken:
		if other := r.sameToFileSystem(place, line.number); other > 0 {
			line.err = &transfer.Error{Kind: transfer.KindExists, Op: fmt.Sprintf("write %q", name),
				Err: fmt.Errorf("to this file system it is the same name as that of line %d", other)}
			return
		}
		r.writers[key] = listWriter{uint32(line.number), url}
	case before.url == url:
		line.repeats = int(before.number)
	default:
		line.err = usagef(adviseList, "it writes to %q as line %d does", name, before.number)
	}
}

func (r *listReader) hash(text string) [2]uint64 {
	return [2]uint64{maphash.String(r.seeds[0], text), maphash.String(r.seeds[1], text)}
}

// sameToFileSystem returns an earlier line with another spelling of a line's place that is the same
// to the file system; 0 if there is none. It asks the file system only if there is such a line.
func (r *listReader) sameToFileSystem(place string, number int) int {
	foldings := []disk.Folding{{Case: true}}
	if strings.ContainsFunc(place, func(c rune) bool { return c >= utf8.RuneSelf }) {
		foldings = append(foldings, disk.Folding{Form: true}, disk.Folding{Case: true, Form: true})
	}
	twin := 0
	for _, folding := range foldings {
		key := r.hash(fmt.Sprintf("%t %t %s", folding.Case, folding.Form, folding.Key(place)))
		earlier, isTaken := r.spellings[key]
		switch {
		case !isTaken:
			r.spellings[key] = uint32(number)
		case twin == 0 && includes(r.folding(place), folding):
			twin = int(earlier)
		}
	}
	return twin
}

// includes reports whether all names that are the same to b are the same to a.
func includes(a, b disk.Folding) bool { return (a.Case || !b.Case) && (a.Form || !b.Form) }

// folding returns the folding of the directory of a place, or of the nearest one above that exists.
// A directory that cannot be asked takes no file.
func (r *listReader) folding(place string) disk.Folding {
	for dir := filepath.Dir(place); dir != r.foldingOf; dir = filepath.Dir(dir) {
		folding, err := r.foldingIn(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		r.foldingOf, r.foldings = dir, folding
		break
	}
	return r.foldings
}

func foldingIn(dir string) (disk.Folding, error) {
	d, err := disk.OpenDir(dir)
	if err != nil {
		return disk.Folding{}, err
	}
	defer d.Close()
	return disk.FoldingOf(d)
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
