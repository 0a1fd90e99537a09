// Package textfile has what all files of lines share: the marks that some editors and shells put in
// front of a text.
package textfile

import (
	"bytes"
	"errors"
)

// ErrUTF16 is the error of a text in an encoding of wide characters, as PowerShell writes it.
var ErrUTF16 = errors.New("it is UTF-16 or UTF-32 text; save it as UTF-8")

// MarkLen is the maximum length of a mark, in bytes.
const MarkLen = 3

// CutMark returns a text, or the start of one, without UTF-8's byte order mark. It returns
// ErrUTF16 if the text has the mark of another encoding.
func CutMark(text []byte) ([]byte, error) {
	isWide := bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) ||
		bytes.HasPrefix(text, []byte("\x00\x00\xfe\xff"))
	if isWide {
		return text, ErrUTF16
	}
	return bytes.TrimPrefix(text, []byte("\ufeff")), nil
}
