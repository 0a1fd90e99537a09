package transfer

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// TestMirrorMemory checks which rounds let the next one trust size and time, and of which entries.
func TestMirrorMemory(t *testing.T) {
	partial := &Error{Err: &MirrorError{Failed: 1, Path: "a", Err: errors.New("unreadable")}}
	tooMany := &Error{Err: &DeleteLimitError{}}
	broken := &Error{Kind: KindNetwork, Err: errors.New("lost")}
	paths := func(names string) map[string]bool {
		all := make(map[string]bool)
		for name := range strings.FieldsSeq(names) {
			all[name] = true
		}
		return all
	}
	m := &MirrorMemory{}
	for i, c := range []struct {
		failed string
		err    error
		quick  bool
		want   string
	}{
		{"x", broken, false, ""},
		{"a", partial, true, "a"},
		{"a b", partial, true, "a b"},
		{"c", broken, true, "a b c"}, // b may not have been reached
		{"", tooMany, true, ""},
		{"d", broken, true, "d"},
		{"", nil, true, ""},
	} {
		var o MirrorOptions
		m.Prepare(&o, nil)
		for path := range paths(c.failed) {
			m.Note(FileReport{Path: path, Action: FileFailed})
		}
		m.Learn(c.err)
		for _, path := range []string{"a", "d"} {
			if m.HasFailed(path) != paths(c.failed)[path] {
				t.Errorf("round %d: %q failed: %t", i, path, m.HasFailed(path))
			}
		}
		if m.Prepare(&o, []string{"suspect"}); o.Quick != c.quick || !maps.Equal(o.Recheck, paths(c.want+" suspect")) {
			t.Errorf("round %d: quick %t, recheck %v, want %t and %v", i, o.Quick, o.Recheck, c.quick, c.want)
		}
	}
	m.Note(FileReport{Path: "a", Action: FileSkipped, Err: ErrYoung})
	if !m.HasYoung() || m.HasFailed("a") {
		t.Error("a young file is not remembered as one")
	}
	for i := range maxRecheck + 1 {
		m.Note(FileReport{Path: fmt.Sprint(i), Action: FileFailed})
	}
	var o MirrorOptions
	isQuick := m.Learn(partial) && m.HasFailed("any")
	if m.Prepare(&o, nil); !isQuick || o.Quick || m.HasYoung() {
		t.Error("too many entries failed to remember them, and the next round is quick")
	}
}
