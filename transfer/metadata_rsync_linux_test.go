package transfer

import (
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A packager makes a tree like one of installed distribution packages.
type packager struct {
	*rand.Rand
	t    *testing.T
	root string
}

func (p packager) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// file writes a file with a mode and a time.
func (p packager) file(name string, size int, mode os.FileMode) {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(p.IntN(256))
	}
	put(p.t, p.root, name, string(b))
	at := filepath.Join(p.root, name)
	p.check(os.Chmod(at, mode))
	p.check(os.Chtimes(at, time.Time{}, time.Unix(1e9+p.Int64N(1e8), p.Int64N(1e9))))
}

// link makes a symlink with a time.
func (p packager) link(target, name string) {
	at := filepath.Join(p.root, name)
	os.MkdirAll(filepath.Dir(at), 0o755)
	p.check(os.Symlink(target, at))
	when := unix.NsecToTimespec(1e18 + p.Int64N(1e17))
	p.check(unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
}

// grow makes about the given number of files.
func (p packager) grow(files int) {
	p.file("usr/bin/git", 50_000, 0o755)
	for i := range files / 10 { // as git's commands are one file
		relink(p.t, p.root, "usr/bin/git", fmt.Sprintf("usr/lib/git-core/git-command%d", i))
	}
	for i := range files / 10 {
		p.file(fmt.Sprintf("usr/lib/x86_64-linux-gnu/lib%d.so.1.2.3", i), 1000+p.IntN(5000), 0o644)
		p.link(fmt.Sprintf("lib%d.so.1.2.3", i), fmt.Sprintf("usr/lib/x86_64-linux-gnu/lib%d.so.1", i))
		p.link(fmt.Sprintf("lib%d.so.1", i), fmt.Sprintf("usr/lib/x86_64-linux-gnu/lib%d.so", i))
		p.link(fmt.Sprintf("../../usr/bin/tool%d", i), fmt.Sprintf("etc/alternatives/tool%d", i))
		p.link(fmt.Sprintf("../../etc/alternatives/tool%d", i), fmt.Sprintf("usr/bin/tool%d", i)) // a loop
	}
	for i := range files / 2 {
		p.file(fmt.Sprintf("usr/share/doc/package%d/%s", i%(files/20), []string{"copyright", "changelog.gz", "README",
			fmt.Sprintf("file%d", i)}[min(i/(files/20), 3)]), p.IntN(3000), 0o644)
	}
	p.link("/bin/sh", "bin/absolute")
	p.link("../../outside", "bin/outside")
	p.link("usr/../usr/bin", "winding")
	p.file("etc/shadow", 700, 0o640)
	p.file("usr/lib/locale/archive", 300_000, 0o644)
	p.check(os.Truncate(filepath.Join(p.root, "usr/lib/locale/archive"), 1<<20)) // a hole at the end
	p.file("usr/bin/passwd", 4000, 0o755|os.ModeSetuid)
	p.file("usr/bin/wall", 4000, 0o755|os.ModeSetgid)
	for dir, mode := range map[string]os.FileMode{
		"tmp": 0o777 | os.ModeSticky, "var/mail": 0o775 | os.ModeSetgid, "root": 0o700, "ro": 0o555,
	} {
		p.check(os.MkdirAll(filepath.Join(p.root, dir), 0o755))
		p.check(os.Chmod(filepath.Join(p.root, dir), mode))
	}
	p.check(transfertest.Mkfifo(filepath.Join(p.root, "run-fifo")))
	setXattr(p.t, filepath.Join(p.root, "usr/bin/wall"), "user.origin", "package")
	setXattr(p.t, filepath.Join(p.root, "var/mail"), "user.empty", "")
}

// growAsRoot adds what only root can make.
func (p packager) growAsRoot() {
	p.file("usr/bin/ping", 3000, 0o755)
	at := func(name string) string { return filepath.Join(p.root, name) }
	// A capability in the encoding of Linux: CAP_NET_RAW, effective and permitted.
	setXattr(p.t, at("usr/bin/ping"), "security.capability",
		"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	setXattr(p.t, at("usr/bin/ping"), "trusted.test", "trusted")
	setXattr(p.t, at("usr/bin/tool2"), "trusted.test", "of a link")
	p.check(os.Lchown(at("etc/shadow"), 0, 42))
	p.check(os.Lchown(at("var/mail"), 8, 8))
	p.check(os.Lchown(at("etc/alternatives/tool1"), 12345, 54321))
	p.check(os.Chmod(at("var/mail"), 0o775|os.ModeSetgid))
	p.file("usr/bin/screen", 3000, 0o755)
	p.check(os.Lchown(at("usr/bin/screen"), 12345, 43))
	p.check(os.Chmod(at("usr/bin/screen"), 0o755|os.ModeSetgid|os.ModeSetuid))
	for name, mode := range map[string]uint32{"dev-null": unix.S_IFCHR, "dev-loop": unix.S_IFBLK} {
		if err := unix.Mknod(at(name), mode|0o660, int(unix.Mkdev(1, 3))); err != nil {
			p.t.Logf("this root makes no devices: %v", err)
		}
	}
}

// keepingAll keeps all that a mirror can keep.
func keepingAll(o *MirrorOptions) {
	o.Owner, o.SpecialModes, o.Xattrs, o.ACLs = true, true, true, true
	o.Specials, o.OutsideLinks = os.Geteuid() == 0, true
}

// rsyncDifferences returns what rsync would change in a target, with more options than -aHSX.
func rsyncDifferences(t *testing.T, source, target string, more ...string) string {
	t.Helper()
	args := append([]string{"-aHSX", "--dry-run", "--itemize-changes"}, more...)
	if os.Geteuid() != 0 {
		args = append(args, "--no-D")
	}
	out, err := exec.Command("rsync", append(args, source+"/", target+"/")...).CombinedOutput()
	if err != nil {
		t.Fatalf("rsync: %v, %s", err, out)
	}
	return string(out)
}

// TestMirrorEqualsRsync checks that rsync finds no difference between a tree like those of
// distribution packages and a mirror of it, at first and after changes. The long form has 10,000
// files.
func TestMirrorEqualsRsync(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Fatal("this test needs rsync, as .ci/run installs it: ", err)
	}
	files := 100
	if os.Getenv("KWIKCP_ATTACK") == "long" {
		files = 10_000
	}
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	p := packager{rand.New(rand.NewPCG(5, 14)), t, source}
	p.grow(files)
	isRoot := os.Geteuid() == 0
	if isRoot {
		p.growAsRoot()
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	round := func(what string, change ...func(*MirrorOptions)) MirrorResult {
		t.Helper()
		result, reports, err := s.mirror(t.Context(), target, append(change, keepingAll, deleting)...)
		if err != nil {
			t.Fatalf("%s: %v, %+v", what, err, reports.files)
		}
		if n := result.NotKept; isRoot && n != (NotKept{}) {
			t.Errorf("%s: not kept: %+v", what, n)
		}
		if differences := rsyncDifferences(t, source, target); differences != "" {
			t.Errorf("%s: rsync would change:\n%s", what, differences)
		}
		return result
	}
	round("first")
	for _, quick := range []bool{false, true} {
		again := round("again", func(o *MirrorOptions) { o.Quick = quick })
		if n := again.Fetched + again.Copied + again.Made + again.Created + again.Linked + again.HardLinked; n != 0 {
			t.Errorf("again: %+v", again)
		}
	}

	// Changes of metadata alone, also of names of one file, found by size and time.
	at := func(name string) string { return filepath.Join(source, name) }
	p.check(os.Chmod(at("usr/bin/passwd"), 0o4711))
	p.check(os.Chmod(at("usr/bin/wall"), 0o755))
	p.check(os.Chmod(at("usr/bin/git"), 0o700|os.ModeSetuid))
	setXattr(t, at("usr/bin/git"), "user.new", strings.Repeat("v", 1000))
	p.check(os.Chmod(at("tmp"), 0o755))
	unix.Lremovexattr(at("usr/bin/wall"), "user.origin") // it has none if the file system has none
	if isRoot {
		p.check(os.Lchown(at("usr/bin/tool1"), 1, 2))
		p.check(os.Lchown(at("usr/lib/git-core/git-command3"), 12345, 1))
		p.check(os.Remove(at("dev-null")))
		p.file("dev-null", 10, 0o644)
		p.check(os.Remove(at("etc/shadow")))
		p.check(transfertest.Mkfifo(at("etc/shadow")))
	}
	result := round("metadata", func(o *MirrorOptions) { o.Quick = true })
	if result.Network > 10 {
		t.Errorf("%d bytes were fetched for metadata", result.Network)
	}
}

// TestMirrorACLs checks that ACLs are kept on request, and removed with those of the server.
func TestMirrorACLs(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	put(t, source, "dir/file", "content")
	file, dir := "dir/file", "dir"
	if !setXattr(t, filepath.Join(source, file), "system.posix_acl_access", aclOf(12345)) {
		t.Skip("the file system of the temporary directory has no ACLs")
	}
	setXattr(t, filepath.Join(source, dir), "system.posix_acl_default", aclOf(54321))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	acl := func(root, name, kind string) string {
		value := make([]byte, 1000)
		n, err := unix.Lgetxattr(filepath.Join(root, name), "system.posix_acl_"+kind, value)
		if err != nil {
			return ""
		}
		return string(value[:n])
	}
	for _, step := range []func(){func() {}, func() {
		unix.Lremovexattr(filepath.Join(source, file), "system.posix_acl_access")
		unix.Lremovexattr(filepath.Join(source, dir), "system.posix_acl_default")
	}} {
		step()
		for range 2 {
			withACLs := func(o *MirrorOptions) { o.ACLs, o.SpecialModes = true, true }
			result, _, err := s.mirror(t.Context(), target, withACLs)
			if err != nil || result.NotKept.ACLs != 0 {
				t.Fatalf("%+v, %v", result, err)
			}
			wantTree(t, target, snapshot(t, source))
			for _, kind := range []string{"access", "default"} {
				for _, name := range []string{file, dir} {
					if got, want := acl(target, name, kind), acl(source, name, kind); got != want {
						t.Errorf("%s of %s is %q, want %q", kind, name, got, want)
					}
				}
			}
		}
	}
}
