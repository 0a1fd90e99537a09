package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A MetaDir is a directory that is open for the metadata of its entries. Names are single
// components, or "." for the directory itself. No link is followed. It is used by one goroutine at
// a time.
type MetaDir struct{ f *os.File }

// OpenMeta opens a directory for metadata. It knows none of the rules of wrappers around the
// directory. The caller closes it.
func OpenMeta(d TreeDir) (*MetaDir, error) {
	system, ok := systemOf(Innermost(d))
	if !ok {
		return nil, errors.ErrUnsupported
	}
	f, err := system.root.Open(".")
	if err != nil {
		return nil, err
	}
	return &MetaDir{f}, nil
}

// Close closes the directory.
func (m *MetaDir) Close() error { return m.f.Close() }

func (m *MetaDir) fd() int { return int(m.f.Fd()) }

// procPath is a path of an entry for the calls that take no directory. Only its last component may
// be a link.
func (m *MetaDir) procPath(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", m.fd(), name)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// maxXattrNames bounds the names of the extended attributes of a file in bytes, as Linux does.
const maxXattrNames = 64 << 10

// Xattrs returns the names of the extended attributes of an entry, sorted. A file system without
// them has none.
func (m *MetaDir) Xattrs(name string) ([]string, error) {
	var small [1024]byte
	buf := small[:]
	n, err := unix.Llistxattr(m.procPath(name), buf)
	if err == unix.ERANGE {
		buf = make([]byte, maxXattrNames)
		n, err = unix.Llistxattr(m.procPath(name), buf)
	}
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("listxattr", name, err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}

// ErrXattrTooLarge is returned for an extended attribute whose value exceeds the caller's limit.
var ErrXattrTooLarge = errors.New("the extended attribute is too large")

// Xattr returns the value of an extended attribute, of at most limit bytes.
func (m *MetaDir) Xattr(name, xattr string, limit int) ([]byte, error) {
	value := make([]byte, limit+1)
	n, err := unix.Lgetxattr(m.procPath(name), xattr, value)
	if err == unix.ERANGE || n > limit {
		err = ErrXattrTooLarge
	}
	if err != nil {
		return nil, pathError("getxattr", name, err)
	}
	return slices.Clone(value[:n]), nil
}

// SetXattr sets an extended attribute.
func (m *MetaDir) SetXattr(name, xattr string, value []byte) error {
	return pathError("setxattr", name, unix.Lsetxattr(m.procPath(name), xattr, value, 0))
}

// RemoveXattr removes an extended attribute, if the entry has it.
func (m *MetaDir) RemoveXattr(name, xattr string) error {
	err := unix.Lremovexattr(m.procPath(name), xattr)
	if err == unix.ENODATA {
		err = nil
	}
	return pathError("removexattr", name, err)
}

// Chown sets the owner of an entry.
func (m *MetaDir) Chown(name string, o Owner) error {
	return pathError("chown", name, unix.Fchownat(m.fd(), name, int(o.UID), int(o.GID), unix.AT_SYMLINK_NOFOLLOW))
}

// Chmod sets the permission bits and the SpecialMode of an entry that is not a link.
func (m *MetaDir) Chmod(name string, mode fs.FileMode) error {
	fd, err := unix.Openat(m.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", name, err)
	}
	defer unix.Close(fd)
	return pathError("chmod", name, unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), systemMode(mode)))
}

// systemMode returns the permission bits and the SpecialMode of a mode as the system wants them.
func systemMode(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	for _, bit := range []struct {
		mode   fs.FileMode
		system uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if mode&bit.mode != 0 {
			m |= bit.system
		}
	}
	return m
}

// Chtimes sets the modification time of an entry, and of a link itself.
func (m *MetaDir) Chtimes(name string, mtime time.Time) error {
	at, err := unix.TimeToTimespec(mtime)
	if err == nil {
		err = unix.UtimesNanoAt(m.fd(), name, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, at}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return pathError("utimensat", name, err)
}

// MakeSpecial makes a device, FIFO or socket, of mode 0600. kind has the type bits of its mode.
func (m *MetaDir) MakeSpecial(name string, kind fs.FileMode, device Device) error {
	mode, number := uint32(0o600), 0
	switch kind.Type() {
	case fs.ModeNamedPipe:
		mode |= unix.S_IFIFO
	case fs.ModeSocket:
		mode |= unix.S_IFSOCK
	case fs.ModeDevice | fs.ModeCharDevice:
		mode, number = mode|unix.S_IFCHR, int(unix.Mkdev(device.Major, device.Minor))
	case fs.ModeDevice:
		mode, number = mode|unix.S_IFBLK, int(unix.Mkdev(device.Major, device.Minor))
	default:
		return pathError("mknod", name, errors.ErrUnsupported)
	}
	return pathError("mknod", name, unix.Mknodat(m.fd(), name, mode, number))
}
