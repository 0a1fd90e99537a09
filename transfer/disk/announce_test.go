package disk

import (
	"runtime"
	"testing"
)

func TestAnnounce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no abstract sockets")
	}
	name := t.TempDir() // no other test has it
	if IsAnnounced(name) {
		t.Error("a name is announced that nothing has announced")
	}
	c, err := Announce(name)
	if err != nil {
		t.Fatal(err)
	}
	if !IsAnnounced(name) || IsAnnounced(name+"x") {
		t.Error("not the announced name is announced")
	}
	if _, err := Announce(name); err == nil {
		t.Error("a name is announced twice")
	}
	c.Close()
	if IsAnnounced(name) {
		t.Error("a name is still announced after its end")
	}
}
