package wire

import (
	"encoding/binary"
	"math"
)

// RootPrefix is the length, in bytes, of the part of a file's root that the descriptor of a batch has. It is enough to
// tell versions apart. Received bytes are verified against the whole root.
const RootPrefix = 8

// A BatchFile is a file in the stream of a batch.
type BatchFile struct {
	Path  string           // relative to the directory of the batch
	Size  int64            // bytes, at least 1
	Start int64            // offset in the stream
	MTime int64            // of the primary's file, nanoseconds since the Unix epoch
	Root  [RootPrefix]byte // the first bytes of the file's root
}

// End returns the offset in the stream after the file.
func (f BatchFile) End() int64 { return f.Start + f.Size }

// AppendFile appends file f of a descriptor to dst. Path and time are encoded as differences from the file before it.
func AppendFile(dst []byte, before, f BatchFile) []byte {
	dst = AppendPath(dst, before.Path, f.Path)
	dst = binary.AppendUvarint(dst, uint64(f.Size))
	dst = binary.AppendVarint(dst, f.MTime-before.MTime) // may wrap around, and wraps back when it is read
	return append(dst, f.Root[:]...)
}

// ReadFiles returns the files of a descriptor. It is an error if they do not fill a stream of size bytes.
func ReadFiles(raw []byte, size int64) ([]BatchFile, error) {
	r := PathReader{Rest: raw}
	var files []BatchFile
	at, mtime := int64(0), int64(0)
	for r.More() {
		f := BatchFile{Start: at}
		var err error
		if f.Path, err = r.Path(); err != nil {
			return nil, err
		}
		n, err := r.uvarint()
		difference, length := binary.Varint(r.Rest)
		if err != nil || length <= 0 {
			return nil, errMalformed
		}
		r.Rest = r.Rest[length:]
		mtime += difference
		f.MTime = mtime
		fits := n > 0 && n <= math.MaxInt64 && int64(n) <= size-at
		if !fits || len(r.Rest) < RootPrefix || len(files) >= MaxBatchFiles {
			return nil, errMalformed
		}
		copy(f.Root[:], r.Rest)
		r.Rest = r.Rest[RootPrefix:]
		f.Size = int64(n)
		at = f.End()
		files = append(files, f)
	}
	if at != size {
		return nil, errMalformed
	}
	return files, nil
}
