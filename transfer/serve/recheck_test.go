package serve

import (
	"bytes"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestRecheck checks that after a client's report a tree is dropped, in memory and in the store, if
// the server's own file differs from it. Otherwise nothing changes.
func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, state := t.TempDir(), filepath.Join(t.TempDir(), "trees.db")
		const size = 2 << 20
		content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		path := filepath.Join(root, "f")
		write := func() {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write()
		tree, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		log := &transfertest.LogBuffer{}
		var s *Server
		var store *TreeStore
		start := func() {
			s = NewServer(source.Local(transfertest.MappedDir{TreeDir: tree}), slog.New(slog.NewTextHandler(log, nil)))
			if store, err = OpenTreeStore(state); err != nil {
				t.Fatal(err)
			}
			s.KeepTrees(store)
			synctest.Wait()
		}
		stop := func() {
			s.Close()
			store.Close()
		}
		rootOf := func() [32]byte {
			info, err := s.dir.Stat(t.Context(), "f")
			if err != nil {
				t.Fatal(err)
			}
			tree, err := s.hash(t.Context(), client{}, "f", disk.VersionOf(info))
			if err != nil {
				t.Fatal(err)
			}
			return tree.Root()
		}
		descriptor, _ := proto.Marshal(&transferpb.FileDescriptor{Path: []byte("f"), Size: size})
		start()
		first := rootOf()
		for range 2 * maxRechecks { // a client that lies
			s.Recheck(descriptor, size, 0, size)
		}
		s.Recheck([]byte("garbage"), size, 0, size)
		synctest.Wait()
		if store.Len() != 1 || log.String() != "" {
			t.Errorf("a lie dropped a tree: %s", log.String())
		}
		content[size-1]++
		write()
		s.Recheck(descriptor, size, 0, 64<<10) // the other bytes are right
		synctest.Wait()
		if rootOf() != first {
			t.Error("a tree was dropped without a difference in the part")
		}
		stop()
		start() // the tree is in the store now, and not in memory
		if store.Len() != 1 {
			t.Fatal("the tree was not stored")
		}
		s.Recheck(descriptor, size, size-64<<10, size)
		synctest.Wait()
		if store.Len() != 0 {
			t.Error("the wrong tree is still stored")
		}
		second := rootOf()
		if second == first || store.Len() != 1 {
			t.Error("the file was not hashed again")
		}
		content[0]++
		write()
		s.Recheck(descriptor, size, 0, 64<<10)
		synctest.Wait()
		if third := rootOf(); third == second {
			t.Error("a wrong tree was not dropped from memory")
		}
		stop()
		start()
		content[0]--
		write()
		if rootOf() == second {
			t.Error("the store had an old tree")
		}
		stop()
	})
}

// TestPartsOfBatch checks to which files the bytes of a batch belong.
func TestPartsOfBatch(t *testing.T) {
	var raw []byte
	var last wire.BatchFile
	for i, size := range []int64{10, 20, 30} {
		f := wire.BatchFile{Path: fmt.Sprint(i), Size: size}
		raw, last = wire.AppendFile(raw, last, f), f
	}
	descriptor, _ := proto.Marshal(&transferpb.FileDescriptor{
		Path: []byte("d"), Batch: &transferpb.BatchDescriptor{Files: raw},
	})
	got := fmt.Sprint(partsOf(descriptor, 60, 5, 35))
	if want := "[{d/0 5 10} {d/1 0 20} {d/2 0 5}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
