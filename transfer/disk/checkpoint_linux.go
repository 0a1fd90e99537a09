package disk

import (
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// cachedFile returns the size, in bytes, up to which a written file stays in the page cache: a quarter of the memory.
// Of a larger file the parts on disk leave it. They would evict what others need, and the kernel would spend longer on
// finding free pages than on writing.
var cachedFile = sync.OnceValue(func() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return math.MaxInt64
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit) / 4)
})

// Checkpoint implements File with fdatasync(2).
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
			unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) // advice: an error does no harm
		}
	}); failed != nil {
		return failed
	}
	return os.NewSyscallError("fdatasync", err)
}
