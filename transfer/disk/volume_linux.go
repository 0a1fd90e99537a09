package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenVolume opens the directory itself. From then on syncfs(2) reports failed writes (Linux 5.8
// and later).
func (d osDir) OpenVolume() (Volume, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	return volume{f}, nil
}

type volume struct{ dir *os.File }

func (v volume) Close() error { return v.dir.Close() }

func (v volume) Sync() error {
	conn, err := v.dir.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.Syncfs(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// IsMountPoint reports whether something is mounted on an entry of a directory. Kernels before 5.8
// do not tell it.
func IsMountPoint(d TreeDir, name string) bool {
	at, err := OpenMeta(d)
	if err != nil {
		return false
	}
	defer at.Close()
	var stat unix.Statx_t
	if unix.Statx(at.fd(), name, unix.AT_SYMLINK_NOFOLLOW, 0, &stat) != nil {
		return false
	}
	return stat.Attributes_mask&stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
