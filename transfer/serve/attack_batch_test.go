package serve

import (
	"kwikcp/internal/procs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestAttackRepeatedNames requests batches that name one file 2,048 times, or in another wrong
// order. No file is opened for them.
func TestAttackRepeatedNames(t *testing.T) {
	root := t.TempDir()
	names := manyNames(t, root, tinyFile-1, wire.MaxBatchFiles)
	repeated := slices.Repeat(names[:1], len(names))
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	lastTwice := append(slices.Clone(names[:len(names)-1]), names[len(names)-2])
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 0)
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		for i, paths := range [][]string{repeated, reversed, lastTwice, {"a", "a/b", "a"}, {"a.b", "a/b"}} {
			replies, err := w.Ask(c, batchOf(paths...), true)
			if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
				w.T.Errorf("batch %d: %v", i, f)
			}
		}
		if d.opened != 0 {
			w.T.Errorf("%d files were opened", d.opened)
		}
	})
}

// TestAttackBatchOfOneFile requests a batch of 2,048 names of one file of 1 MiB less a byte. The
// server hashes one file.
func TestAttackBatchOfOneFile(t *testing.T) {
	root := t.TempDir()
	names := manyNames(t, root, tinyFile-1, wire.MaxBatchFiles)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 0)
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		replies, err := w.Ask(c, batchOf(names...), true)
		manifests := 0
		for _, r := range replies {
			if r.GetBatchFile().GetManifest() != nil {
				manifests++
			}
		}
		if err != nil || manifests != len(names) {
			w.T.Errorf("%d manifests, %v", manifests, err)
		}
		if n := d.readOf(""); n != tinyFile-1 {
			w.T.Errorf("%d bytes were hashed", n)
		}
	})
}

// TestAttackManyBatches keeps batches of 2,048 files under way in 20 sessions, whose files cannot
// be opened yet. The server holds few descriptors and little memory for them, and an honest client
// still gets its batch.
func TestAttackManyBatches(t *testing.T) {
	const sessions = 20
	batches := 20
	if isLong() {
		batches = 98 // a session may have 100 streams
	}
	root := t.TempDir()
	names := manyNames(t, root, tinyFile-1, wire.MaxBatchFiles)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := meter(t, root, 0)
		d.gate = make(chan struct{})
		serveOn(w, d)
		var all []*kwik.ClientSession
		raw := batchOf(names...)
		before := heap()
		for range sessions {
			c := w.Dial()
			all = append(all, c)
			for range batches {
				ask(w, c, raw)
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		used := heap() - before
		d.mu.Lock()
		open := d.open
		d.mu.Unlock()
		w.T.Logf("%d descriptors, %d MiB of heap with clients and network", open, used>>20)
		if open > procs.Max {
			w.T.Errorf("%d files are open", open)
		}
		if used > 64<<20 {
			w.T.Errorf("the heap grew by %d bytes", used)
		}
		close(d.gate)
		for _, c := range all {
			c.CloseWithError(0, "")
		}
		c := w.Dial()
		defer c.CloseWithError(0, "")
		replies, err := w.Ask(c, batchOf(names[:10]...), true)
		if err != nil || len(replies) < 11 {
			w.T.Errorf("the honest client: %d replies, %v", len(replies), err)
		}
	})
}

// heap returns the memory of the live objects, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestAttackBatchesOfOneSession keeps many batches under way in one session. The batch of another
// client is answered as if there were one.
func TestAttackBatchesOfOneSession(t *testing.T) {
	root := t.TempDir()
	hostile := make([]string, 0, 400)
	for i := range 400 {
		name := "hostile" + strconv.Itoa(1000+i)
		sparse(t, filepath.Join(root, name), 1000)
		hostile = append(hostile, name)
	}
	var honest []string
	for i := range 20 {
		honest = append(honest, "honest"+strconv.Itoa(1000+i))
		sparse(t, filepath.Join(root, honest[i]), 1000)
	}
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, meter(t, root, 10*time.Millisecond))
		timed := func() time.Duration {
			c := w.Dial()
			defer c.CloseWithError(0, "")
			start := time.Now()
			replies, err := w.Ask(c, batchOf(honest...), true)
			if err != nil || len(replies) != len(honest)+1 || !strings.Contains(replies[0].String(), "manifest") {
				w.T.Errorf("%d replies, %v", len(replies), err)
			}
			return time.Since(start)
		}
		alone := timed()
		c := w.Dial()
		defer c.CloseWithError(0, "")
		for range 90 {
			ask(w, c, batchOf(hostile...))
		}
		time.Sleep(100 * time.Millisecond)
		if took := timed(); took > 3*alone {
			w.T.Errorf("the honest batch took %v, alone %v", took, alone)
		}
	})
}

// TestBatchContentsShareOpenFiles reads many contents of batches at the same time. The open files
// stay bounded, and those of closed contents are closed.
func TestBatchContentsShareOpenFiles(t *testing.T) {
	root := t.TempDir()
	names := manyNames(t, root, 1000, 300)
	d := meter(t, root, 0)
	s := NewServer(source.Local(d), slog.New(slog.DiscardHandler))
	defer s.Close()
	var contents []*batchContent
	for range 3 * maxOpenFiles / 10 {
		c := &batchContent{server: s}
		for i, name := range names {
			info, err := d.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			c.files = append(c.files, wire.BatchFile{Path: name, Size: 1000, Start: int64(i) * 1000})
			c.versions = append(c.versions, disk.VersionOf(info))
		}
		contents = append(contents, c)
	}
	var done []chan error
	for _, c := range contents {
		ended := make(chan error, 1)
		done = append(done, ended)
		go func() {
			p := make([]byte, 2500)
			for off := int64(0); off+2500 <= 300_000; off += 2500 {
				if _, err := c.ReadAt(p, off); err != nil {
					ended <- err
					return
				}
			}
			ended <- c.Close()
		}()
	}
	for _, ended := range done {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if d.open != 0 || d.mostOpen > maxOpenFiles || s.opened.count != 0 {
		t.Errorf("%d files are open, %d were", d.open, d.mostOpen)
	}
}
