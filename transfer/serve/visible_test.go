package serve

import (
	"bytes"
	"context"
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
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// hiddenNames are the names in the tree of newHidingServer that must not be served.
var hiddenNames = []string{
	".kwikcp-abc.part", "sub/.kwikcp-0-x.new", ".kwikcp-dir.part/inner", ".kwikcp-dir.part", ".KWIKCP-UPPER.PART",
	"private", "private/secret", "private/deep/er", "note.bak", "sub/note.bak",
	"tosecret", "toprivate", "toprivate/secret", "sub/up/secret", "sub/up", "chain", "tobackup",
	"state", "state/server.key", "keyhard", "keylink",
}

// visibleNames are all others. dangling is what a link to a hidden name looks like.
var visibleNames = []string{"file", "sub", "sub/file", "privateer", "hop"}

// openHidingTree makes a tree with every kind of hidden name. The server must exclude with
// excludes.
func openHidingTree(t *testing.T) (tree disk.TreeDir, root string) {
	t.Helper()
	root = t.TempDir()
	for _, dir := range []string{"sub", "private/deep", ".kwikcp-dir.part", "state"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"file", "sub/file", "privateer", ".kwikcp-abc.part", "sub/.kwikcp-0-x.new", ".kwikcp-dir.part/inner",
		".KWIKCP-UPPER.PART", "private/secret", "private/deep/er", "note.bak", "sub/note.bak", "state/server.key",
	} {
		transfertest.Put(t, filepath.Join(root, name), "the content of a file")
	}
	for link, to := range map[string]string{
		"tosecret": "private/secret", "toprivate": "private", "sub/up": "../private", "chain": "hop/up/secret",
		"hop":      "sub",
		"tobackup": "sub/note.bak", "keylink": "state/server.key",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "state/server.key"), filepath.Join(root, "keyhard")); err != nil {
		t.Fatal(err)
	}
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	secrets := disk.NewSecrets()
	secrets.AddDir(filepath.Join(root, "state"), nil)
	if tree, err = secrets.Hide(tree); err != nil {
		t.Fatal(err)
	}
	return tree, root
}

func excludes(path string, isDir bool) bool {
	return isDir && path == "private" || strings.HasSuffix(path, ".bak")
}

func newHidingServer(t *testing.T) (*Server, string) {
	t.Helper()
	tree, root := openHidingTree(t)
	s := NewServer(source.Local(tree), slog.New(slog.DiscardHandler))
	s.Exclude(excludes)
	t.Cleanup(s.Close)
	return s, root
}

// TestAttackHiddenNames requests every hidden name in every way. The answers are those for a
// missing file.
func TestAttackHiddenNames(t *testing.T) {
	tree, _ := openHidingTree(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := NewServer(source.Local(tree), w.Logger())
		s.Exclude(excludes)
		w.Serve(s)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		ask := func(r *transferpb.Request) []*transferpb.Reply {
			var b bytes.Buffer
			r.Version = wire.ProtocolVersion
			wire.WriteMessage(&b, r)
			replies, err := w.Ask(c, b.Bytes(), true)
			if err != nil {
				w.T.Fatal(err)
			}
			return replies
		}
		requests := map[string]func(path string) *transferpb.Request{
			"file": func(p string) *transferpb.Request { return &transferpb.Request{Path: []byte(p)} },
			"range": func(p string) *transferpb.Request {
				return &transferpb.Request{Path: []byte(p), Range: (wire.ByteRange{Last: 1}).Message()}
			},
			"batch": func(p string) *transferpb.Request {
				return &transferpb.Request{Batch: &transferpb.BatchRequest{Paths: wire.AppendPath(nil, "", p)}}
			},
			"listing": func(p string) *transferpb.Request {
				return &transferpb.Request{Path: []byte(p), List: &transferpb.ListRequest{}}
			},
		}
		for way, request := range requests {
			missing := ask(request("missing"))
			for _, name := range hiddenNames {
				replies := ask(request(name))
				if !slices.EqualFunc(replies, missing, func(a, b *transferpb.Reply) bool { return proto.Equal(a, b) }) {
					w.T.Errorf("%s %q: %v, want %v", way, name, replies, missing)
				}
			}
			if replies := ask(request("file")); proto.Equal(replies[0], missing[0]) {
				w.T.Errorf("%s of a visible file: %v", way, replies)
			}
		}
		var listed []string
		for _, r := range ask(&transferpb.Request{List: &transferpb.ListRequest{}}) {
			for _, e := range r.GetListing().GetEntries() {
				listed = append(listed, string(e.GetPath()))
			}
		}
		links := []string{"chain", "sub/up", "tobackup", "toprivate", "tosecret"} // dangling, for a client
		want := append(slices.Clone(visibleNames), links...)
		slices.SortFunc(want, wire.CompareTree)
		if !slices.Equal(listed, want) {
			w.T.Errorf("the listing has %q, want %q", listed, want)
		}
	})
}

