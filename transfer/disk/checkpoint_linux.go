package disk

import (
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// cachedFile is up to which size, in bytes, a file that is written stays in the page cache: a quarter of the machine's memory. What is on disk
// of a larger one would only push out what others need, and the kernel take longer to find room for it than to write it.
var cachedFile = sync.OnceValue(func() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return math.MaxInt64
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit) / 4)
})

// Checkpoint has the kernel write what is dirty, and what is needed to find it again.
func (f osFile) Checkpoint() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if failed := conn.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); err != unix.EINTR {
				break
			}
		}
		if info, e := f.Stat(); err == nil && e == nil && info.Size() > cachedFile() {
			unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) // of what is not dirty again; it does no harm if it fails
		}
	}); failed != nil {
		return failed
	}
	return os.NewSyscallError("fdatasync", err)
}
