package transfer

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// allocateStep is how many bytes are reserved with one call: a signal that comes meanwhile has it begun anew.
const allocateStep = 1 << 30

// Allocate is fallocate(2). The room has no content: SEEK_DATA passes over it, as over a hole, on the file systems that know.
func (f osFile) Allocate(start, end int64) error {
	for start < end {
		n := min(end-start, allocateStep)
		err := f.fallocate(unix.FALLOC_FL_KEEP_SIZE, start, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return errors.ErrUnsupported
		case err != nil:
			return err
		}
		start += n
	}
	return nil
}

// Release makes a hole.
func (f osFile) Release(start, end int64) {
	for errors.Is(f.fallocate(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, start, end-start), unix.EINTR) {
	}
}

func (f osFile) fallocate(mode uint32, off, n int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) { result = unix.Fallocate(int(fd), mode, off, n) })
	return errors.Join(err, result)
}

// Free is what fstatfs(2) says. Root may use what is kept back from others.
func (f osFile) Free() (n int64, ok bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	var st unix.Statfs_t
	if e := conn.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }); e != nil || err != nil {
		return 0, false
	}
	blocks := st.Bavail
	if os.Geteuid() == 0 {
		blocks = max(st.Bfree, st.Bavail)
	}
	unit := int64(st.Frsize)
	if unit <= 0 {
		unit = int64(st.Bsize)
	}
	if st.Blocks == 0 || unit <= 0 || blocks > uint64(math.MaxInt64/unit) { // some network file systems say nothing
		return 0, false
	}
	return int64(blocks) * unit, true
}
