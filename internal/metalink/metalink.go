// Package metalink reads Metalink documents (RFC 5854): files with their mirrors and hashes. It is
// pure. Its input may be hostile: size, depth and the number of everything are bounded, and a name
// never leads out of a directory.
package metalink

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxSize bounds a document, in bytes.
	MaxSize = 16 << 20
	// MaxFiles bounds the files of a document.
	MaxFiles = 10_000
	// maxURLs bounds the URLs of a file. Those with larger priorities are left out.
	maxURLs = 1000
	// maxURL and maxName bound a URL and a name, in bytes.
	maxURL  = 2048
	maxName = 4096
	// maxDepth bounds nested elements; a document needs five.
	maxDepth = 32
	// noPriority is the priority of a URL without one (RFC 5854, section 4.2.16.2).
	noPriority = 999_999

	namespace = "urn:ietf:params:xml:ns:metalink"
	hashSize  = 32 // bytes of SHA-256
)

// A File is a file of a document.
type File struct {
	// Name is a relative, slash-separated path without empty, "." or ".." components.
	Name string
	Size int64 // -1 if the document does not tell it
	// SHA256 is the hash of the file; empty without one.
	SHA256 []byte
	// PieceLength is the size in bytes of all pieces but the last one; 0 without pieces.
	PieceLength int64
	// Pieces are the SHA-256 hashes of the pieces.
	Pieces [][hashSize]byte
	// URLs are the http and https URLs, those with the smallest priority first.
	URLs []string
	// Ignored names the hash algorithms that are not used, each once.
	Ignored []string
}

// Errors of Parse that are not of one file.
var (
	ErrTooLong = fmt.Errorf("it has more than %d MiB", MaxSize>>20)
	errVersion = errors.New("it is a Metalink of version 3; only version 4 (RFC 5854) is supported")
	errNotOne  = errors.New("it is not a Metalink document (RFC 5854)")
	errDepth   = fmt.Errorf("its elements are nested more than %d deep", maxDepth)
	errNone    = errors.New("it names no file")
	errDoctype = errors.New("it has a document type, which a Metalink does not need")
)

// Parse parses a document. Elements that it does not know are ignored, as RFC 5854 requires.
func Parse(r io.Reader) ([]File, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > MaxSize:
		return nil, ErrTooLong
	}
	p := &parser{decoder: xml.NewDecoder(bytes.NewReader(text))}
	p.decoder.Entity = nil // only the five of XML
	files, err := p.document()
	if err != nil {
		if e, ok := errors.AsType[*xml.SyntaxError](err); ok {
			return nil, fmt.Errorf("line %d: it is not XML: %.200s", e.Line, printable(e.Msg))
		}
		line, _ := p.decoder.InputPos()
		return nil, fmt.Errorf("line %d: %w", line, err)
	}
	return files, nil
}

type parser struct {
	decoder *xml.Decoder
	depth   int
}

// next returns the next start of an element. ok is false at the end of the element around it.
func (p *parser) next() (e xml.StartElement, ok bool, err error) {
	for {
		token, err := p.decoder.Token()
		if err != nil {
			return e, false, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if p.depth++; p.depth > maxDepth {
				return e, false, errDepth
			}
			return t, true, nil
		case xml.EndElement:
			p.depth--
			return e, false, nil
		case xml.Directive:
			return e, false, errDoctype
		}
	}
}

// skip skips an element up to its end.
func (p *parser) skip() error {
	for {
		_, ok, err := p.next()
		if err != nil || !ok {
			return err
		}
		if err := p.skip(); err != nil {
			return err
		}
	}
}

// text returns the text of an element without space around it, of at most so many bytes.
func (p *parser) text(most int) (string, error) {
	var b strings.Builder
	for {
		token, err := p.decoder.Token()
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if p.depth++; p.depth > maxDepth {
				return "", errDepth
			}
			if err := p.skip(); err != nil {
				return "", err
			}
		case xml.EndElement:
			p.depth--
			text := strings.TrimSpace(b.String())
			if len(text) > most {
				return "", fmt.Errorf("a value has more than %d bytes", most)
			}
			return text, nil
		case xml.CharData:
			b.Write(t)
		}
	}
}

func (p *parser) document() ([]File, error) {
	root, ok, err := p.next()
	switch {
	case errors.Is(err, io.EOF), err == nil && !ok:
		return nil, errNotOne
	case err != nil:
		return nil, err
	case root.Name.Local == "metalink" && root.Name.Space != namespace && attribute(root, "version") != "":
		return nil, errVersion
	case root.Name.Local != "metalink" || root.Name.Space != namespace:
		return nil, errNotOne
	}
	var files []File
	names := make(map[string]bool)
	for {
		e, ok, err := p.next()
		switch {
		case err == io.EOF: // the decoder reports an unclosed element otherwise
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case !ok && len(files) == 0:
			return nil, errNone
		case !ok:
			return files, nil
		case !isOurs(e, "file"):
			if err := p.skip(); err != nil {
				return nil, err
			}
			continue
		case len(files) == MaxFiles:
			return nil, fmt.Errorf("it names more than %d files", MaxFiles)
		}
		f := File{Name: attribute(e, "name"), Size: -1}
		if err := checkName(f.Name); err != nil {
			return nil, err
		}
		if names[f.Name] {
			return nil, fmt.Errorf("it names the file %q twice", f.Name)
		}
		names[f.Name] = true
		if err := p.file(&f); err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Name, err)
		}
		files = append(files, f)
	}
}

