package cmd

import (
	"errors"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// TestMirrorLogNames checks that an entry that is left for what is in its place is named once.
// Other skipped entries are not named.
func TestMirrorLogNames(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	memory := &mirrorMemory{}
	for round, c := range []struct {
		skipped map[string]error
		names   string
	}{
		{map[string]error{"a": transfer.ErrNewer, "b": errors.New("a FIFO"), "y": transfer.ErrYoung}, "a"},
		{map[string]error{"a": transfer.ErrNewer}, ""},
		{map[string]error{"c": transfer.ErrElsewhere, "d": disk.ErrProtected}, "c d"},
		{map[string]error{"a": transfer.ErrNewer, "c": transfer.ErrElsewhere}, "a"},
	} {
		m := &mirrorLog{log: log, memory: memory}
		text.Reset()
		for _, path := range slices.Sorted(maps.Keys(c.skipped)) {
			m.File(transfer.FileReport{Path: path, Action: transfer.FileSkipped, Err: c.skipped[path]})
		}
		memory.left = m.left
		var names []string
		for _, found := range regexp.MustCompile(`path=(\S+)`).FindAllStringSubmatch(text.String(), -1) {
			names = append(names, found[1])
		}
		if got := strings.Join(names, " "); got != c.names {
			t.Errorf("round %d: %q was named, want %q", round, got, c.names)
		}
	}
}
