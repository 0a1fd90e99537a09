package transfer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

const (
	badRequest = transferpb.Failure_BAD_REQUEST
	notFound   = transferpb.Failure_NOT_FOUND
)

// A liar is a hostile server of trees. All requests use one session, each a stream of it.
type liar struct {
	entries []*transferpb.Entry
	page    func(p *liarPeer) // instead of entries
	pack    func(p *liarPeer) // nil for an honest answer
	content []byte            // of every file, or rather
	truth   []byte            // the bytes that its tree describes; nil for content
}

type liarPeer struct {
	*liar
	session *kwik.ServerSession
	stream  *kwik.Stream
	request *transferpb.Request
}

func (p *liarPeer) reply(r *transferpb.Reply) { wire.WriteMessage(p.stream, r) }

func (p *liarPeer) listing(end transferpb.Listing_End, entries ...*transferpb.Entry) {
	listing := &transferpb.Listing{Entries: entries, End: end}
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Listing{Listing: listing}})
}

// file answers for one file of a batch.
func (p *liarPeer) file(change func(*transferpb.BatchFile)) {
	truth := p.truth
	if truth == nil {
		truth = p.content
	}
	tree, err := integrity.Build(context.Background(), bytes.NewReader(truth), int64(len(truth)),
		integrity.DefaultGroupSize, nil)
	if err != nil {
		panic(err)
	}
	root := tree.Root()
	f := &transferpb.BatchFile{File: &transferpb.BatchFile_Manifest{Manifest: &transferpb.Manifest{
		Size: uint64(tree.Size()), Root: root[:], Group: uint32(tree.GroupSize()), Mode: 0o7777,
	}}, ChainingValues: tree.CVs()}
	if change != nil {
		change(f)
	}
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_BatchFile{BatchFile: f}})
}

// end offers a stream of n files and ends the answer.
func (p *liarPeer) end(n, size int64) {
	segments := make([]int64, n)
	for i := range segments {
		segments[i] = size / n
	}
	descriptor, _ := proto.Marshal(&transferpb.FileDescriptor{Path: []byte("lies")})
	stream, err := p.session.OpenAggregateStream(kwik.AggregateStreamSpec{
		Size: size, Alignment: integrity.DefaultGroupSize.Bytes(), Segments: segments, Descriptor: descriptor,
	})
	if err != nil {
		return
	}
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{
		BatchEnd: &transferpb.BatchEnd{KwikStreamId: uint64(stream.StreamID())},
	}})
}

func (p *liarPeer) honest() {
	n := int64(0)
	for r := (wire.PathReader{Rest: p.request.GetBatch().GetPaths()}); r.More(); n++ {
		if _, err := r.Path(); err != nil {
			return
		}
		p.file(nil)
	}
	p.end(n, n*int64(len(p.content)))
}

// repeated is the content of many equal files.
type repeated []byte

func (c repeated) Close() error { return nil }
func (c repeated) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = c[(off+int64(i))%int64(len(c))]
	}
	return len(p), nil
}

// lies starts the server and mirrors its tree.
func (w *testNet) lies(l *liar, target string, change ...func(*MirrorOptions)) (MirrorResult, *mirrorReports, error) {
	if l.content == nil {
		l.content = []byte("content")
	}
	listener := w.Start(&kwik.ServerConfig{OpenContent: func(
		context.Context, kwik.ContentRequest,
	) (kwik.Content, error) {
		return repeated(l.content), nil
	}})
	w.Go(func() {
		session, err := listener.Accept(w.Ctx)
		if err != nil {
			return
		}
		for {
			stream, err := session.AcceptStream(w.Ctx)
			if err != nil {
				return
			}
			w.Go(func() {
				p := &liarPeer{liar: l, session: session, stream: stream, request: &transferpb.Request{}}
				if wire.ReadMessage(bufio.NewReader(stream), p.request) != nil {
					return
				}
				switch {
				case p.request.GetList() != nil && l.page != nil:
					l.page(p)
				case p.request.GetList() != nil:
					p.listing(transferpb.Listing_COMPLETE, l.entries...)
				case l.pack != nil:
					l.pack(p)
				default:
					p.honest()
				}
				stream.Close()
			})
		}
	})
	reports := &mirrorReports{}
	o := MirrorOptions{MirrorSource: MirrorSource{URL: URL{Host: transfertest.ServerAddr.String()}, TLS: w.TLS(),
		KWIK: w.Client()}, Target: target}
	for _, f := range change {
		f(&o)
	}
	result, err := Mirror(w.Ctx, o, reports)
	return result, reports, err
}

