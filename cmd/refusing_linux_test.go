package cmd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// refusingScript tries targets that cannot be written, or that lack what is not essential.
const refusingScript = `mount -t tmpfs -o mode=755 none /mnt
cp "$(command -v kwikcp)" /mnt/kwikcp
cp $A/tree/f /mnt/known
mkdir -m 777 /mnt/home
cp "$KWIKCP_TEST_SCHEMA" /mnt/schema
export HOME=/mnt/home TMPDIR=/mnt/home XDG_STATE_HOME=/mnt/home/.state KWIKCP_TEST_SCHEMA=/mnt/schema
cd /mnt
truncate -s 8M image
mkfs.ext4 -q image
mkdir fs
mount -o loop image fs
user() { setpriv --reuid=1000 --regid=1000 --clear-groups "$@"; }
# try CASE COMMAND... prints the exit status, the errors and warnings, and how many bytes arrived.
try() {
	local name=$1 code=0
	shift
	"$@" --json >out 2>err || code=$?
	local errors='permission denied|operation not permitted|read-only file system|device or resource busy|file name too long'
	local fields='"operation":"[a-z_]*|"fetched_bytes":[0-9]*|"files_complete":[0-9]*|"up_to_date":true|"files_up_to_date":[0-9]*'
	echo "$name: $code" $(tail -n 1 out | grep -oE "$errors|$fields" | tr -d '"' | sort -u)
}
left() { find "$1" -name '.kwikcp*' | sed 's/.*/left: &/'; }

mkdir -m 1777 sticky
echo theirs >sticky/big
cp known sticky/f
try 'sticky, of another user' user ./kwikcp get "$BIG" sticky/big
try 'sticky, up to date' user ./kwikcp get "$SMALL" sticky/f
try 'sticky, tree' user ./kwikcp get -r "$TREE" sticky
test "$(cat sticky/big)" = theirs
touch sticky/.kwikcp-mirror.part
try 'sticky, with the lock file of another user' user ./kwikcp get -r "$TREE" sticky
rm sticky/.kwikcp-mirror.part
left sticky

for flag in i a; do
	mkdir -p fs/dir/d
	echo old >fs/big
	chattr +$flag fs/big fs/dir
	try "+$flag" ./kwikcp get "$BIG" fs/big
	try "+$flag directory" ./kwikcp get "$BIG" fs/dir/big
	try "+$flag tree" ./kwikcp get -r --exclude g "$TREE" fs/dir
	chattr -$flag fs/big fs/dir
	left fs
done

mkdir -m 300 wx
mkdir -m 500 rx
chown 1000 wx rx
try '-wx' user ./kwikcp get "$BIG" wx/big
try '-wx, up to date' user ./kwikcp get "$BIG" wx/big
try '-wx, range' user ./kwikcp get --range 5-9 "$BIG" wx/range
try '-wx, tree' user ./kwikcp get -r "$TREE" wx
try 'r-x' user ./kwikcp get "$BIG" rx/big
try 'r-x, tree' user ./kwikcp get -r "$TREE" rx
try 'r-x, new tree' user ./kwikcp get -r "$TREE" rx/new
left wx
left rx

name=$(printf '%0250d' 1)
try '250 bytes' ./kwikcp get "$BIG" $name
try '250 bytes, again' ./kwikcp get "$BIG" $name
try '250 bytes, tree' ./kwikcp get -r "$TREE" t$name
try '256 bytes' ./kwikcp get "$BIG" 123456$name
try '256 bytes, tree' ./kwikcp get -r "$TREE" 123456$name
printf '%s\t%s\n' "$BIG" 12345$name "$BIG" 123456$name >list
try 'list, 255 and 256 bytes' ./kwikcp get -i list

mkdir ro
mount -t tmpfs none ro
./kwikcp get -q -r "$TREE" ro/tree
mount -o remount,ro ro
try 'read-only' ./kwikcp get "$BIG" ro/big
try 'read-only, up to date' ./kwikcp get "$SMALL" ro/tree/f
try 'read-only, tree up to date' ./kwikcp get -r "$TREE" ro/tree
try 'read-only, new tree' ./kwikcp get -r "$TREE" ro/new
mount -o remount,rw ro
rm ro/tree/f
mount -o remount,ro ro
try 'read-only, tree' ./kwikcp get -r "$TREE" ro/tree

mkdir -p way/f way2/d
mount -t tmpfs none way/f
try 'mount on a directory, tree' ./kwikcp get -r --delete "$TREE" way
mount -t tmpfs -o ro none way2/d
try 'read-only mount in a tree' ./kwikcp get -r "$TREE" way2
: >bound
mount --bind known bound
try 'mount on a file' ./kwikcp get "$BIG" bound
find way way2 -name '.kwikcp*'
`

