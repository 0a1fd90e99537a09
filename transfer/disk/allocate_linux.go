package disk

import (
	"errors"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// allocateStep is how many bytes are reserved with one call: a signal that comes meanwhile has it begun anew.
const allocateStep = 1 << 30

// fillers are the file systems (f_type of statfs(2)) that know no holes: what is written far beyond a file's end has all before it
// filled with zeros at once.
var fillers = []int64{
	unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC,
	0x4244,     // HFS
	0x482b,     // HFS+
	0x5346544e, // NTFS
	0x7366746e, // NTFS3
}

// Allocate is fallocate(2). The room has no content: SEEK_DATA passes over it, as over a hole, on the file systems that know.
func (f osFile) Allocate(start, end int64) error {
	if st, err := f.statfs(); err != nil || slices.Contains(fillers, int64(st.Type)) {
		return errors.ErrUnsupported
	}
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

func (f osFile) statfs() (st unix.Statfs_t, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return st, err
	}
	var result error
	err = conn.Control(func(fd uintptr) { result = unix.Fstatfs(int(fd), &st) })
	return st, errors.Join(err, result)
}

// Free is what fstatfs(2) says. Root may use what is kept back from others.
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
	if st.Blocks == 0 || unit <= 0 || blocks > uint64(math.MaxInt64/unit) { // some network file systems say nothing
		return 0, false
	}
	return int64(blocks) * unit, true
}
