//go:build linux || darwin || freebsd

package disk

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"
)

// NextData implements File with lseek(2). It moves the file's offset, which has no other use. If the file system cannot
// tell, the rest of the file may be data.
func (f osFile) NextData(off int64) (start, end int64, ok bool) {
	start, err := f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, false
	}
	if err != nil {
		return off, math.MaxInt64, true
	}
	if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
		end = math.MaxInt64
	}
	return start, end, true
}
