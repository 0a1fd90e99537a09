package serve

import (
	"bytes"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestChallengeFindsDamage challenges a secondary for bytes of a copy that lost a bit, whose times
// are those of the primary's file. The copy was hashed before or not, alone or in a batch, tiny or
// not. The secondary does not show the bytes, is excused, and knows the file for its mirror.
func TestChallengeFindsDamage(t *testing.T) {
	for _, size := range []int{5000, 2 << 20} {
		for _, wasHashed := range []bool{false, true} {
			for _, isBatch := range []bool{false, true} {
				challengeDamaged(t, size, wasHashed, isBatch)
			}
		}
	}
}

func challengeDamaged(t *testing.T, size int, wasHashed, isBatch bool) {
	root := t.TempDir()
	content := bytes.Repeat([]byte{7}, size)
	path := filepath.Join(root, "f")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s := NewServer(source.Local(transfertest.MappedDir{TreeDir: dir}), slog.New(slog.DiscardHandler))
	defer s.Close()
	info, err := s.dir.Stat(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	tree := transfertest.TreeOf(content)
	r := kwik.ContentRequest{Size: int64(size), Descriptor: describe(t, tree, info.ModTime(), isBatch)}
	read := func() error { // as kwik answers a challenge
		c, err := s.OpenContent(t.Context(), r)
		if err != nil {
			return err
		}
		defer c.Close()
		if partial, ok := c.(kwik.PartialContent); ok && len(partial.Missing()) > 0 {
			return &partial.Missing()[0]
		}
		start := int64(size-1) / (64 << 10) * (64 << 10)
		p := make([]byte, int64(size)-start)
		_, err = c.ReadAt(p, start)
		return err
	}
	if wasHashed {
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	content[size-1]++
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := read(); err == nil {
			t.Errorf("size %d, hashed %t, batch %t: wrong bytes were shown", size, wasHashed, isBatch)
		}
		if !slices.Equal(s.Suspects(), []string{"f"}) {
			t.Errorf("size %d, hashed %t, batch %t: suspects are %q", size, wasHashed, isBatch, s.Suspects())
		}
	}
	content[size-1]--
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Trust("f")
	if err := read(); err != nil {
		t.Errorf("size %d, hashed %t, batch %t: after it was fetched: %v", size, wasHashed, isBatch, err)
	}
}

// TestChallengeNamesTheRoot challenges a secondary with a descriptor of the time before the primary
// had hashed its file. The challenge names the root, but not that of another version of the file.
func TestChallengeNamesTheRoot(t *testing.T) {
	content := bytes.Repeat([]byte{7}, 200_000)
	mtime := time.Unix(1e9, 5)
	serverOf := func(content []byte) *Server {
		root := t.TempDir()
		path := filepath.Join(root, "f")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dir.Close() })
		s := NewServer(source.Local(dir), slog.New(slog.DiscardHandler))
		t.Cleanup(s.Close)
		return s
	}
	descriptorOf := func(mtime time.Time) []byte {
		b, err := proto.Marshal(&transferpb.FileDescriptor{
			Path: []byte("f"), Size: uint64(len(content)), MtimeNs: mtime.UnixNano(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	primary := serverOf(content)
	early := descriptorOf(mtime)
	if got := primary.ChallengeDescriptor(early); !bytes.Equal(got, early) {
		t.Errorf("before the file is hashed: %q", got)
	}
	info, err := primary.dir.Stat(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	claim := primary.claim(clientOf(nil), "f", disk.VersionOf(info))
	<-claim.done
	claim.release()
	tree := transfertest.TreeOf(content)
	full, batch := describe(t, tree, mtime, false), describe(t, tree, mtime, true)
	other := descriptorOf(mtime.Add(1))
	for _, c := range []struct{ descriptor, want []byte }{
		{early, full}, {full, full}, {batch, batch}, {other, other}, {[]byte("garbage"), []byte("garbage")}, {nil, nil},
	} {
		if got := primary.ChallengeDescriptor(c.descriptor); !bytes.Equal(got, c.want) {
			t.Errorf("descriptor %q became %q, not %q", c.descriptor, got, c.want)
		}
	}

	rotten := slices.Clone(content)
	rotten[100_000]++
	secondary := serverOf(rotten)
	r := kwik.ContentRequest{Size: int64(len(content)), Descriptor: primary.ChallengeDescriptor(early)}
	if c, err := secondary.OpenContent(t.Context(), r); err == nil {
		c.Close()
		t.Error("the damaged copy is opened")
	}
	if got := secondary.Suspects(); !slices.Equal(got, []string{"f"}) {
		t.Errorf("suspects are %q", got)
	}
}

// describe returns the descriptor of the file "f".
func describe(t *testing.T, tree *integrity.Tree, mtime time.Time, isBatch bool) []byte {
	root := tree.Root()
	d := &transferpb.FileDescriptor{
		Path: []byte("f"), Size: uint64(tree.Size()), Root: root[:], MtimeNs: mtime.UnixNano(),
	}
	if isBatch {
		raw := wire.AppendFile(nil, wire.BatchFile{}, wire.BatchFile{
			Path: "f", Size: tree.Size(), MTime: mtime.UnixNano(), Root: [wire.RootPrefix]byte(root[:]),
		})
		d = &transferpb.FileDescriptor{Batch: &transferpb.BatchDescriptor{Files: raw}}
	}
	b, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
