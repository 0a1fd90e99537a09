package transfer

import (
	"kwikcp/transfer/internal/wire"
	"testing"
)

// TestRepeatedBatchesAreInOrder checks that files that are requested again are in tree order,
// whatever the reason of each.
func TestRepeatedBatchesAreInOrder(t *testing.T) {
	var again []*mirrorFile
	for _, path := range []string{"d.x", "e", "a", "d/x", "d"} {
		again = append(again, &mirrorFile{entry: Entry{Path: path, Type: EntryFile}})
	}
	for tries := 1; tries < maxTries; tries++ {
		count, last := 0, ""
		for _, b := range (&round{}).nextBatches(again, tries) {
			for r := (wire.PathReader{Rest: b.paths, Ordered: true}); r.More(); count++ {
				path, err := r.Path()
				if err != nil || wire.CompareTree(last, path) >= 0 {
					t.Errorf("try %d: %q after %q, %v", tries, path, last, err)
				}
				last = path
			}
		}
		if count != len(again) {
			t.Errorf("try %d has %d files, want %d", tries, count, len(again))
		}
	}
}
