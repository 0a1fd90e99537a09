package attack

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// Somebody with write access to the served tree swaps a directory and a link out of the tree while
// clients request a file below it. Nothing outside the root is ever sent (reliability, row B2).
func TestAttackSwappedLinks(t *testing.T) {
	s := newServer(t)
	canary := []byte("the canary is outside the root")
	outside := filepath.Join(s.dir, "outside")
	inside, link := filepath.Join(s.root, "inside"), filepath.Join(s.root, "link")
	for _, dir := range []string{outside, inside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "f"), canary, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inside, "f"), []byte("right"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	s.start("")
	h := newHost(t, "127.0.5.1")
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	swaps := 0
	go func() { // until stop is closed; the test waits for it
		defer close(stopped)
		spare := filepath.Join(s.root, "spare")
		for ; ; swaps++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(inside, spare)
			os.Rename(link, inside)
			os.Rename(inside, link)
			os.Rename(spare, inside)
		}
	}()
	found := 0
	requests := scale(300, 20_000)
	for range requests {
		stream, err := c.request(&transferpb.Request{Path: []byte("inside/f"), HeadStart: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		stream.SetReadDeadline(time.Now().Add(patience))
		reply, err := io.ReadAll(stream)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(reply, canary) {
			t.Fatal("the server sent bytes from outside the root")
		}
		if !bytes.Contains(reply, []byte("no such file")) {
			found++
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d requests during %d swaps: %d found the right file", requests, swaps, found)
	if out := s.get("inside/f"); out.code != 0 {
		t.Errorf("after the attack: %+v", out)
	}
}

// A served file is truncated, and replaced, while it is read. The server goes on (reliability, rows
// E12 and E13).
func TestAttackTruncatedFile(t *testing.T) {
	s := newServer(t)
	s.fill("f", 8<<20)
	s.fill("other", 1<<20)
	s.start("")
	s.mustGet("f")
	get := s.startGet("f", t.TempDir())
	if err := os.Truncate(filepath.Join(s.root, "f"), 100); err != nil {
		t.Fatal(err)
	}
	if err := get.Wait(); get.ProcessState.ExitCode() != 10 {
		t.Errorf("a get of a file that was truncated ended with %v, not with exit code 10", err)
	}
	s.mustGet("other")
}

// The directory of a target is swapped for a link to another directory during a get. The file is
// not put there (reliability, row E2).
func TestAttackSwappedTargetDirectory(t *testing.T) {
	s := newServer(t)
	s.fill("f", 4<<20)
	s.start("")
	s.mustGet("f")
	target, victim := filepath.Join(s.dir, "target"), filepath.Join(s.dir, "victim")
	for _, dir := range []string{target, victim} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	get := s.startGet("f", target)
	moved := filepath.Join(s.dir, "moved")
	if err := os.Rename(target, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, target); err != nil {
		t.Fatal(err)
	}
	err := get.Wait()
	if entries, _ := os.ReadDir(victim); len(entries) > 0 {
		t.Errorf("the get made %v in another directory", entries)
	}
	_, missing := os.Stat(filepath.Join(moved, "f"))
	t.Logf("the get ended with %v; the file in the directory that was opened: %v", err, missing)
	if err == nil && missing != nil {
		t.Error("the get succeeded, and its file is nowhere")
	}
}
