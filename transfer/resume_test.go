package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A readCounter notes which bytes of a file are read.
type readCounter struct {
	disk.File
	faults
	read rangeset.Set
}

func (f *readCounter) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.read.Add(off, off+int64(len(p)))
	f.mu.Unlock()
	return f.File.ReadAt(p, off)
}

// openFile makes a file of a directory of its own with a content and holes.
func openFile(t *testing.T, content []byte, holes ...rangeset.Range) disk.File {
	t.Helper()
	d, err := disk.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); d.Close() })
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	data := rangeset.Of(rangeset.Range{Start: 0, End: int64(len(content))})
	for _, h := range holes {
		data.Sub(h.Start, h.End)
	}
	for r := range data.All() {
		if _, err := f.WriteAt(content[r.Start:r.End], r.Start); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestSurvey spoils files in many ways and expects exactly the groups that are right and there as a whole.
func TestSurvey(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := integrity.GroupSize([]uint8{0, 4, 6, 6, 10}[r.IntN(5)])
		unit := g.Bytes()
		size := r.Int64N(5 << 20)
		switch r.IntN(4) {
		case 0:
			size = max(0, unit*r.Int64N(5)+r.Int64N(3)-1)
		case 1:
			size -= size % unit
		}
		content := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(content)
		tree, err := integrity.Build(t.Context(), bytes.NewReader(content), size, g, nil)
		if err != nil {
			t.Fatal(err)
		}
		have := bytes.Clone(content)
		if r.IntN(2) == 0 { // cut
			have = have[:r.Int64N(size+1)]
		}
		var want rangeset.Set
		for off := int64(0); off < size; off += unit {
			end := min(off+unit, size)
			if end > int64(len(have)) {
				break
			}
			switch r.IntN(4) {
			case 0:
				have[off+r.Int64N(end-off)] ^= 1 << r.IntN(8)
			case 1:
				clear(have[off+(end-off)/2 : end]) // torn
			default:
				want.Add(off, end)
			}
		}
		var hole rangeset.Range
		if len(have) > 0 {
			hole.Start = r.Int64N(int64(len(have)))
			hole.End = min(int64(len(have)), hole.Start+r.Int64N(2<<20))
			for off := hole.Start - hole.Start%unit; off < hole.End; off += unit {
				want.Sub(off, off+unit)
			}
		}
		f := &readCounter{File: openFile(t, have, hole)}
		got, err := survey(t.Context(), f, int64(len(have)), tree, nil)
		if err != nil || !slices.Equal(got.Ranges(), want.Ranges()) {
			t.Errorf("seed %d: %d bytes of %d in groups of %d, hole %v: got %v, %v; want %v", seed, len(have), size, unit, hole, &got, err, &want)
		}
		if last, ok := f.read.Last(); ok && last.End > int64(len(have)) {
			t.Errorf("seed %d: read up to %d of %d bytes", seed, last.End, len(have))
		}
	}
}

// Holes cost nothing where the file system knows them.
func TestSurveySkipsHoles(t *testing.T) {
	content := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(content[60<<20:])
	file := openFile(t, content, rangeset.Range{Start: 0, End: 60 << 20})
	if start, _, _ := file.NextData(0); start == 0 {
		t.Skip("the file system does not know holes")
	}
	f := &readCounter{File: file}
	got, err := survey(t.Context(), f, 64<<20, treeOf(content), nil)
	if err != nil || got.Total() != 4<<20 || f.read.Total() > 5<<20 {
		t.Errorf("%d bytes proved, %d read, %v", got.Total(), f.read.Total(), err)
	}
}

// What cannot be read is not proved, and nothing worse.
func TestSurveyOfADisk(t *testing.T) {
	content := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	tree := treeOf(content)
	for fail := 1; fail <= 8; fail++ {
		f := faultyFile{openFile(t, content), &faults{fail: fail, with: errors.New("bad sector")}, "f"}
		got, err := survey(t.Context(), f, 8<<20, tree, nil)
		if err != nil || got.Total() != 15<<19 { // half a span came through
			t.Errorf("read %d failed: %d bytes proved, %v", fail, got.Total(), err)
		}
	}
}

