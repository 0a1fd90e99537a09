package kwik_test

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"github.com/quic-go/quic-go"

	"kwikcp/kwik"
)

// docs/DESIGN.md has a table of quic-go's methods and the fields of its Config, and states for
// each whether KWIK has it. This test checks that the table is complete and its names are right.
// TestEcho checks that equal methods behave equally.
func TestCompatibilityTable(t *testing.T) {
	text, err := os.ReadFile("../docs/DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	methods := func(types ...any) map[string]bool {
		names := make(map[string]bool)
		for i, x := range types {
			of := make(map[string]bool)
			for m := range reflect.TypeOf(x).Methods() {
				of[m.Name] = true
			}
			for name := range names {
				if !of[name] {
					delete(names, name) // all of the types have it
				}
			}
			if i == 0 {
				names = of
			}
		}
		return names
	}
	fields := func(x any) map[string]bool {
		names := make(map[string]bool)
		for f := range reflect.TypeOf(x).Fields() {
			if f.IsExported() {
				names[f.Name] = true
			}
		}
		return names
	}
	for name, tt := range map[string]struct{ theirs, ours map[string]bool }{
		"Conn":          {methods(&quic.Conn{}), methods(&kwik.ClientSession{}, &kwik.ServerSession{})},
		"Stream":        {methods(&quic.Stream{}), methods(&kwik.Stream{})},
		"SendStream":    {methods(&quic.SendStream{}), methods(&kwik.SecondaryStream{})},
		"ReceiveStream": {methods(&quic.ReceiveStream{}), nil},
		"Listener":      {methods(&quic.Listener{}), methods(&kwik.Listener{})},
		"Transport":     {methods(&quic.Transport{}), nil},
		"Config":        {fields(quic.Config{}), fields(quic.Config{})},
	} {
		rows := regexp.MustCompile("(?m)^\\| `"+name+"` \\| (exist|differ|missing) \\| (.*?) \\|").FindAllStringSubmatch(string(text), -1)
		said := make(map[string]string)
		for _, row := range rows {
			for _, call := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[2], -1) {
				if said[call[1]] != "" {
					t.Errorf("%s.%s is there twice", name, call[1])
				}
				said[call[1]] = row[1]
			}
		}
		for call := range tt.theirs {
			switch verdict := said[call]; {
			case verdict == "":
				t.Errorf("%s.%s is not there", name, call)
			case (verdict == "missing") == tt.ours[call] && name != "Config":
				t.Errorf("%s.%s is documented as %s", name, call, verdict)
			}
		}
		for call := range said {
			if !tt.theirs[call] {
				t.Errorf("quic-go has no %s.%s", name, call)
			}
		}
		if len(rows) == 0 {
			t.Errorf("no row for %s", name)
		}
	}
}
