package wire

import (
	"encoding/binary"
	"math"
)

// RootPrefix is how much of a file's root is in the descriptor of a batch, in bytes: enough to tell versions apart by accident. What is
// received is proved against the whole root.
const RootPrefix = 8

// A BatchFile is a file in the stream of a batch.
type BatchFile struct {
	Path  string // below the directory of the batch
	Size  int64  // at least 1
	Start int64  // in the stream
	MTime int64  // of the primary's file, nanoseconds since the Unix epoch
	Root  [RootPrefix]byte
}

func (f BatchFile) End() int64 { return f.Start + f.Size }

// AppendFile appends a file of a descriptor. Of its time only the difference from the file before it is written.
func AppendFile(dst []byte, before, f BatchFile) []byte {
	dst = AppendPath(dst, before.Path, f.Path)
	dst = binary.AppendUvarint(dst, uint64(f.Size))
	dst = binary.AppendVarint(dst, f.MTime-before.MTime) // it may wrap around, and does so again when it is read
	return append(dst, f.Root[:]...)
}

// ReadFiles reads the files of a descriptor, which have to fill a stream of size bytes.
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
		later, length := binary.Varint(r.Rest)
		if err != nil || length <= 0 {
			return nil, errPaths
		}
		r.Rest = r.Rest[length:]
		mtime += later
		f.MTime = mtime
		if n == 0 || n > math.MaxInt64 || int64(n) > size-at || len(r.Rest) < RootPrefix || len(files) >= MaxBatchFiles {
			return nil, errPaths
		}
		copy(f.Root[:], r.Rest)
		r.Rest = r.Rest[RootPrefix:]
		f.Size = int64(n)
		at = f.End()
		files = append(files, f)
	}
	if at != size {
		return nil, errPaths
	}
	return files, nil
}
