package disk

import (
	"errors"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// allocateStep bounds the bytes that one call reserves. A signal interrupts the call, and it must
// be repeated.
const allocateStep = 1 << 30

// withoutHoles lists the file systems (f_type of statfs(2)) that have no holes. They write zeros
// up to an offset that is far beyond the end of a file.
var withoutHoles = []int64{
	unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC,
	0x4244,     // HFS
	0x482b,     // HFS+
	0x5346544e, // NTFS
	0x7366746e, // NTFS3
}

// Allocate implements Allocator with fallocate(2). The reserved space has no content: SEEK_DATA
// passes over it as over a hole, if the file system can tell.
func (f osFile) Allocate(start, end int64) error {
	if st, err := f.statfs(); err != nil || slices.Contains(withoutHoles, int64(st.Type)) {
		return errors.ErrUnsupported
	}
	for start < end {
		n := min(end-start, allocateStep)
		err := f.fallocate(unix.FALLOC_FL_KEEP_SIZE, start, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		start += n
	}
	return nil
}

// Release implements Allocator: it makes a hole.
func (f osFile) Release(start, end int64) { f.PunchHole(start, end) }

// PunchHole implements Puncher with fallocate(2).
func (f osFile) PunchHole(start, end int64) error {
	for {
		err := f.fallocate(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, start, end-start)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return errors.ErrUnsupported
		}
		return err
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

func (f osFile) statfs() (st unix.Statfs_t, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return st, err
	}
	var result error
	err = conn.Control(func(fd uintptr) { result = unix.Fstatfs(int(fd), &st) })
	return st, errors.Join(err, result)
}

// Free implements Allocator with fstatfs(2). Root may also use the space that is reserved for it.
func (f osFile) Free() (n int64, ok bool) {
	st, err := f.statfs()
	if err != nil {
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
	if st.Blocks == 0 || unit <= 0 { // some network file systems do not tell
		return 0, false
	}
	if blocks > uint64(math.MaxInt64/unit) {
		return 0, false
	}
	return int64(blocks) * unit, true
}
