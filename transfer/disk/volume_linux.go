package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenVolume opens the directory itself. From then on syncfs(2) reports failed writes (Linux 5.8 and later).
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
