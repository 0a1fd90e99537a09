package transfer

import (
	"os"
	"path/filepath"
	"testing"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// TestGetTellsSpellings fetches to a name that the file system takes for that of another file. One
// warning tells that this file was replaced.
func TestGetTellsSpellings(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.serveFiles(map[string][]byte{"file": theFile})
		for _, test := range []struct {
			folding disk.Folding
			has     string
			told    bool
		}{
			{disk.Folding{Case: true}, "OUT", true},
			{disk.Folding{Case: true}, "out", false},
			{disk.Folding{Case: true}, "other", false},
			{disk.Folding{}, "OUT", false},
		} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, test.has), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := w.fetchWith(filepath.Join(dir, "out"), func(o *GetOptions) {
				o.OpenDir = func(path string) (disk.Dir, error) {
					tree, err := disk.OpenTree(path, false)
					return transfertest.FoldingDir{TreeDir: tree, Folding: test.folding}, err
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			told := len(r.Warnings) == 1 && r.Warnings[0].Operation == OpNames
			if told != test.told || !told && len(r.Warnings) > 0 {
				t.Errorf("%+v: the warnings are %v", test, r.Warnings)
			}
		}
	})
}