// A rankedURL is a URL with its priority; small ones are used first.
type rankedURL struct {
	url      string
	priority int
}

// file reads the elements of a file.
func (p *parser) file(f *File) error {
	var urls []rankedURL
	for {
		e, ok, err := p.next()
		switch {
		case err != nil:
			return err
		case !ok:
			slices.SortStableFunc(urls, func(a, b rankedURL) int { return cmp.Compare(a.priority, b.priority) })
			for _, u := range urls {
				f.URLs = append(f.URLs, u.url)
			}
			return f.check()
		case isOurs(e, "size"):
			err = p.size(f)
		case isOurs(e, "hash"):
			err = p.hash(f, e)
		case isOurs(e, "pieces"):
			err = p.pieces(f, e)
		case isOurs(e, "url"):
			urls, err = p.url(urls, e)
		default: // metaurl, with torrents, among them
			err = p.skip()
		}
		if err != nil {
			return err
		}
	}
}

func (p *parser) size(f *File) error {
	text, err := p.text(maxURL)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil || f.Size >= 0 {
		return fmt.Errorf("the size %q is no number of bytes, or not the only one", printable(text))
	}
	f.Size = int64(n)
	return nil
}

// hash reads the hash of a file, if it is SHA-256.
func (p *parser) hash(f *File, e xml.StartElement) error {
	algorithm := attribute(e, "type")
	text, err := p.text(maxURL)
	if err != nil {
		return err
	}
	if algorithm != "sha-256" {
		f.ignore(algorithm)
		return nil
	}
	value, err := parseHash(text)
	switch {
	case err != nil:
		return err
	case f.SHA256 != nil && !bytes.Equal(f.SHA256, value[:]):
		return errors.New("it has two different sha-256 hashes")
	}
	f.SHA256 = value[:]
	return nil
}

// pieces reads the hashes of pieces, if they are SHA-256.
func (p *parser) pieces(f *File, e xml.StartElement) error {
	algorithm, text := attribute(e, "type"), attribute(e, "length")
	if algorithm != "sha-256" {
		f.ignore(algorithm)
		return p.skip()
	}
	length, err := strconv.ParseUint(text, 10, 62)
	if err != nil || length == 0 || f.PieceLength > 0 {
		return fmt.Errorf("the length of pieces %q is no number of bytes, or not the only one", printable(text))
	}
	f.PieceLength = int64(length)
	for {
		e, ok, err := p.next()
		switch {
		case err != nil || !ok:
			return err
		case !isOurs(e, "hash"):
			if err := p.skip(); err != nil {
				return err
			}
			continue
		}
		text, err := p.text(maxURL)
		if err != nil {
			return err
		}
		value, err := parseHash(text)
		if err != nil {
			return err
		}
		f.Pieces = append(f.Pieces, value)
	}
}

// url adds a URL if it is one of http or https.
func (p *parser) url(urls []rankedURL, e xml.StartElement) ([]rankedURL, error) {
	priority := noPriority
	if text := attribute(e, "priority"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n < 1 || n > noPriority {
			return nil, fmt.Errorf("the priority %q is not 1 to %d", printable(text), noPriority)
		}
		priority = int(n)
	}
	text, err := p.text(maxURL)
	if err != nil {
		return nil, err
	}
	scheme, _, _ := strings.Cut(text, ":")
	isWeb := strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http")
	if isWeb && len(urls) < maxURLs {
		urls = append(urls, rankedURL{text, priority})
	}
	return urls, nil
}

// check returns an error if the elements of a file contradict each other.
func (f *File) check() error {
	if f.PieceLength == 0 || f.Size < 0 {
		return nil
	}
	want := f.Size / f.PieceLength
	if f.Size%f.PieceLength > 0 {
		want++
	}
	if int64(len(f.Pieces)) != want {
		const format = "it has %d pieces; %d bytes in pieces of %d are %d"
		return fmt.Errorf(format, len(f.Pieces), f.Size, f.PieceLength, want)
	}
	return nil
}

// ignore notes a hash algorithm that is not used.
func (f *File) ignore(algorithm string) {
	const most = 16
	algorithm = printable(algorithm)
	if len(f.Ignored) < most && !slices.Contains(f.Ignored, algorithm) {
		f.Ignored = append(f.Ignored, algorithm)
	}
}

func parseHash(text string) (value [hashSize]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != hashSize {
		const format = "%q is not a sha-256 hash, which has %d hexadecimal digits"
		return value, fmt.Errorf(format, printable(text), 2*hashSize)
	}
	return [hashSize]byte(b), nil
}

// checkName returns an error unless a name is that of a file below a directory (RFC 5854, section
// 4.1.2.1).
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a file has no name")
	case len(name) > maxName:
		return fmt.Errorf("the name of a file has more than %d bytes", maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fmt.Errorf("the name %q has control characters", name)
	case strings.ContainsAny(name, `\:`):
		return fmt.Errorf("the name %q has a backslash or a colon", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("the name %q leads out of the directory, or is not a plain path", name)
		}
	}
	return nil
}

// printable returns the beginning of a text for an error.
func printable(text string) string {
	const most = 80
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "\ufffd")
}

func isOurs(e xml.StartElement, name string) bool {
	return e.Name.Space == namespace && e.Name.Local == name
}

// attribute returns an attribute of an element, empty without it.
func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}
