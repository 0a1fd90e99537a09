package cmd

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// TestMirrorMemory checks which rounds let the next one trust size and time, and of which entries.
func TestMirrorMemory(t *testing.T) {
	partial := &transfer.Error{Err: &transfer.MirrorError{Failed: 1, Path: "a", Err: errors.New("unreadable")}}
	tooMany := &transfer.Error{Err: &transfer.DeleteLimitError{}}
	broken := &transfer.Error{Kind: transfer.KindNetwork, Err: errors.New("lost")}
	paths := func(names ...string) map[string]bool {
		all := make(map[string]bool)
		for _, name := range names {
			all[name] = true
		}
		return all
	}
	m := &mirrorMemory{}
	for i, c := range []struct {
		failed map[string]bool
		err    error
		quick  bool
		want   map[string]bool
	}{
		{paths("x"), broken, false, nil},
		{paths("a"), partial, true, paths("a")},
		{paths("a", "b"), partial, true, paths("a", "b")},
		{paths("c"), broken, true, paths("a", "b", "c")}, // b may not have been reached
		{nil, tooMany, true, nil},
		{paths("d"), broken, true, paths("d")},
		{nil, nil, true, nil},
	} {
		m.learn(c.failed, c.err)
		if m.quick != c.quick || !maps.Equal(m.recheck, c.want) {
			t.Errorf("round %d: quick %t, recheck %v, want %t and %v", i, m.quick, m.recheck, c.quick, c.want)
		}
	}
	many := make(map[string]bool)
	for i := range maxRecheck + 1 {
		many[fmt.Sprint(i)] = true
	}
	if m.learn(many, partial); m.quick {
		t.Error("too many entries failed to remember them, and the next round is quick")
	}
}

// TestMirrorLogNames checks that an entry that is left for what is in its place is named once.
// Other skipped entries are not named.
func TestMirrorLogNames(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	var left map[string]bool
	for round, c := range []struct {
		skipped map[string]error
		names   string
	}{
		{map[string]error{"a": transfer.ErrNewer, "b": errors.New("a FIFO"), "y": transfer.ErrYoung}, "a"},
		{map[string]error{"a": transfer.ErrNewer}, ""},
		{map[string]error{"c": transfer.ErrElsewhere, "d": disk.ErrProtected}, "c d"},
		{map[string]error{"a": transfer.ErrNewer, "c": transfer.ErrElsewhere}, "a"},
	} {
		m := &mirrorLog{log: log, named: left}
		text.Reset()
		for _, path := range slices.Sorted(maps.Keys(c.skipped)) {
			m.File(transfer.FileReport{Path: path, Action: transfer.FileSkipped, Err: c.skipped[path]})
		}
		left = m.left
		var names []string
		for _, found := range regexp.MustCompile(`path=(\S+)`).FindAllStringSubmatch(text.String(), -1) {
			names = append(names, found[1])
		}
		if got := strings.Join(names, " "); got != c.names {
			t.Errorf("round %d: %q was named, want %q", round, got, c.names)
		}
	}
}
