package transfer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"os"
	"path/filepath"
	"testing"
)

// TestMirrorChecksums mirrors files whose checksums are right, wrong or not known, to an empty
// directory and to one that has them. A file with a wrong one fails: it is not put in
// place, or stays as it was. The others are not affected.
func TestMirrorChecksums(t *testing.T) {
	source := t.TempDir()
	right := make(map[string][]Checksum)
	for name, size := range map[string]int{"empty": 0, "small": 1000, "large": 1<<20 + 5} {
		for _, kind := range []string{"right", "wrong", "other"} {
			content := bytes.Repeat([]byte{byte(len(name))}, size)
			if err := os.WriteFile(filepath.Join(source, name+"."+kind), content, 0o644); err != nil {
				t.Fatal(err)
			}
			right[name+"."+kind] = []Checksum{mustChecksum(t, fmt.Sprintf("sha256=%x", sha256.Sum256(content)))}
		}
	}
	checksums := func(path string) []Checksum {
		switch filepath.Ext(path) {
		case ".right":
			return right[path]
		case ".wrong":
			return append(right[path], mustChecksum(t, checksumsOf([]byte("another"))["sha256"]))
		}
		return nil
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	target := filepath.Join(t.TempDir(), "copy")
	checked := func(o *MirrorOptions) { o.Checksums = checksums }
	for _, round := range []string{"fetched", "in place", "quickly in place"} {
		r, reports, err := s.mirror(t.Context(), target, checked, func(o *MirrorOptions) {
			o.Quick = round == "quickly in place"
		})
		wantKind(t, err, KindIntegrity, "")
		if r.Failed != 3 || r.Proved != 3 || r.Fetched+r.UpToDate != 6 {
			t.Errorf("%s: %+v", round, r)
		}
		for _, f := range reports.files {
			_, wrong := errors.AsType[*ChecksumError](f.Err)
			if wrong != (filepath.Ext(f.Path) == ".wrong") {
				t.Errorf("%s: %q: %v", round, f.Path, f.Err)
			}
		}
		for name := range snapshot(t, target) {
			if wire.IsTemporary(name) || round == "fetched" && filepath.Ext(name) == ".wrong" {
				t.Errorf("%s: %q is there", round, name)
			}
		}
		if round == "fetched" { // then without checksums
			if _, _, err := s.mirror(t.Context(), target); err != nil {
				t.Fatal(err)
			}
			continue
		}
		wantTree(t, target, snapshot(t, source))
	}
}
