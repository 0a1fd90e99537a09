package transfer

import "golang.org/x/sys/unix"

// StartSync asks the kernel to write what is dirty. The call may wait for room in the disk's queue, not for the disk to be
// done. It reports nothing: the kernel keeps an error of the writing for the next fsync of the file.
func (f osFile) StartSync() {
	if conn, err := f.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
	}
}
