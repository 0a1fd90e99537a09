package disk

import (
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

func (d osDir) checkReplaceable(name string) error {
	return d.place(func(dir *os.File) error { return checkReplaceable(dir, name) })
}

func (d osDir) mayCreate() error { return d.place(mayCreate) }

func (d osDir) holdsAnyName() bool {
	return d.place(func(dir *os.File) error {
		if holdsAnyName(dir) {
			return nil
		}
		return ErrName
	}) == nil
}

// place calls f with the directory as a place (O_PATH). It returns nil if that cannot be opened.
func (d osDir) place(f func(dir *os.File) error) error {
	dir, err := d.root.OpenFile(".", unix.O_PATH, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	return f(dir)
}

func mayCreate(dir *os.File) error {
	err := unix.Faccessat(int(dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	return pathError("create", ".", err)
}

// withAnyName lists the file systems (f_type of statfs(2)) whose names are any bytes.
var withAnyName = []int64{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC, unix.RAMFS_MAGIC, zfsMagic, bcachefsMagic,
}

func holdsAnyName(dir *os.File) bool {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(dir.Fd()), &st)
	return err != nil || slices.Contains(withAnyName, int64(st.Type))
}

// checkReplaceable looks at a directory and at an entry of it, without following a link.
func checkReplaceable(dir *os.File, name string) error {
	up, here := statx(dir, "."), statx(dir, name)
	if up == nil {
		return nil
	}
	refused := func(err error) error { return &fs.PathError{Op: "rename", Path: name, Err: err} }
	const fixed = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	if up.Attributes&fixed != 0 {
		return refused(unix.EPERM)
	}
	if here == nil {
		return nil
	}
	euid := os.Geteuid()
	isSticky := up.Mode&unix.S_ISVTX != 0
	isOwn := euid == 0 || uint32(euid) == here.Uid || uint32(euid) == up.Uid
	switch {
	case here.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return refused(unix.EBUSY)
	case here.Attributes&fixed != 0, isSticky && !isOwn:
		return refused(unix.EPERM)
	}
	return nil
}

// statx returns nil if there is no such entry, or if the system cannot tell.
func statx(dir *os.File, name string) *unix.Statx_t {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_DONT_SYNC
	if unix.Statx(int(dir.Fd()), name, flags, unix.STATX_BASIC_STATS, &st) != nil {
		return nil
	}
	return &st
}
