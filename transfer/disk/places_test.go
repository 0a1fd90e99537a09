package disk

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestPlaces checks that a directory and those above it have the places that others see, whatever
// leads to them.
func TestPlaces(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no boot ID")
	}
	top := t.TempDir()
	inner := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	places := func(path string) []PlaceID {
		d, err := OpenTree(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return Places(d)
	}
	want := places(inner)
	if len(want) < 4 || len(want) == maxPlaces {
		t.Fatalf("%d places", len(want))
	}
	if got := places(filepath.Join(top, "link", "b")); !slices.Equal(got, want) {
		t.Error("through a link the places are others")
	}
	if got := places(top); !slices.Equal(got, want[2:]) {
		t.Errorf("two levels above there are %d places, want %d", len(got), len(want)-2)
	}
	if all := places("/"); len(all) != 1 || all[0] != want[len(want)-1] {
		t.Errorf("the top has %d places", len(all))
	}
	guarded, err := OpenTree(inner, false)
	if err != nil {
		t.Fatal(err)
	}
	defer guarded.Close()
	protected, err := NewSecrets().Protect(guarded)
	if err != nil {
		t.Fatal(err)
	}
	if got := Places(protected); !slices.Equal(got, want) {
		t.Error("a guarded directory has other places")
	}
}
