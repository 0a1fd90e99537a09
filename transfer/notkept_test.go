package transfer

import (
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"testing"
)

// TestMirrorCountsLosses checks that a mirror counts by kind what it does not keep.
func TestMirrorCountsLosses(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	put(t, source, "a", "content")
	put(t, source, "b", "other")
	os.Chmod(filepath.Join(source, "b"), 0o755|os.ModeSetuid)
	os.Mkdir(filepath.Join(source, "shared"), 0o755)
	os.Chmod(filepath.Join(source, "shared"), 0o777|os.ModeSticky)
	relink(t, source, "a", "c")
	os.Symlink("/etc/passwd", filepath.Join(source, "outside"))
	if err := transfertest.Mkfifo(filepath.Join(source, "fifo")); err != nil {
		t.Fatal(err)
	}
	want := NotKept{HardLinks: 1, SpecialModes: 2, Specials: 1, OutsideLinks: 1}
	want.Xattrs, want.ACLs, want.Owners = loseMore(t, source)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for range 2 {
		result, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) { o.NoHardLinks = true })
		if err != nil || result.NotKept != want {
			t.Errorf("not kept: %+v, want %+v (%v)", result.NotKept, want, err)
		}
	}
}