func fileEntry(p string) *transferpb.Entry {
	return &transferpb.Entry{Path: []byte(p), Type: transferpb.Entry_FILE, Size: 7}
}

func dirEntry(p string) *transferpb.Entry {
	return &transferpb.Entry{Path: []byte(p), Type: transferpb.Entry_DIRECTORY, Mode: 0o7777}
}

func linkEntry(p, to string) *transferpb.Entry {
	return &transferpb.Entry{Path: []byte(p), Type: transferpb.Entry_SYMLINK, Target: []byte(to)}
}

// TestMirrorHostileNames checks that no name and no link of a server leads outside the target.
// A bad entry fails alone.
func TestMirrorHostileNames(t *testing.T) {
	parent := t.TempDir()
	target := filepath.Join(parent, "a", "copy")
	os.MkdirAll(target, 0o755)
	outside := t.TempDir()
	os.Symlink(outside, filepath.Join(target, "mine")) // a link of the user's
	onWire(t, func(w *testNet) {
		entries := []*transferpb.Entry{
			fileEntry("\x00"), fileEntry("../../evil"), fileEntry("../evil"), dirEntry(".."), fileEntry("/etc/evil"),
			fileEntry("a/../../evil"), fileEntry("."),
			fileEntry(".kwikcp-00000000000000000000.part"), fileEntry(mirrorLock), linkEntry("abs", "/etc"),
			dirEntry("d"), linkEntry("d/up", "../.."), fileEntry("good"),
			linkEntry("in", "d"), dirEntry("mine"), fileEntry("mine/evil"), fileEntry(strings.Repeat("n", 256)),
			linkEntry("tricky", "in/../.."),
		}
		sortEntries(entries)
		result, reports, err := w.lies(&liar{entries: entries}, target)
		if err == nil || result.Fetched != 1 || result.Linked != 1 {
			t.Errorf("%+v, %v, %+v", result, err, reports.files)
		}
		for p, want := range map[string]FileAction{
			"../../evil": "", "/etc/evil": FileFailed, "..": FileFailed, "\x00": FileFailed, "a/../../evil": FileFailed,
			strings.Repeat("n", 256): FileFailed,
			mirrorLock:               FileSkipped, "abs": FileSkipped, "d/up": FileSkipped,
			"tricky": FileSkipped, "mine": FileFailed,
			"mine/evil": "", "good": FileFetched, "in": FileLinked,
		} {
			if got := reports.action(p); got != want {
				t.Errorf("%.20q: %q, want %q", p, got, want)
			}
		}
	})
	wantNames(t, outside)
	wantNames(t, parent, "a")
	wantNames(t, filepath.Join(parent, "a"), "copy")
	wantNames(t, target, "d", "good", "in", "mine")
	if info, err := os.Stat(filepath.Join(target, "good")); err != nil || info.Mode() != 0o777&^disk.Umask {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestMirrorOutsideLinks checks that a mirror with OutsideLinks makes links that lead outside, and
// writes and deletes nothing through them, whatever the server lists.
func TestMirrorOutsideLinks(t *testing.T) {
	target, outside := filepath.Join(t.TempDir(), "copy"), t.TempDir()
	transfertest.Put(t, filepath.Join(outside, "theirs"), "theirs")
	keep := func(o *MirrorOptions) { o.OutsideLinks, o.Delete = true, true }
	mirror := func(entries ...*transferpb.Entry) (result MirrorResult, reports *mirrorReports, err error) {
		onWire(t, func(w *testNet) { result, reports, err = w.lies(&liar{entries: entries}, target, keep) })
		return result, reports, err
	}
	result, reports, err := mirror(linkEntry("abs", outside), fileEntry("good"), linkEntry("none", ""),
		linkEntry("nul", "a\x00b"), linkEntry("up", "../x"))
	if err != nil || result.Linked != 2 || result.NotKept.OutsideLinks != 2 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	if to, err := os.Readlink(filepath.Join(target, "abs")); to != outside {
		t.Errorf("%q, %v", to, err)
	}
	if result, _, err := mirror(linkEntry("abs", outside), fileEntry("abs/evil")); err == nil {
		t.Errorf("an entry below a link: %+v", result)
	}
	result, reports, err = mirror(dirEntry("abs"), fileEntry("abs/good"), linkEntry("up", "../x"))
	if err != nil || result.Fetched+result.Copied != 1 { // its content was in "good"
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	wantNames(t, outside, "theirs")
	wantNames(t, target, "abs", "up")
	if info, err := os.Lstat(filepath.Join(target, "abs")); err != nil || !info.IsDir() {
		t.Errorf("the directory is %v, %v", info, err)
	}
}

func sortEntries(entries []*transferpb.Entry) {
	for i := range entries {
		for j := i; j > 0 && wire.CompareTree(string(entries[j].Path), string(entries[j-1].Path)) < 0; j-- {
			entries[j], entries[j-1] = entries[j-1], entries[j]
		}
	}
}

// TestMirrorHostileAnswers checks that an invalid response ends the mirror with an error. The
// mirror deletes no file and leaves no unverified one.
func TestMirrorHostileAnswers(t *testing.T) {
	one := []*transferpb.Entry{fileEntry("a")}
	manifest := func(change func(*transferpb.Manifest)) func(*liarPeer) {
		return func(p *liarPeer) {
			p.file(func(f *transferpb.BatchFile) { change(f.GetManifest()) })
			p.end(1, 7)
		}
	}
	for name, c := range map[string]struct {
		l    *liar
		kind Kind
	}{
		"twice":              {&liar{entries: []*transferpb.Entry{fileEntry("a"), fileEntry("a")}}, KindOther},
		"file and directory": {&liar{entries: []*transferpb.Entry{fileEntry("a"), dirEntry("a")}}, KindOther},
		"below a link":       {&liar{entries: []*transferpb.Entry{linkEntry("a", "b"), fileEntry("a/b")}}, KindOther},
		"out of order":       {&liar{entries: []*transferpb.Entry{fileEntry("b"), fileEntry("a")}}, KindOther},
		"an empty page":      {&liar{page: func(p *liarPeer) { p.listing(transferpb.Listing_MORE) }}, KindOther},
		"the same page again": {&liar{page: func(p *liarPeer) { p.listing(transferpb.Listing_MORE, one...) }},
			KindOther},
		"too long a page": {&liar{page: func(p *liarPeer) {
			for i := range listPage/100 + 1 {
				var entries []*transferpb.Entry
				for j := range 100 {
					entries = append(entries, fileEntry(fmt.Sprintf("%09d", 100*i+j)))
				}
				p.listing(transferpb.Listing_NOT_YET, entries...)
			}
		}}, KindOther},
		"a huge file in the list": {&liar{entries: []*transferpb.Entry{{Path: []byte("a"), Type: transferpb.Entry_FILE,
			Size: math.MaxUint64}}}, KindOther},
		"no end of the listing": {&liar{page: func(p *liarPeer) { p.listing(transferpb.Listing_NOT_YET, one...) }},
			KindNetwork},
		"an answer to something else": {&liar{page: func(p *liarPeer) {
			p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Manifest{Manifest: &transferpb.Manifest{}}})
		}}, KindOther},
		"no files": {&liar{entries: one, pack: func(p *liarPeer) { p.end(1, 7) }}, KindOther},
		"a file too many": {&liar{entries: one, pack: func(p *liarPeer) { p.file(nil); p.file(nil); p.end(1, 7) }},
			KindOther},
		"another stream": {&liar{entries: one, pack: func(p *liarPeer) { p.file(nil); p.end(1, 8) }}, KindOther},
		"no stream": {&liar{entries: one, pack: func(p *liarPeer) {
			p.file(nil)
			p.reply(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{BatchEnd: &transferpb.BatchEnd{}}})
		}}, KindOther},
		"a stream that is not offered": {&liar{entries: one, pack: func(p *liarPeer) {
			p.file(nil)
			p.reply(&transferpb.Reply{Reply: &transferpb.Reply_BatchEnd{
				BatchEnd: &transferpb.BatchEnd{KwikStreamId: 1<<62 + 99},
			}})
		}}, KindNetwork},
		"too many groups": {&liar{entries: one,
			pack: manifest(func(m *transferpb.Manifest) { m.Size, m.Group = 1<<62, 0 })}, KindOther},
		"group size": {&liar{entries: one, pack: manifest(func(m *transferpb.Manifest) { m.Group = 256 })},
			KindOther},
		"short root": {&liar{entries: one,
			pack: manifest(func(m *transferpb.Manifest) { m.Root = m.Root[1:] })}, KindOther},
		"a tree of another file": {&liar{entries: one, content: make([]byte, 200_000),
			pack: manifest(func(m *transferpb.Manifest) { m.Root[0]++ })}, KindIntegrity},
		"too long a tree": {&liar{entries: one, pack: func(p *liarPeer) {
			p.file(func(f *transferpb.BatchFile) { f.ChainingValues = make([]byte, 64) })
			p.end(1, 7)
		}}, KindOther},
		"wrong bytes":   {&liar{entries: one, truth: []byte("CONTENT")}, KindIntegrity},
		"another group": {&liar{entries: one, pack: manifest(func(m *transferpb.Manifest) { m.Size = 6 })}, KindOther},
	} {
		t.Run(name, func(t *testing.T) {
			target := t.TempDir()
			transfertest.Put(t, filepath.Join(target, "mine"), "mine")
			onWire(t, func(w *testNet) {
				start := time.Now()
				_, reports, err := w.lies(c.l, target, deleting)
				if e, ok := errors.AsType[*Error](err); !ok || e.Kind != c.kind {
					t.Errorf("%v, %+v", err, reports.files)
				}
				if took := time.Since(start); took > 2*listTimeout {
					t.Errorf("it took %v", took)
				}
			})
			transfertest.WantContent(t, filepath.Join(target, "mine"), "mine")
			// The first entry of these is valid.
			if !strings.Contains(name, "directory") && !strings.Contains(name, "link") {
				wantNames(t, target, "mine")
			}
		})
	}
}

