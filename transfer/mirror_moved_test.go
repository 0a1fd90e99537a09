package transfer

import (
	"fmt"
	"kwikcp/kwik"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patternBytes returns content that differs for each seed.
func patternBytes(seed, size int) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(b)
	return string(b)
}

// TestMirrorMoved checks that files which moved, were renamed or were copied on the server are not
// fetched: their content is taken from the target.
func TestMirrorMoved(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for i := range 20 { // equal sizes and times: only the content tells them apart
		put(t, source, fmt.Sprintf("old/f%02d", i), patternBytes(i, 3000))
		os.Chtimes(filepath.Join(source, fmt.Sprintf("old/f%02d", i)), time.Time{}, time.Unix(1e9, 0))
	}
	put(t, source, "large", patternBytes(1000, 3<<20+17))
	put(t, source, "other", patternBytes(1001, 3<<20+17))
	put(t, source, "z/deep/file", patternBytes(1002, 100))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	round := func(what string, copied int64, change ...func(*MirrorOptions)) {
		t.Helper()
		result, reports, err := s.mirror(t.Context(), target, change...)
		isRight := result.Network == 0 && result.Copied == copied && result.Fetched == 0
		if err != nil || !isRight {
			t.Errorf("%s: %d bytes fetched, %d files copied, %d fetched; want 0, %d, 0 (%v, %+v)", what, result.Network,
				result.Copied, result.Fetched, copied, err, reports.files)
		}
	}
	if _, _, err := s.mirror(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(source, from), filepath.Join(source, to)); err != nil {
			t.Fatal(err)
		}
	}
	rename("old", "a-new") // before the old names in the listing
	round("a directory was renamed", 20, deleting)
	wantTree(t, target, snapshot(t, source))

	rename("a-new", "z/new") // and now after them
	rename("large", "z/large2")
	round("moved", 21, deleting, func(o *MirrorOptions) { o.Quick = true })
	wantTree(t, target, snapshot(t, source))

	put(t, source, "other2", patternBytes(1001, 3<<20+17)) // with another time
	put(t, source, "z/again", patternBytes(1002, 100))
	round("copied", 2)
	wantTree(t, target, snapshot(t, source))

	relink(t, source, "z/new/f07", "linked")
	rename("z/new/f07", "renamed")
	round("linked and renamed", 1, deleting)
	wantSameTree(t, target, source)
}

// TestMirrorMovedIsVerified checks that an old file of the right size with other content is not
// taken for the new file.
func TestMirrorMovedIsVerified(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for i, size := range []int{500, 100_000, 2 << 20} {
		put(t, source, fmt.Sprintf("new%d", i), patternBytes(i, size))
		put(t, target, fmt.Sprintf("old%d", i), strings.Repeat("x", size))
		put(t, target, fmt.Sprintf("new%d~", i), patternBytes(i, size)[:size-1]+"!")
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, _, err := s.mirror(t.Context(), target, deleting)
	if err != nil || result.Fetched != 3 || result.Copied != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	wantTree(t, target, snapshot(t, source))
}
