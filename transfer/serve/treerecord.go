package serve

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"

	"github.com/zeebo/blake3"
)

// This file is the format of a TreeStore's file: storeHeader, and then records in the order in
// which they were written. Integers are little-endian, times in nanoseconds since the Unix epoch.
//
//	mark(3) state(1)
//	length(4) path length(2) 0(2)
//	size(8) mtime(8) ctime(8) inode(8) device(8) tag(16)
//	checksum of the head(8)
//	path, the tree as integrity.Tree.AppendBinary encodes it
//	checksum of the record(16)
//
// length is that of the whole record. The checksums are the first bytes of BLAKE3 hashes. That of
// the head covers everything from length up to the tag, and the path. That of the record covers
// everything from length on. The state alone may change, so that a record is removed by one byte.
const (
	storeHeader = "kwikcp trees 3\n\x00"
	recordMark  = "\xf7KT"
	stateOffset = len(recordMark)
	stateLive   = 'L'
	// stateRemoved is the state of a record that does not count any more.
	stateRemoved  = 'D'
	summedFrom    = stateOffset + 1 // of a record
	versionOffset = summedFrom + 8
	tagOffset     = versionOffset + 5*8
	headSumOffset = tagOffset + 16
	headSum       = 8
	headBytes     = headSumOffset + headSum
	recordSum     = 16
	maxRecordPath = 4 << 10 // of a path, in bytes
)

// A recordHead is a record without its tree.
type recordHead struct {
	path    string
	version disk.Version
	length  int64 // of the record, in bytes
}

var (
	errDamaged = errors.New("a record is damaged")
	errRemoved = errors.New("the record was removed")
)

// appendRecord appends the record of a file's tree.
func appendRecord(dst []byte, path string, v disk.Version, tree *integrity.Tree) []byte {
	start := len(dst)
	dst = append(dst, recordMark...)
	dst = append(dst, stateLive)
	dst = append(dst, 0, 0, 0, 0) // length, below
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(path)))
	dst = append(dst, 0, 0)
	dst = appendVersion(dst, v)
	dst = append(dst, make([]byte, headSum)...)
	dst = append(dst, path...)
	dst, _ = tree.AppendBinary(dst)
	r := dst[start:]
	binary.LittleEndian.PutUint32(r[summedFrom:], uint32(len(r)+recordSum))
	sum := sumOfHead(r[:headBytes], path)
	copy(r[headSumOffset:], sum[:])
	whole := blake3.Sum256(r[summedFrom:])
	return append(dst, whole[:recordSum]...)
}

func appendVersion(dst []byte, v disk.Version) []byte {
	for _, n := range [5]uint64{uint64(v.Size), uint64(v.MTime), uint64(v.CTime), v.Inode, v.Device} {
		dst = binary.LittleEndian.AppendUint64(dst, n)
	}
	return append(dst, v.Tag[:]...)
}

func sumOfHead(head []byte, path string) (sum [headSum]byte) {
	h := blake3.New()
	h.Write(head[summedFrom:headSumOffset])
	h.WriteString(path)
	copy(sum[:], h.Sum(nil))
	return sum
}

// parseHead returns the head of the record that p begins with. If p is too short for it, the error
// is io.ErrShortBuffer.
func parseHead(p []byte) (h recordHead, err error) {
	if len(p) < headBytes {
		return h, io.ErrShortBuffer
	}
	state := p[stateOffset]
	if string(p[:stateOffset]) != recordMark || state != stateLive && state != stateRemoved {
		return h, errDamaged
	}
	h.length = int64(binary.LittleEndian.Uint32(p[summedFrom:]))
	n := int(binary.LittleEndian.Uint16(p[summedFrom+4:]))
	if n == 0 || n > maxRecordPath || h.length < int64(headBytes+n+recordSum) || h.length > maxStoredTrees {
		return h, errDamaged
	}
	if len(p) < headBytes+n {
		return h, io.ErrShortBuffer
	}
	path := string(p[headBytes : headBytes+n])
	if sum := sumOfHead(p, path); !bytes.Equal(sum[:], p[headSumOffset:headBytes]) {
		return h, errDamaged
	}
	field := func(i int) uint64 { return binary.LittleEndian.Uint64(p[versionOffset+8*i:]) }
	h.path = path
	h.version = disk.Version{
		Size: int64(field(0)), MTime: int64(field(1)), CTime: int64(field(2)), Inode: field(3), Device: field(4),
		Tag: [16]byte(p[tagOffset:headSumOffset]),
	}
	if state == stateRemoved {
		return h, errRemoved
	}
	return h, nil
}

