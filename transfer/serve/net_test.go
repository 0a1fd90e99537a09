package serve

import (
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"log/slog"
	"testing"
	"time"
)

// serveOn starts a server of a directory in a simulated network.
func serveOn(n *transfertest.Net, dir disk.Dir) *Server {
	n.T.Helper()
	s := NewServer(dir, slog.New(slog.NewTextHandler(&n.Log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l := n.Start(&kwik.ServerConfig{OpenContent: s.OpenContent})
	n.Go(func() {
		s.Serve(n.Ctx, l)
		s.Close()
	})
	return s
}

// servedTree opens transfertest.TreeWithTraps.
func servedTree(t *testing.T) (root string, d disk.Dir) {
	t.Helper()
	root = transfertest.TreeWithTraps(t)
	d, err := disk.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return root, d
}

// A slowDir is a Dir whose files take a while to read.
type slowDir struct {
	disk.Dir
	delay time.Duration
}

func (d slowDir) Open(name string) (disk.File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return lazyFile{f, d.delay}, nil
}

type lazyFile struct {
	disk.File
	delay time.Duration
}

func (f lazyFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(f.delay)
	return f.File.ReadAt(p, off)
}
