package serve

import (
	"bytes"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// isLong reports whether tests of attacks have their long form.
func isLong() bool { return os.Getenv("KWIKCP_ATTACK") == "long" }

// A meteredDir is a tree that counts what the server does with its files.
type meteredDir struct {
	disk.TreeDir
	delay time.Duration // of each read
	gate  chan struct{} // if not nil, each open waits until it is closed

	mu             sync.Mutex
	open, mostOpen int // files, and files being opened
	opened         int
	read           map[string]int64 // bytes, by name
}

// meter opens a tree whose reads take a time each.
func meter(t *testing.T, root string, delay time.Duration) *meteredDir {
	t.Helper()
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return &meteredDir{TreeDir: tree, delay: delay, read: make(map[string]int64)}
}

func (d *meteredDir) count(change int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open += change
	d.opened += max(change, 0)
	d.mostOpen = max(d.mostOpen, d.open)
}

func (d *meteredDir) Open(name string) (disk.File, error) {
	d.count(1)
	if d.gate != nil {
		<-d.gate
	}
	f, err := d.TreeDir.Open(name)
	if err != nil {
		d.count(-1)
		return nil, err
	}
	return &meteredFile{f, d, name}, nil
}

// readOf returns how many bytes of a file were read by a name, or by all if name is empty.
func (d *meteredDir) readOf(name string) (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for of, bytes := range d.read {
		if name == "" || of == name {
			n += bytes
		}
	}
	return n
}

type meteredFile struct {
	disk.File
	dir  *meteredDir
	name string
}

func (f *meteredFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(f.dir.delay)
	f.dir.mu.Lock()
	f.dir.read[f.name] += int64(len(p))
	f.dir.mu.Unlock()
	return f.File.ReadAt(p, off)
}

func (f *meteredFile) Close() error {
	f.dir.count(-1)
	return f.File.Close()
}

// sparse makes a file of zeros.
func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(transfertest.Put(t, path, ""), size); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request in a session and does not read the replies.
func ask(w *transfertest.Net, c *kwik.ClientSession, raw []byte) *kwik.Stream {
	w.T.Helper()
	stream, err := c.OpenStreamSync(w.Ctx)
	if err != nil {
		w.T.Fatal(err)
	}
	stream.Write(raw)
	stream.Close()
	return stream
}

// batchOf encodes a request for a batch.
func batchOf(paths ...string) []byte {
	var raw []byte
	before := ""
	for _, p := range paths {
		raw, before = wire.AppendPath(raw, before, p), p
	}
	var message bytes.Buffer
	wire.WriteMessage(&message, &transferpb.Request{
		Version: wire.ProtocolVersion, Batch: &transferpb.BatchRequest{Paths: raw},
	})
	return message.Bytes()
}

// manyNames makes a directory with a file of the given size under n names, in order.
func manyNames(t *testing.T, root string, size int64, n int) (names []string) {
	t.Helper()
	for i := range n {
		names = append(names, fmt.Sprintf("%08d", i))
		path := filepath.Join(root, names[i])
		if i == 0 {
			sparse(t, path, size)
		} else if err := os.Link(filepath.Join(root, names[0]), path); err != nil {
			t.Fatal(err)
		}
	}
	return names
}