func TestSurveyEnds(t *testing.T) {
	content := make([]byte, 8<<20)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := survey(ctx, openFile(t, content), 8<<20, treeOf(content), nil); err != enough {
		t.Errorf("error %v", err)
	}
}

// A part file that was proved against one version is worth what it is worth for another.
func TestProveAgain(t *testing.T) {
	a := make([]byte, 6*65536+7)
	rand.NewChaCha8([32]byte{1}).Read(a)
	b := bytes.Clone(a[:5*65536-9]) // shorter, and with another group 2
	b[2*65536]++
	target := filepath.Join(t.TempDir(), "out")
	p, err := openPart(disk.OpenDir, target, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	prove := func(content []byte, had, resumed int64) {
		t.Helper()
		if err := p.prove(t.Context(), treeOf(content), nil); err != nil {
			t.Fatal(err)
		}
		if x, y, _ := p.inPlace(); x != had || y != resumed {
			t.Errorf("%d in place, %d of them from before; want %d and %d", x, y, had, resumed)
		}
	}
	prove(a, 0, 0)
	p.WriteAt(a[:4*65536], 0)
	p.WriteAt(a[6*65536:], 6*65536)
	prove(a, 4*65536+7, 0)
	prove(b, 3*65536, 0)
	if info, err := p.file.Stat(); err != nil || info.Size() != int64(len(b)) {
		t.Errorf("%d bytes long, want %d, %v", info.Size(), len(b), err)
	}
	p.WriteAt(b[2*65536:3*65536], 2*65536)
	prove(b, 4*65536, 0)
	if p.whole() {
		t.Error("whole with four groups of five")
	}
	if err := p.commit(0o600, transfertest.SomeTime); err == nil {
		t.Error("a part was put in place")
	}
	p.WriteAt(b[4*65536:], 4*65536)
	if err := p.commit(0o600, transfertest.SomeTime); err != nil {
		t.Error(err)
	}
	transfertest.WantContent(t, target, string(b))
}

// fetch runs a get of theFile to a target from a server that has it, and returns how many of its bytes were asked for.
func fetch(t *testing.T, target string, change ...func(*GetOptions)) (r Result, heard *recordedReports, err error) {
	t.Helper()
	get := func(ctx context.Context, o GetOptions, report Reporter) (Result, error) {
		return getWhole(t, ctx, o, report)
	}
	return fetchBy(t, get, target, change...)
}

// fetchBy does so with something in place of Get.
func fetchBy(t *testing.T, get func(context.Context, GetOptions, Reporter) (Result, error), target string, change ...func(*GetOptions)) (r Result, heard *recordedReports, err error) {
	t.Helper()
	heard = &recordedReports{}
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) {
			m, cvs := honest()
			m.Mode = 0o644
			m.MtimeNs = transfertest.SomeTime.UnixNano()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		})
		o := GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target, KWIK: w.Client()}
		for _, f := range change {
			f(&o)
		}
		r, err = get(w.Ctx, o, heard)
	})
	return r, heard, err
}