// refused is what refusingScript prints.
const refused = `sticky, of another user: 7 operation not permitted
sticky, up to date: 0 operation not permitted operation:set_times up_to_date:true
sticky, tree: 0 fetched_bytes:10 files_up_to_date:1 operation not permitted operation:set_times
sticky, with the lock file of another user: 0 fetched_bytes:0 files_up_to_date:2 operation not permitted operation:set_times
+i: 7 operation not permitted
+i directory: 7 operation not permitted
+i tree: 7 fetched_bytes:0 files_up_to_date:0 operation not permitted operation:set_times
+a: 7 operation not permitted
+a directory: 7 operation not permitted
+a tree: 7 fetched_bytes:0 files_up_to_date:0 operation not permitted operation:set_times
-wx: 0 operation:sync_directory permission denied
-wx, up to date: 0 operation:sync_directory permission denied up_to_date:true
-wx, range: 0 operation:sync_directory permission denied
-wx, tree: 7 fetched_bytes:0 files_up_to_date:0 permission denied
r-x: 7 permission denied
r-x, tree: 7 fetched_bytes:0 files_up_to_date:0 permission denied
r-x, new tree: 7 fetched_bytes:0 files_up_to_date:0 permission denied
250 bytes: 0
250 bytes, again: 0 up_to_date:true
250 bytes, tree: 0 fetched_bytes:307210 files_up_to_date:0
256 bytes: 7 file name too long
256 bytes, tree: 7 fetched_bytes:0 file name too long files_up_to_date:0
list, 255 and 256 bytes: 7 file name too long
read-only: 7 read-only file system
read-only, up to date: 0 up_to_date:true
read-only, tree up to date: 0 fetched_bytes:0 files_up_to_date:2
read-only, new tree: 7 fetched_bytes:0 files_up_to_date:0 read-only file system
read-only, tree: 7 fetched_bytes:0 files_up_to_date:1 operation:set_times read-only file system
mount on a directory, tree: 7 device or resource busy fetched_bytes:10 files_up_to_date:0
read-only mount in a tree: 7 fetched_bytes:307200 files_up_to_date:0 operation:set_mode operation:set_times read-only file system
mount on a file: 7 device or resource busy
`

// TestFileSystemsThatRefuse checks that an error that can be known at the start is told before the
// first byte, and that nothing is left behind. Files that are up to date are so everywhere. It
// takes as long as ten scripts, so that only CI and KWIKCP_FILESYSTEMS=all run it.
func TestFileSystemsThatRefuse(t *testing.T) {
	if !canMount() || os.Getenv("KWIKCP_FILESYSTEMS") != "all" {
		t.Skip("needs KWIKCP_FILESYSTEMS=all, and root on Linux for mounts, chattr and user 1000")
	}
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "tree", "d"), 0o755)
	for name, size := range map[string]int{"big": 2 << 20, "tree/f": 300 << 10, "tree/d/g": 10} {
		content := bytes.Repeat([]byte("0123456789"), size/10)
		if err := os.WriteFile(filepath.Join(root, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	work := t.TempDir()
	_, url := startTestServer(t, work, "--role", "primary", "--root", root)
	command := exec.Command("unshare", "-m", "bash", "-euc", refusingScript)
	command.Dir = work
	command.Env = append(testEnv(work), "A="+root, "BIG="+strings.Replace(url, "/?", "/big?", 1),
		"TREE="+strings.Replace(url, "/?", "/tree/?", 1), "SMALL="+strings.Replace(url, "/?", "/tree/f?", 1))
	out, err := command.CombinedOutput()
	if err != nil || string(out) != refused {
		t.Errorf("%v, %s", err, out)
	}
}
