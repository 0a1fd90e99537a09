package disk

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	zfsMagic      = 0x2fc12fc1
	bcachefsMagic = 0xca451a4e
	// compressFlag is FS_COMPR_FL of FS_IOC_GETFLAGS: the file is compressed.
	compressFlag = 0x4
)

// compresses looks at the file's own flag, and on Btrfs and F2FS at the options of the mount. ZFS
// and bcachefs compress by properties that a program cannot ask for; they count as compressing.
func (f osFile) compresses() bool {
	st, err := f.statfs()
	if err != nil {
		return false
	}
	switch int64(st.Type) {
	case zfsMagic, bcachefsMagic:
		return true
	case unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return f.hasCompressFlag() || f.isMountedCompressed()
	}
	return f.hasCompressFlag()
}

func (f osFile) hasCompressFlag() bool {
	flags := 0
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	conn.Control(func(fd uintptr) { flags, err = unix.IoctlGetInt(int(fd), unix.FS_IOC_GETFLAGS) })
	return err == nil && flags&compressFlag != 0
}

// isMountedCompressed looks for the mount of the file in mountinfo (proc(5)). A mount that is not
// found may compress.
func (f osFile) isMountedCompressed() bool {
	id := ""
	conn, err := f.SyscallConn()
	if err != nil {
		return true
	}
	conn.Control(func(fd uintptr) { id = mountID(int(fd)) })
	info, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if own, _, _ := strings.Cut(lines.Text(), " "); own == id {
			return mountCompresses(lines.Text())
		}
	}
	return true
}

// mountID returns the number of the mount of an open file, as in mountinfo; empty if it is unknown.
func mountID(fd int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// mountCompresses reports whether a line of mountinfo is that of a mount that compresses files. The
// options of the file system follow a hyphen, its type and its device. An overlay compresses if the
// file system of its upper directory does; one that cannot be seen, as from a container, does not.
func mountCompresses(line string) bool {
	_, system, ok := strings.Cut(line, " - ")
	fields := strings.Fields(system)
	if !ok || len(fields) < 3 {
		return true
	}
	options := strings.Split(fields[2], ",")
	if fields[0] == "overlay" {
		return overlayCompresses(options)
	}
	return slices.ContainsFunc(options, func(option string) bool {
		name, how, _ := strings.Cut(option, "=")
		isOn := name == "compress" || name == "compress-force" || name == "compress_algorithm"
		return isOn && how != "no" && how != "none"
	})
}

func overlayCompresses(options []string) bool {
	for _, option := range options {
		upper, ok := strings.CutPrefix(option, "upperdir=")
		if !ok {
			continue
		}
		d, err := os.Open(upper)
		if err != nil {
			return false
		}
		defer d.Close()
		f := osFile{d}
		if st, err := f.statfs(); err != nil || int64(st.Type) == unix.OVERLAYFS_SUPER_MAGIC {
			return false
		}
		return f.compresses()
	}
	return false
}

// unreliableTimes lists the file systems (f_type of statfs(2)) whose times a server sets.
var unreliableTimes = []int64{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
	unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC,
	0x0bd00bd0, // Lustre
	0x47504653, // GPFS
	0x01161970, // GFS2
	0x786f4256, // VirtualBox
}

func (f osFile) hasReliableTimes() bool {
	st, err := f.statfs()
	return err == nil && !slices.Contains(unreliableTimes, int64(st.Type))
}