// TestResume: whatever an earlier transfer left, the next one keeps what is right of it, fetches the rest and ends well.
func TestResume(t *testing.T) {
	const group = 65536
	spoilt := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(theFile)) }
	for name, x := range map[string]struct {
		part    []byte
		resumed int64
	}{
		"nothing":                    {nil, 0},
		"a byte":                     {theFile[:1], 0},
		"less than a group":          {theFile[:group-1], 0},
		"one group":                  {theFile[:group], group},
		"a group and a half":         {theFile[:group*3/2], group},
		"all but the last byte":      {theFile[:len(theFile)-1], 3 * group},
		"all":                        {theFile, int64(len(theFile))},
		"all and more":               {append(bytes.Clone(theFile), theFile...), int64(len(theFile))},
		"another file":               {bytes.Repeat([]byte("other"), 50000), 0},
		"zeros":                      {make([]byte, len(theFile)), 0},
		"one bit flipped":            {spoilt(func(b []byte) []byte { b[group+5] ^= 8; return b }), int64(len(theFile)) - group},
		"the last group torn":        {spoilt(func(b []byte) []byte { clear(b[3*group+600:]); return b }), 3 * group},
		"a hole in the middle":       {spoilt(func(b []byte) []byte { clear(b[group : 3*group]); return b }), int64(len(theFile)) - 2*group},
		"shifted by one byte":        {append([]byte{0}, theFile...), 0},
		"groups that changed places": {append(append(bytes.Clone(theFile[group:2*group]), theFile[:group]...), theFile[2*group:]...), int64(len(theFile)) - 2*group},
	} {
		t.Run(name, func(t *testing.T) {
			target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
			if x.part != nil {
				transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), string(x.part))
			}
			r, heard, err := fetch(t, target)
			if err != nil {
				t.Fatal(err)
			}
			transfertest.WantContent(t, target, string(theFile))
			wantNames(t, filepath.Dir(target), "out")
			var delivered int64
			for _, s := range r.Servers {
				delivered += s.Bytes
			}
			if r.Bytes != int64(len(theFile)) || r.Resumed != x.resumed || delivered != r.Bytes-r.Resumed || r.Wasted != 0 || r.Kept || len(r.Servers) != 1 {
				t.Errorf("%+v; want %d resumed", r, x.resumed)
			}
			if heard.resumed != x.resumed || heard.last.Bytes != r.Bytes || heard.last.Total != r.Bytes {
				t.Errorf("heard of %d bytes, at last of %+v", heard.resumed, heard.last)
			}
			if info, err := os.Stat(target); err != nil || info.Mode() != 0o644&^disk.Umask || !info.ModTime().Equal(transfertest.SomeTime) {
				t.Errorf("mode %v, time %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// A transfer that fails keeps what is proved and nothing else.
func TestFailureKeepsTheProved(t *testing.T) {
	const group = 65536
	for name, x := range map[string]struct {
		open kwik.OpenContentFunc
		kept int64  // at most: what a server that is given up had under way is dropped
		part string // before
		dead bool   // nobody answers
	}{
		"two groups, then nothing": {open: lacking(2 * group), kept: 2 * group},
		"not one group":            {open: lacking(group / 2)},
		"a useless part":           {open: lacking(0), part: "useless"},
		"a part, and nobody there": {part: "worth who knows what", dead: true},
		"nobody there":             {dead: true},
	} {
		t.Run(name, func(t *testing.T) {
			target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
			part := filepath.Join(filepath.Dir(target), partName("out"))
			if x.part != "" {
				transfertest.Put(t, part, x.part)
			}
			var r Result
			var err error
			onWire(t, func(w *testNet) {
				if !x.dead {
					w.hostile(x.open, func(p *peer) {
						m, cvs := honest()
						p.offer(m, int64(len(theFile)))
						p.Manifest(m)
						p.Tree(cvs)
					})
				}
				r, err = getWhole(w.T, w.Ctx, GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target, KWIK: w.Client()}, NoReport{})
			})
			wantKind(t, err, KindNetwork, "")
			transfertest.WantContent(t, target, "before")
			switch {
			case x.kept > 0:
				if r.Bytes > x.kept || r.Bytes%group != 0 {
					t.Errorf("%d bytes kept, want up to %d", r.Bytes, x.kept)
				}
			case x.part != "" && x.dead:
				transfertest.WantContent(t, part, x.part)
			default:
				wantNames(t, filepath.Dir(target), "out")
			}
			if _, err := os.Lstat(part); r.Kept != (err == nil) || x.kept == 0 && r.Bytes != 0 || r.Resumed != 0 {
				t.Errorf("%+v, %v", r, err)
			}
			if r.Kept && !x.dead {
				if again, _, err := fetch(t, target); err != nil || again.Resumed != r.Bytes {
					t.Errorf("again: %+v, %v", again, err)
				}
				transfertest.WantContent(t, target, string(theFile))
			}
		})
	}
}

// lacking opens theFile as if it ended after n bytes.
func lacking(n int64) kwik.OpenContentFunc {
	return func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
		return bytesContent{bytes.NewReader(theFile[:n])}, nil
	}
}

func BenchmarkSurvey(b *testing.B) {
	content := make([]byte, 256<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	name := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := disk.OpenDir(filepath.Dir(name))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	f, err := d.Open("f")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	tree := treeOf(content)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if got, err := survey(b.Context(), f, int64(len(content)), tree, nil); err != nil || got.Total() != int64(len(content)) {
			b.Fatal(fmt.Sprint(&got, err))
		}
	}
}