// TestHostileTreeRequests checks that the server rejects requests that our client never sends,
// without much work.
func TestHostileTreeRequests(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	onWire(t, func(w *testNet) {
		w.serve(d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		long := strings.Repeat("d/", wire.MaxTreePath/2-1) + "f"
		var bomb []byte
		for before := ""; len(bomb) < 60_000; before = long {
			bomb = wire.AppendPath(bomb, before, long)
		}
		for name, r := range map[string]struct {
			request *transferpb.Request
			code    transferpb.Failure_Code
		}{
			"list outside": {&transferpb.Request{Path: []byte("../x"), List: &transferpb.ListRequest{}},
				notFound},
			"list through a link": {&transferpb.Request{Path: []byte("updir"), List: &transferpb.ListRequest{}},
				notFound},
			"list an absolute one": {&transferpb.Request{Path: []byte("/etc"), List: &transferpb.ListRequest{}},
				notFound},
			"list a FIFO": {&transferpb.Request{Path: []byte("fifo"), List: &transferpb.ListRequest{}},
				transferpb.Failure_NOT_A_FILE},
			"list after nonsense": {&transferpb.Request{List: &transferpb.ListRequest{After: []byte("../..")}},
				badRequest},
			"an empty batch": {&transferpb.Request{Batch: &transferpb.BatchRequest{}}, badRequest},
			"a batch of nonsense": {&transferpb.Request{Batch: &transferpb.BatchRequest{Paths: []byte{1, 2, 3}}},
				badRequest},
			"a batch outside": {&transferpb.Request{Batch: &transferpb.BatchRequest{Paths: wire.AppendPath(nil, "",
				"../secret")}}, badRequest},
			"a base outside": {&transferpb.Request{Path: []byte(".."),
				Batch: &transferpb.BatchRequest{Paths: wire.AppendPath(nil, "", "secret")}}, badRequest},
			"long paths in short": {&transferpb.Request{Batch: &transferpb.BatchRequest{Paths: bomb}}, badRequest},
		} {
			r.request.Version = wire.ProtocolVersion
			var raw bytes.Buffer
			wire.WriteMessage(&raw, r.request)
			replies, err := w.Ask(c, raw.Bytes(), true)
			if err != nil || len(replies) != 1 {
				t.Errorf("%s: %v, %v", name, replies, err)
				continue
			}
			if failure := replies[0].GetFailure(); failure == nil || failure.GetCode() != r.code {
				t.Errorf("%s: failure %v, want code %v", name, failure, r.code)
			}
		}

		// Files that cannot be served are refused one by one.
		var paths []byte
		before := ""
		for _, p := range []string{"dirlink/deeper/file", "fifo", "file", "missing", "outside", "sub", "updir/secret"} {
			paths, before = wire.AppendPath(paths, before, p), p
		}
		var raw bytes.Buffer
		wire.WriteMessage(&raw, &transferpb.Request{Version: wire.ProtocolVersion,
			Batch: &transferpb.BatchRequest{Paths: paths}})
		replies, err := w.Ask(c, raw.Bytes(), true)
		if err != nil || len(replies) != 8 {
			t.Fatal(replies, err)
		}
		for i, served := range []bool{true, false, true, false, false, false, false} {
			if f := replies[i].GetBatchFile(); (f.GetManifest() != nil) != served {
				t.Errorf("file %d: %v", i, f)
			}
		}
		if replies[7].GetBatchEnd().GetKwikStreamId() == 0 {
			t.Error(replies[7])
		}
	})
}
