package transfer

import (
	"fmt"
	"kwikcp/kwik"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountOn mounts a file system of a type until the test ends, and returns the directory. Only root
// may do that.
func mountOn(t *testing.T, fsType, source string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fsType, 0, ""); err != nil {
		t.Skipf("this test needs root, and mounts: %s: %v", fsType, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountSmallInodes mounts an ext4 file system with inodes of 128 bytes, which keep times in
// seconds and no extended attributes. All attributes of a file share one block of 1 KiB.
func mountSmallInodes(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-b", "1024", "-I", "128", image).CombinedOutput()
	if err != nil {
		t.Skipf("this test needs mkfs.ext4: %v: %s", err, out)
	}
	out, err = exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("this test needs root, and loop devices: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return mountOn(t, "ext4", device)
}

// wantNothingDone checks that a round changed, fetched and hashed nothing.
func wantNothingDone(t *testing.T, what string, r MirrorResult, reports *mirrorReports) {
	t.Helper()
	if n := r.Fetched + r.Copied + r.Made + r.Created + r.Linked + r.HardLinked + r.Network; n != 0 {
		t.Errorf("%s: %+v", what, r)
	}
	for _, f := range reports.files {
		if f.Root != [32]byte{} {
			t.Errorf("%s: %q was hashed", what, f.Path)
		}
	}
}

// TestMirrorSmallInodes mirrors a tree with all its metadata from a file system with small inodes
// to a tmpfs. From there it goes to another one with small inodes.
func TestMirrorSmallInodes(t *testing.T) {
	first, between, last := mountSmallInodes(t), mountOn(t, "tmpfs", "none"), mountSmallInodes(t)
	p := packager{rand.New(rand.NewPCG(7, 14)), t, first}
	p.grow(40)
	p.growAsRoot()
	setXattr(t, filepath.Join(first, "usr/bin/git"), "system.posix_acl_access", aclOf(12345))
	setXattr(t, filepath.Join(first, "var/mail"), "system.posix_acl_default", aclOf(54321))

	for i, way := range []struct{ from, to string }{{first, between}, {between, last}} {
		for _, name := range []string{"etc/shadow", "usr/bin/git", "ro", "usr/bin/tool1"} {
			when := unix.NsecToTimespec(1e18 + 123_456_789 + int64(i))
			p.check(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(way.from, name), []unix.Timespec{when, when},
				unix.AT_SYMLINK_NOFOLLOW))
		}
		s := ServeTree(t, kwik.ServerRolePrimary, way.from, nil)
		for round := range 4 {
			what := fmt.Sprintf("from %s to %s, round %d", way.from, way.to, round)
			r, reports, err := s.mirror(t.Context(), way.to, keepingAll, deleting, func(o *MirrorOptions) {
				o.Quick = round%2 == 1 // the others compare
			})
			if err != nil || r.NotKept != (NotKept{}) {
				t.Fatalf("%s: %v, not kept: %+v, %+v", what, err, r.NotKept, reports.files)
			}
			if differences := rsyncDifferences(t, way.from, way.to, "-A", "--delete"); differences != "" {
				t.Errorf("%s: rsync would change:\n%s", what, differences)
			}
			switch round {
			case 0:
			case 2:
				if n := r.Fetched + r.Copied + r.Made + r.Created + r.Linked + r.HardLinked; n != 0 {
					t.Errorf("%s: %+v", what, r)
				}
			default:
				wantNothingDone(t, what, r, reports)
			}
		}
	}
}

// TestMirrorLosses mirrors metadata to file systems that cannot keep it. The contents arrive, the
// losses are counted by kind in every round, and later rounds change and hash nothing.
func TestMirrorLosses(t *testing.T) {
	source := mountOn(t, "tmpfs", "none")
	put(t, source, "plain", "plain")
	put(t, source, "large", "large")
	put(t, source, "linked", "linked")
	relink(t, source, "linked", "dir/other")
	put(t, source, "acl", "acl")
	relink(t, source, "acl", "dir/acl")
	at := func(name string) string { return filepath.Join(source, name) }
	for _, name := range []string{"large", "linked", "dir"} {
		setXattr(t, at(name), "user.large", strings.Repeat("v", 2000))
	}
	setXattr(t, at("plain"), "user.small", "v")
	setXattr(t, at("acl"), "system.posix_acl_access", aclOf(12345))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, target := range []struct {
		name, dir string
		lost      NotKept
	}{
		{"an ext4 with small inodes", mountSmallInodes(t), NotKept{Xattrs: 3}},
		{"a ramfs", mountOn(t, "ramfs", "none"), NotKept{Xattrs: 4, ACLs: 1}},
	} {
		for round := range 4 {
			what := fmt.Sprintf("to %s, round %d", target.name, round)
			r, reports, err := s.mirror(t.Context(), target.dir, keepingAll, func(o *MirrorOptions) {
				o.Quick = round%2 == 1
			})
			if err != nil || r.NotKept != target.lost {
				t.Errorf("%s: %v, not kept: %+v, want %+v", what, err, r.NotKept, target.lost)
			}
			if round%2 == 1 {
				wantNothingDone(t, what, r, reports)
			}
			if n := r.Fetched + r.Copied + r.HardLinked; round > 0 && n != 0 {
				t.Errorf("%s: %+v", what, r)
			}
			differences := rsyncDifferences(t, source, target.dir, "--no-xattrs", "--checksum")
			if differences != "" {
				t.Errorf("%s: rsync would change:\n%s", what, differences)
			}
		}
	}
}
