//go:build unix

package cmd

import (
	"os/exec"
	"runtime"
	"sync"
)

// canMount reports whether tests can mount file systems in a private namespace, which takes root on
// Linux.
var canMount = sync.OnceValue(func() bool {
	return runtime.GOOS == "linux" && exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt").Run() == nil
})

// canReflink reports whether one of them can be a file system whose files may share blocks: that
// takes mkfs.btrfs or mkfs.xfs, and loop devices.
var canReflink = sync.OnceValue(func() bool {
	return canMount() && exec.Command("unshare", "-m", "sh", "-c", `
		mount -t tmpfs none /mnt && truncate -s 320M /mnt/image && mkdir /mnt/on || exit
		if command -v mkfs.btrfs; then mkfs.btrfs -q /mnt/image; else mkfs.xfs -q /mnt/image; fi && mount -o loop /mnt/image /mnt/on`).Run() == nil
})

// canKeep reports whether this user may set owners, and the file system of temporary directories
// has extended attributes and ACLs. It takes rsync, attr and acl as well.
var canKeep = sync.OnceValue(func() bool {
	return runtime.GOOS == "linux" && exec.Command("sh", "-c", `
		f=$(mktemp) && trap 'rm "$f"' EXIT && command -v rsync &&
		chown 12345:54321 "$f" && setfattr -n user.test -v value "$f" && setfacl -m u:12345:r "$f"`).Run() == nil
})