// parseTree returns the tree of a whole record with a known head.
func parseTree(record []byte, h recordHead) (*integrity.Tree, error) {
	if err := checkRecord(record, h); err != nil {
		return nil, err
	}
	tree, err := integrity.ParseTree(record[headBytes+len(h.path) : len(record)-recordSum])
	if err != nil {
		return nil, err
	}
	if tree.Size() != h.version.Size {
		return nil, errDamaged
	}
	return tree, nil
}

func checkRecord(record []byte, h recordHead) error {
	if int64(len(record)) != h.length || h.length < int64(headBytes+len(h.path)+recordSum) {
		return errDamaged
	}
	end := len(record) - recordSum
	sum := blake3.Sum256(record[summedFrom:end])
	if subtle.ConstantTimeCompare(sum[:recordSum], record[end:]) != 1 {
		return errDamaged
	}
	return nil
}

// readHead reads the head of the record at a place of a file with the given end.
func readHead(f io.ReaderAt, at, end int64) (recordHead, error) {
	if at <= 0 || at >= end {
		return recordHead{}, errDamaged
	}
	p := make([]byte, headBytes+256)
	for {
		n, err := f.ReadAt(p, at)
		h, failed := parseHead(p[:n])
		switch {
		case failed == io.ErrShortBuffer && err == nil && len(p) < headBytes+maxRecordPath:
			p = make([]byte, headBytes+maxRecordPath)
			continue
		case failed == io.ErrShortBuffer && err != nil && err != io.EOF:
			return recordHead{}, err
		case failed == io.ErrShortBuffer:
			return recordHead{}, errDamaged
		}
		if h.length > end-at {
			return recordHead{}, errDamaged
		}
		return h, failed
	}
}

// readRecord reads a whole record and checks it.
func readRecord(f io.ReaderAt, at int64, h recordHead) ([]byte, error) {
	record := make([]byte, h.length)
	if _, err := f.ReadAt(record, at); err != nil {
		return nil, err
	}
	return record, checkRecord(record, h)
}

// readTree reads the tree of a record.
func readTree(f io.ReaderAt, at int64, h recordHead) (*integrity.Tree, error) {
	record := make([]byte, h.length)
	if _, err := f.ReadAt(record, at); err != nil {
		return nil, err
	}
	return parseTree(record, h)
}

// maxFalseMarks bounds the marks in damaged parts of a file that are not those of records. A file
// with more is taken to be damaged up to its end.
const maxFalseMarks = 10_000

// A walker finds the records of a file in order, and skips what is damaged.
type walker struct {
	file io.ReaderAt
	size int64 // of the file, in bytes

	head    recordHead
	at      int64 // place of the record
	skipped int64 // damaged bytes
	err     error // that ended the walk; nil at the end of the file

	end        int64 // of what was walked
	falseMarks int
	buffer     []byte // of the file from bufferAt on, for skip
	bufferAt   int64
}

// next finds the next record that counts. It reports false if there is none.
func (w *walker) next() bool {
	if w.end == 0 {
		w.end = int64(len(storeHeader))
	}
	for w.end < w.size {
		h, err := readHead(w.file, w.end, w.size)
		switch {
		case err == nil:
			w.head, w.at = h, w.end
			w.end += h.length
			return true
		case errors.Is(err, errRemoved):
			w.end += h.length
			continue
		case !errors.Is(err, errDamaged):
			w.err = err
			return false
		}
		if w.falseMarks++; w.falseMarks > maxFalseMarks {
			w.skipped += w.size - w.end
			w.end = w.size
			return false
		}
		if !w.skip() {
			return false
		}
	}
	return false
}

// skip goes on to the next mark.
func (w *walker) skip() bool {
	from := w.end
	for at := from + 1; at < w.size; {
		p, err := w.read(at)
		if i := bytes.Index(p, []byte(recordMark)); i >= 0 {
			w.end = at + int64(i)
			w.skipped += w.end - from
			return true
		}
		if err != nil {
			w.err = err
			return false
		}
		if len(p) < len(recordMark) {
			break
		}
		at += int64(len(p) - len(recordMark) + 1) // the rest may begin a mark
	}
	w.skipped += w.size - from
	w.end = w.size
	return false
}

// read returns bytes of the file from at on, fewer than a mark has only at its end.
func (w *walker) read(at int64) ([]byte, error) {
	const ahead = 64 << 10
	if i := at - w.bufferAt; i >= 0 && i+int64(len(recordMark)) <= int64(len(w.buffer)) {
		return w.buffer[i:], nil
	}
	if w.buffer == nil {
		w.buffer = make([]byte, ahead)
	}
	n, err := w.file.ReadAt(w.buffer[:ahead], at)
	w.buffer, w.bufferAt = w.buffer[:n], at
	if err == io.EOF {
		err = nil
	}
	return w.buffer, err
}
