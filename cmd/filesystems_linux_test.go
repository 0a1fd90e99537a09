package cmd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
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
	{"btrfs, compressed", `image 160M; mkfs.btrfs -q image >/dev/null; mount -o loop,compress=zstd image mnt`},
	{"tmpfs", `mount -t tmpfs -o size=64m none mnt`},
	{"overlay", `mount -t tmpfs none up; mkdir up/u up/w
		mount -t overlay -o lowerdir=low,upperdir=up/u,workdir=up/w none mnt`},
	{"vfat", `image 64M; mkfs.vfat image >/dev/null; mount -t vfat -o loop,umask=0 image mnt`},
	{"exfat", `image 64M; mkfs.exfat image >/dev/null; mount -t exfat -o loop,umask=0 image mnt`},
	{"exfat by FUSE", `image 64M; mkfs.exfat image >/dev/null; L=$(losetup -f --show image)
		mount.exfat-fuse -o umask=0,uid=1,gid=1 $L mnt >/dev/null 2>&1; losetup -d $L`},
	{"ntfs-3g, names of Windows", `image 64M; mkntfs -QFq image >/dev/null 2>&1
		ntfs-3g -o umask=0,uid=1,windows_names image mnt`},
	{"ntfs-3g", `image 64M; mkntfs -QFq image >/dev/null 2>&1; ntfs-3g -o umask=0,uid=1 image mnt`},
	{"sshfs", `mkdir far; printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n' >ssh; chmod +x ssh
		sshfs -o ssh_command=$PWD/ssh host:$PWD/far mnt`},
	{"bindfs, fixed modes", `mkdir far; bindfs --chmod-ignore --chown-ignore --perms=0777 --force-user=1 far mnt`},
}

// fileSystemScript tries a mounted file system with whole and resumed files, ranges, files that are
// up to date, and a directory. Names that the file system cannot hold, or that are the same to it,
// fail alone, and no other file gets their content. A file takes no more space than one of cp, from
// a cold or a warm server. An interrupted transfer keeps no more than its bytes. The reservation of
// a killed one is given back with the next.
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
rm -r mnt/*
kwikcp get --json -r $ODD mnt/odd >odd || true
(cd mnt/odd && find . -type f | while IFS= read -r f; do
	printf %%s "$f" | cmp - "$f" || { echo "$f has another content"; exit 1; }
done)
there=$(find mnt/odd -type f | wc -l)
refused=$(grep -c '"action":"failed".*\(cannot hold the name\|it is the same name as\)' odd || true)
# A directory that is refused has one file.
test $((there + refused)) = $(find $A/odd -type f | wc -l) || { echo "$there files, $refused refused"; cat odd; exit 1; }
echo "names: $there held, $refused refused"
# A get to another spelling of a name tells which file it replaces; lines of a list do not replace each other.
echo first >mnt/spelling
if test -e mnt/SPELLING; then
	kwikcp get $LARGE mnt/SPELLING 2>&1 | grep -q 'is the same name as "spelling" to this file system'
	printf '%%s\tmnt/one\n%%s\tmnt/ONE\n' $LARGE $SMALL >list
	kwikcp get -q -i list 2>err && exit 1
	grep -q 'line 2: .*the same name as that of line 1' err || { cat err; exit 1; }
	cmp $A/tree/large mnt/one
	echo "spellings: told"
fi
rm -r mnt/*
case "%[2]s" in sshfs*|bindfs*) exit 0 ;; esac
used() { sync -f mnt; df -B 1 --output=used mnt | tail -n 1; }
takes() { # the bytes of the disk that the file mnt/f takes
	before=$(used)
	"$@"
	echo $(($(used) - before))
	rm mnt/f
}
for name in text sparse; do
	url=$(echo $LARGE | sed s,/tree/large,/space/$name,)
	copy=$(takes cp $A/space/$name mnt/f)
	cold=$(takes kwikcp get -q $url mnt/f)
	warm=$(takes kwikcp get -q $url mnt/f)
	echo "$name: $copy with cp, $cold cold, $warm warm"
	most=$((copy + copy / 20 + 262144))
	test $cold -le $most && test $warm -le $most
done
url=$(echo $LARGE | sed s,/tree/large,/space/random,)
base=$(used)
kwikcp get -q --limit-rate 4M --max-time 1 $url mnt/f 2>/dev/null || true
interrupted=$(($(used) - base))
{ timeout -s KILL 1 kwikcp get -q --preallocate full --limit-rate 4M $url mnt/f; } 2>/dev/null || true
killed=$(($(used) - base))
kwikcp get -q --preallocate none --limit-rate 1M --max-time 1 $url mnt/f 2>/dev/null || true
after=$(($(used) - base))
echo "random: $interrupted when interrupted, $killed when killed, $after after the next run"
test $interrupted -le 9000000
# Btrfs frees an extent as a whole, so one that was reserved stays while any of it has bytes.
case "%[2]s" in btrfs*) ;; *) test $after -le 15000000 ;; esac
kwikcp get -q $url mnt/f
cmp $A/space/random mnt/f
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
	makeOddNames(t, filepath.Join(root, "odd"))
	makeSpaces(t, filepath.Join(root, "space"))
	work := t.TempDir()
	_, url := startTestServer(t, work, "--role", "primary", "--root", root)
	env := append(testEnv(work), "A="+root, "LARGE="+strings.Replace(url, "/?", "/tree/large?", 1),
		"TREE="+strings.Replace(url, "/?", "/tree/?", 1),
		"SMALL="+strings.Replace(url, "/?", "/tree/small?", 1), "ODD="+strings.Replace(url, "/?", "/odd/?", 1))
	all := os.Getenv("KWIKCP_FILESYSTEMS") == "all" // as in CI
	var missing []string
	for _, system := range fileSystems {
		if !all && system.name != "tmpfs" && system.name != "overlay" {
			continue
		}
		t.Run(system.name, func(t *testing.T) {
			script := fmt.Sprintf(fileSystemScript, system.mount, system.name)
			command := exec.Command("unshare", "-m", "bash", "-c", script)
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
			t.Logf("%s", out)
		})
	}
	if len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "NOT MOUNTED on this machine: %s\n", strings.Join(missing, "; "))
	}
}

// makeOddNames makes files whose names some file systems cannot hold. Each has its path as content.
func makeOddNames(t *testing.T, dir string) {
	for _, name := range []string{
		"plain", "a:b", "dot.", "space ", "CON", "con.txt", "q?", "st*r", `back\slash`, "pipe|", "lt<", `quote"`,
		"ctl\x01",
		"bad\xff", "Case", "case", "\u00c4", "\u00e4", "\u00df", "SS", strings.Repeat("n", 250),
		"Dir/f", "dir/f", "dir:x/f", "dirdot./f", "sub/dot.", "sub/x", "sub/X", "AUX/f",
	} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte("./"+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// makeSpaces makes files for which space is reserved.
func makeSpaces(t *testing.T, dir string) {
	const size = 18 << 20
	var text bytes.Buffer
	for n := 0; text.Len() < size; n++ {
		fmt.Fprintf(&text, "line %d of a text\n", n)
	}
	random := make([]byte, size)
	rand.NewChaCha8([32]byte{15}).Read(random)
	os.Mkdir(dir, 0o755)
	for name, content := range map[string][]byte{"text": text.Bytes(), "random": random, "sparse": random[:1<<20]} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "sparse"), size); err != nil {
		t.Fatal(err)
	}
}
