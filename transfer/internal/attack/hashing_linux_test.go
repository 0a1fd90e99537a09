package attack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A client requests one cold file under many names, and leaves. A cold file that an honest client
// requests then is hashed at once.
func TestAttackHashingUnderManyNames(t *testing.T) {
	s := newServer(t)
	s.fill("honest", 32<<20)
	big := filepath.Join(s.root, "big")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, int64(scale(40, 400))<<30); err != nil { // sparse; takes minutes to hash
		t.Fatal(err)
	}
	name := ""
	for range 12 {
		name += "self/"
	}
	if err := os.Symlink(".", filepath.Join(s.root, "self")); err != nil {
		t.Fatal(err)
	}
	s.start("")
	h := newHost(t, "127.0.3.1")
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		if _, err := c.request(&transferpb.Request{Path: []byte(name[:5*i] + "big")}); err != nil {
			t.Fatal(err)
		}
	}
	stop := s.watch("one cold file under 12 names", time.Second)
	time.Sleep(time.Second) // of hashing
	beside := s.mustGet("honest")
	c.conn.CloseWithError(0, "")
	after := s.mustGet("honest")
	time.Sleep(2 * time.Second) // the server notices that the client is gone
	u := s.usage()
	time.Sleep(time.Second)
	idle := s.usage().cpu - u.cpu
	stop()
	t.Logf("an honest cold file takes %.2f s beside them, %.2f s after them", beside.Seconds(), after.Seconds())
	t.Logf("then the server uses %.0f %% of a core", idle.Seconds()*100)
	if limit := 10 * time.Second; beside > limit {
		t.Errorf("an honest cold file took %v", beside)
	}
	if idle > 500*time.Millisecond {
		t.Errorf("the server hashes without a client: %v of processor time in a second", idle)
	}
}

// Sessions request a batch that names one file as often as a batch may have names. The server
// refuses it: paths ascend and are distinct.
func TestAttackBatchOfOneFile(t *testing.T) {
	s := newServer(t)
	s.fill("x", 1<<20-1)
	s.start("")
	s.mustGet("x")
	before := s.usage()
	var paths []byte
	last := ""
	for range wire.MaxBatchFiles {
		paths = wire.AppendPath(paths, last, "x")
		last = "x"
	}
	answered := crowd(t, s, 20, 10, keptAlive(), func(c *client) error {
		stream, err := c.request(&transferpb.Request{Batch: &transferpb.BatchRequest{Paths: paths}})
		if err != nil {
			return err
		}
		stream.SetReadDeadline(time.Now().Add(patience))
		_, err = io.Copy(io.Discard, stream)
		return err
	})
	u := s.usage()
	t.Logf("%d of 20 batches of one file %d times: %v; CPU %v", answered, wire.MaxBatchFiles, u, u.cpu-before.cpu)
	if spent := u.cpu - before.cpu; spent > time.Second {
		t.Errorf("20 requests of %d bytes cost %v of processor time", len(paths), spent)
	}
	if u.descriptors > 256 || u.peak > before.peak+64<<20 {
		t.Errorf("the server used %d descriptors and %d MiB more", u.descriptors, (u.peak-before.peak)>>20)
	}
}

// A client requests the entries of a large directory one by one. Each page costs the server little,
// and an honest client does not wait.
func TestAttackListingsOfOneEntry(t *testing.T) {
	s := newServer(t)
	entries := scale(30_000, 300_000)
	for i := range entries {
		if err := os.Symlink("x", filepath.Join(s.root, fmt.Sprintf("%08d", i))); err != nil {
			t.Fatal(err)
		}
	}
	s.fill("x", 1000)
	s.start("")
	s.mustGet("x")
	time.Sleep(3 * time.Second) // the names of a directory that has just changed are not kept
	before := s.usage()
	const pages = 80
	answered := crowd(t, s, 8, 8, keptAlive(), func(c *client) error {
		for i := range pages / 8 {
			list := &transferpb.ListRequest{Limit: 1, After: fmt.Appendf(nil, "%08d", i*1000), Flat: true}
			stream, err := c.request(&transferpb.Request{List: list})
			if err != nil {
				return err
			}
			stream.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, stream); err != nil {
				return err
			}
		}
		return nil
	})
	u := s.usage()
	each := (u.cpu - before.cpu) / pages
	t.Logf("%d pages of one entry of %d for %d of 8 clients: %v each; %v", pages, entries, answered, each, u)
	// One reading and sorting of the directory is to be shared by all pages.
	if limit := 20 * time.Millisecond; each > limit {
		t.Errorf("a page costs %v, more than %v", each, limit)
	}
}

// A client makes a server with a rate limit send trees. They count.
func TestAttackTreesUnderARateLimit(t *testing.T) {
	s := newServer(t)
	const size = 256 << 20
	if err := os.WriteFile(filepath.Join(s.root, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(s.root, "f"), size); err != nil {
		t.Fatal(err)
	}
	s.start("", "--limit-rate", "100K")
	h := newHost(t, "127.0.3.2")
	received := int64(0)
	start := time.Now()
	for time.Since(start) < 4*time.Second {
		c, err := h.dial(s.addr, keptAlive())
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			stream, err := c.request(&transferpb.Request{Path: []byte("f")})
			if err != nil {
				break
			}
			stream.SetReadDeadline(start.Add(4 * time.Second))
			n, err := io.Copy(io.Discard, stream)
			received += n
			if err != nil {
				break
			}
		}
		c.conn.CloseWithError(0, "")
	}
	rate := float64(received) / time.Since(start).Seconds()
	t.Logf("under --limit-rate 100K the server sends %.0f bytes of trees a second", rate)
	if rate > 2*100<<10 {
		t.Errorf("the server sends %.0f bytes a second", rate)
	}
}

// A client makes a server write log lines: by streams that it resets, by malformed requests, and by
// long paths of control characters.
func TestAttackLogFlood(t *testing.T) {
	s := newServer(t)
	s.start("")
	h := newHost(t, "127.0.3.3")
	c, err := h.dial(s.addr, keptAlive())
	if err != nil {
		t.Fatal(err)
	}
	path := bytes.Repeat([]byte{1}, 60<<10)
	requests := 0
	for start := time.Now(); time.Since(start) < 3*time.Second; requests++ {
		stream, err := c.conn.OpenStreamSync(t.Context())
		if err != nil {
			break
		}
		stream.SetWriteDeadline(time.Now().Add(time.Second))
		switch requests % 3 {
		case 0:
			stream.CancelWrite(0)
		case 1:
			stream.Write([]byte{3, 255, 255, 255})
			stream.Close()
		case 2:
			wire.WriteMessage(stream, &transferpb.Request{Version: 1, Path: path})
			stream.Close()
		}
		stream.CancelRead(0)
	}
	u := s.usage()
	text := s.log.String()
	lines := bytes.Count([]byte(text), []byte("\n"))
	longest := 0
	for line := range bytes.Lines([]byte(text)) {
		longest = max(longest, len(line))
	}
	t.Logf("%d requests: %d log lines, %d bytes, the longest of %d; %v", requests, lines, len(text), longest, u)
	if lines > 500 {
		t.Errorf("%d lines", lines)
	}
	if longest > 4<<10 {
		t.Errorf("a line of %d bytes", longest)
	}
}
