package disk

import "golang.org/x/sys/unix"

// DropCache asks the system to forget the cached content of the file, so that reads are from the
// disk. Bytes that are not written yet stay.
func (f osFile) DropCache() {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	conn.Control(func(fd uintptr) { unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
}
