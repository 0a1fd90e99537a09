package transfer

import (
	"bytes"
	"context"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"
)

// A testNet is a network with one server and clients that call Get.
type testNet struct{ *transfertest.Net }

func onWire(t *testing.T, f func(w *testNet)) {
	t.Helper()
	transfertest.OnNet(t, func(n *transfertest.Net) { f(&testNet{n}) })
}

// serverFile is the URL of the file "file" on the server of a testNet.
var serverFile = URL{Host: transfertest.ServerAddr.String(), Path: "file"}

// serve starts our server of a directory.
func (w *testNet) serve(dir disk.TreeDir) *serve.Server {
	w.T.Helper()
	s := serve.NewServer(source.Local(dir), w.Logger())
	w.Serve(s)
	return s
}

// serveFiles starts our server of a directory with these files, all of which it has hashed.
func (w *testNet) serveFiles(files map[string][]byte) {
	w.T.Helper()
	root := w.T.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o600); err != nil {
			w.T.Fatal(err)
		}
	}
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { dir.Close() })
	w.serve(dir)
	for name := range files {
		w.get(func(o *GetOptions) { o.URL.Path = name })
	}
}

// A peer is a hostile server's view of one request.
type peer struct{ *transfertest.Peer }

// A script is what a hostile server does with a request.
type script func(p *peer)

// hostile starts a server that answers the first request of each session with a script, and
// serves content from open.
func (w *testNet) hostile(open kwik.OpenContentFunc, act script) {
	w.T.Helper()
	w.Hostile(open, func(p *transfertest.Peer) { act(&peer{p}) })
}

// get fetches "file" in order. It returns the bytes received and the time it took.
func (w *testNet) get(change ...func(*GetOptions)) (got []byte, took time.Duration, err error) {
	return w.getContext(w.Ctx, change...)
}

// getWhole is Get, and fails the test unless afterwards the target is what it was, or the whole
// file: only that after a success. Tests of Get call it, whatever else they check.
func getWhole(t *testing.T, ctx context.Context, o GetOptions, report Reporter) (Result, error) {
	t.Helper()
	before, absent := os.ReadFile(o.Target)
	r, err := Get(ctx, o, report)
	if o.Output != nil {
		return r, err
	}
	after, gone := os.ReadFile(o.Target)
	isNew := gone == nil && r.Root == blake3.Sum256(after)
	if o.Range != nil {
		isNew = gone == nil && int64(len(after)) == r.Bytes
	}
	isOld := (absent == nil) == (gone == nil) && bytes.Equal(before, after)
	if !isNew && (err == nil || !isOld) {
		t.Errorf("after %v the target has %d bytes (%v), before it had %d (%v)", err, len(after), gone, len(before),
			absent)
	}
	return r, err
}

func (w *testNet) getContext(
	ctx context.Context, change ...func(*GetOptions),
) (got []byte, took time.Duration, err error) {
	var out bytes.Buffer
	o := GetOptions{URL: serverFile, TLS: w.TLS(), Output: &out, KWIK: w.Client()}
	for _, f := range change {
		f(&o)
	}
	start := time.Now()
	_, err = getWhole(w.T, ctx, o, nil)
	return out.Bytes(), time.Since(start), err
}
