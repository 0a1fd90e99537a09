package disk

import (
	"runtime"
	"slices"
	"testing"
)

func TestAnnounce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no abstract sockets")
	}
	name := t.TempDir() // no other test has it
	isAnnounced := func(name string) bool { return slices.Contains(Announced(name), name) }
	if isAnnounced(name) {
		t.Error("a name is announced that nothing has announced")
	}
	c, err := Announce(name)
	if err != nil {
		t.Fatal(err)
	}
	if !isAnnounced(name) || isAnnounced(name+"x") || len(Announced(name[:len(name)-1])) == 0 {
		t.Error("not the announced name is announced")
	}
	if _, err := Announce(name); err == nil {
		t.Error("a name is announced twice")
	}
	c.Close()
	if isAnnounced(name) {
		t.Error("a name is still announced after its end")
	}
}
