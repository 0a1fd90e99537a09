package checksum

import (
	"bufio"
	"io"
	"strings"

	"kwikcp/internal/textfile"
)

// maxLine bounds a line in bytes. A name of the greatest length fits, all of it escaped.
const maxLine = 128 << 10

// A Reader reads the lines of a checksum file. It skips malformed ones.
type Reader struct {
	// Lines counts the lines that Next returned, Malformed those that it skipped.
	Lines, Malformed int64

	parser  Parser
	b       *bufio.Reader
	started bool
}

// NewReader returns a Reader of a checksum file.
func NewReader(r io.Reader) *Reader { return &Reader{b: bufio.NewReaderSize(r, maxLine)} }

// Next returns the next line. After the last one it returns io.EOF.
func (r *Reader) Next() (Line, error) {
	for {
		text, tooLong, err := r.readLine()
		if err != nil && err != io.EOF {
			return Line{}, err
		}
		if !r.started { // Windows programs write a byte order mark
			b, err := textfile.CutMark([]byte(text))
			if err != nil {
				return Line{}, err
			}
			r.started, text = true, string(b)
		}
		if err == io.EOF && text == "" && !tooLong {
			return Line{}, io.EOF
		}
		line, ok, malformed := r.parser.Parse(text)
		switch {
		case tooLong || malformed != nil:
			r.Malformed++
		case ok:
			r.Lines++
			return line, nil
		}
		if err == io.EOF {
			return Line{}, io.EOF
		}
	}
}

// readLine reads a line without its end. Of a line that is too long it returns the last piece.
func (r *Reader) readLine() (text string, tooLong bool, err error) {
	piece, err := r.b.ReadSlice('\n')
	for err == bufio.ErrBufferFull {
		tooLong = true
		piece, err = r.b.ReadSlice('\n')
	}
	return strings.TrimSuffix(string(piece), "\n"), tooLong, err
}