// TestAttackHiddenContent requests content by descriptors that a hostile primary could have made.
func TestAttackHiddenContent(t *testing.T) {
	s, root := newHidingServer(t)
	content, err := os.ReadFile(filepath.Join(root, "file"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(slices.Clone(hiddenNames), "missing") {
		if c, err := s.OpenContent(t.Context(), wanted(name, content)); err != errNoContent {
			t.Errorf("%q: %v, %v", name, c, err)
		}
		tree := transfertest.TreeOf(content)
		treeRoot := tree.Root()
		file := wire.BatchFile{Path: name, Size: int64(len(content)), Root: [wire.RootPrefix]byte(treeRoot[:])}
		d, err := proto.Marshal(&transferpb.FileDescriptor{
			Batch: &transferpb.BatchDescriptor{Files: wire.AppendFile(nil, wire.BatchFile{}, file)},
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.OpenContent(t.Context(), kwik.ContentRequest{Descriptor: d, Size: int64(len(content))})
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if n, err := c.ReadAt(make([]byte, len(content)), 0); n > 0 || err == nil {
			t.Errorf("%q in a batch: read %d bytes, %v", name, n, err)
		}
		c.Close()
	}
	c, err := s.OpenContent(t.Context(), wanted("sub/file", content))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestAttackHashOracle checks that a file that is hidden after it was hashed answers no question
// about its content.
func TestAttackHashOracle(t *testing.T) {
	root := t.TempDir()
	content := bytes.Repeat([]byte("secret "), 20_000)
	transfertest.Put(t, filepath.Join(root, "token"), string(content))
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	secrets := disk.NewSecrets()
	hiding, err := secrets.Hide(tree)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(source.Local(hiding), slog.New(slog.DiscardHandler))
	defer s.Close()
	hashed(t, s, "token")
	guess := make([]byte, integrity.DefaultGroupSize.Bytes())
	descriptor := wanted("token", content).Descriptor
	if err := s.Verify(context.Background(), descriptor, 0, guess); err == nil {
		t.Fatal("wrong bytes of a visible file are verified")
	}
	secrets.AddFile(filepath.Join(root, "token"))
	if err := s.Verify(context.Background(), descriptor, 0, guess); err != nil {
		t.Errorf("Verify tells of a hidden file: %v", err)
	}
	if _, err := s.dir.Stat(t.Context(), "token"); !os.IsNotExist(err) {
		t.Errorf("the store's sweep would keep the record: %v", err)
	}
}

// FuzzResolve checks that no link leads to an excluded file: what opens is never one.
func FuzzResolve(f *testing.F) {
	f.Add("a", "private/secret", "a")
	f.Add("a", "./sub/../private", "a/secret")
	f.Add("sub/l", "../a/../private", "sub/l/secret")
	f.Add("a", "b/..", "a/private/secret")
	f.Fuzz(func(t *testing.T, link, target, name string) {
		if wire.CheckPath(name) != nil || wire.CheckPath(link) != nil {
			t.Skip()
		}
		root := t.TempDir()
		for _, dir := range []string{"sub", "private"} {
			os.Mkdir(filepath.Join(root, dir), 0o755)
		}
		transfertest.Put(t, filepath.Join(root, "private/secret"), "secret")
		transfertest.Put(t, filepath.Join(root, "sub/file"), "content")
		os.Symlink(target, filepath.Join(root, filepath.FromSlash(link)))
		tree, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		visible := newVisible(source.Local(tree), &visibility{excluded: excludes})
		secret, err := tree.Lstat("private/secret")
		if err != nil {
			t.Skip()
		}
		if f, err := visible.Open(t.Context(), name); err == nil {
			defer f.Close()
			if info, err := f.Stat(); err != nil || os.SameFile(info, secret) {
				t.Fatalf("%q opens the excluded file (%v)", name, err)
			}
			if _, err := visible.Stat(t.Context(), name); err != nil {
				t.Fatalf("%q opens, but Stat gives %v", name, err)
			}
		}
		if at, err := visible.At(t.Context(), disk.Parent(name)); err == nil {
			defer at.Close()
			f, err := at.Open(t.Context(), disk.Base(name))
			if err == nil {
				defer f.Close()
				if info, err := f.Stat(); err != nil || os.SameFile(info, secret) {
					t.Fatalf("%q opens the excluded file from its directory (%v)", name, err)
				}
			}
		}
	})
}
