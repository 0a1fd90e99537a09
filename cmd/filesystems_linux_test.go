package cmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fileSystems are the real file systems that transfers are tried on: how to mount one on "mnt" in a
// new directory. A script exits with 99 if this machine cannot.
var fileSystems = []struct{ name, mount string }{
	{"ext4", `image 64M; mkfs.ext4 -q image; mount -o loop image mnt`},
	{"xfs", `image 320M; mkfs.xfs -q image; mount -o loop image mnt`},
	{"btrfs, compressed", `image 160M; mkfs.btrfs -q image; mount -o loop,compress=zstd image mnt`},
	{"tmpfs", `mount -t tmpfs -o size=64m none mnt`},
	{"overlay", `mount -t tmpfs none up; mkdir up/u up/w; mount -t overlay -o lowerdir=low,upperdir=up/u,workdir=up/w none mnt`},
	{"vfat", `image 64M; mkfs.vfat image >/dev/null; mount -t vfat -o loop,umask=0 image mnt`},
	{"exfat", `image 64M; mkfs.exfat image >/dev/null; mount -t exfat -o loop,umask=0 image mnt`},
	{"exfat by FUSE", `image 64M; mkfs.exfat image >/dev/null; mount.exfat-fuse -o umask=0,uid=1,gid=1 $(losetup -f --show image) mnt 2>/dev/null >&2`},
	{"ntfs-3g", `image 64M; mkntfs -QFq image >/dev/null; ntfs-3g -o umask=0,uid=1 image mnt`},
	{"sshfs", `mkdir far; printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n' >ssh; chmod +x ssh; sshfs -o ssh_command=$PWD/ssh host:$PWD/far mnt`},
	{"bindfs, fixed modes", `mkdir far; bindfs --chmod-ignore --chown-ignore --perms=0777 --force-user=1 far mnt`},
}

// fileSystemScript tries a mounted file system. It gets a whole file, one that resumes, a range,
// and one that is up to date. Then it gets a directory, twice.
const fileSystemScript = `
set -eu
image() { truncate -s $1 image; }
mkdir mnt low up
{ %s
} || exit 99
trap 'umount mnt 2>/dev/null || fusermount3 -uz mnt || true' EXIT
grep -q " $PWD/mnt " /proc/self/mounts || exit 99
kwikcp get -q $LARGE mnt/large
cmp $A/tree/large mnt/large
kwikcp get --json $LARGE mnt/large | grep -q '"up_to_date":true'
rm mnt/large
kwikcp get --json --limit-rate 4M --max-time 1 $LARGE mnt/large >first || true
kwikcp get --json $LARGE mnt/large >second
cmp $A/tree/large mnt/large
grep -q '"resumed_bytes":0,' second && { echo 'not resumed'; cat first second; exit 1; }
kwikcp get -q --range 70000-200000 $LARGE mnt/range
kwikcp get -q -r $TREE mnt/copy
diff -r $A/tree mnt/copy
kwikcp get --json -r $TREE mnt/copy | grep -q '"files_up_to_date":3,'
test -z "$(find mnt -name '.kwikcp-*')"
`

// TestFileSystems copies to each file system that this machine can mount. Those that it cannot
// mount are named.
func TestFileSystems(t *testing.T) {
	if !canMount() {
		t.Skip("needs root on Linux, and mount namespaces")
	}
	root := t.TempDir()
	os.Mkdir(filepath.Join(root, "tree"), 0o755)
	os.Mkdir(filepath.Join(root, "tree", "d"), 0o755)
	for name, size := range map[string]int{"large": 8 << 20, "small": 1000, "d/empty": 0} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * i / 3)
		}
		if err := os.WriteFile(filepath.Join(root, "tree", name), b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	work := t.TempDir()
	_, url := startTestServer(t, work, "--role", "primary", "--root", root)
	env := append(testEnv(work), "A="+root, "LARGE="+strings.Replace(url, "/?", "/tree/large?", 1),
		"TREE="+strings.Replace(url, "/?", "/tree/?", 1))
	all := os.Getenv("KWIKCP_FILESYSTEMS") == "all" // as in CI
	var missing []string
	for _, system := range fileSystems {
		if !all && system.name != "tmpfs" && system.name != "overlay" {
			continue
		}
		t.Run(system.name, func(t *testing.T) {
			command := exec.Command("unshare", "-m", "bash", "-c", fmt.Sprintf(fileSystemScript, system.mount))
			command.Dir = t.TempDir()
			command.Env = env
			out, err := command.CombinedOutput()
			if command.ProcessState.ExitCode() == 99 {
				missing = append(missing, system.name)
				t.Skipf("NOT MOUNTED: %s: %s", system.name, out)
			}
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	if len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "NOT MOUNTED on this machine: %s\n", strings.Join(missing, "; "))
	}
}
