package transfer

import (
	"bytes"
	"context"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"testing"
)

// fetch gets theFile to a target from a server that has it. It returns how many bytes the
// client requested.
func fetch(t *testing.T, target string, change ...func(*GetOptions)) (r Result, heard *recordedReports, err error) {
	t.Helper()
	get := func(ctx context.Context, o GetOptions, report Reporter) (Result, error) {
		return getWhole(t, ctx, o, report)
	}
	return fetchBy(t, get, target, change...)
}

// fetchBy does so with something in place of Get.
func fetchBy(
	t *testing.T, get func(context.Context, GetOptions, Reporter) (Result, error), target string,
	change ...func(*GetOptions),
) (r Result, heard *recordedReports, err error) {
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
		o := GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target,
			KWIK: w.Client()}
		for _, f := range change {
			f(&o)
		}
		r, err = get(w.Ctx, o, heard)
	})
	return r, heard, err
}

// TestResume: whatever an earlier transfer left, the next one keeps what is right of it,
// fetches the rest and ends well.
func TestResume(t *testing.T) {
	const group = 65536
	spoilt := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(theFile)) }
	for name, x := range map[string]struct {
		part    []byte
		resumed int64
	}{
		"nothing":               {nil, 0},
		"a byte":                {theFile[:1], 0},
		"less than a group":     {theFile[:group-1], 0},
		"one group":             {theFile[:group], group},
		"a group and a half":    {theFile[:group*3/2], group},
		"all but the last byte": {theFile[:len(theFile)-1], 3 * group},
		"all":                   {theFile, int64(len(theFile))},
		"all and more":          {append(bytes.Clone(theFile), theFile...), int64(len(theFile))},
		"another file":          {bytes.Repeat([]byte("other"), 50000), 0},
		"zeros":                 {make([]byte, len(theFile)), 0},
		"one bit flipped": {spoilt(func(b []byte) []byte { b[group+5] ^= 8; return b }),
			int64(len(theFile)) - group},
		"the last group torn": {spoilt(func(b []byte) []byte { clear(b[3*group+600:]); return b }), 3 * group},
		"a hole in the middle": {spoilt(func(b []byte) []byte { clear(b[group : 3*group]); return b }),
			int64(len(theFile)) - 2*group},
		"shifted by one byte": {append([]byte{0}, theFile...), 0},
		"groups that changed places": {append(append(bytes.Clone(theFile[group:2*group]), theFile[:group]...),
			theFile[2*group:]...), int64(len(theFile)) - 2*group},
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
			wantEqual(t, "bytes", r.Bytes, int64(len(theFile)))
			wantEqual(t, "bytes resumed", r.Resumed, x.resumed)
			wantEqual(t, "bytes delivered", delivered, r.Bytes-r.Resumed)
			wantEqual(t, "bytes wasted", r.Wasted, 0)
			wantEqual(t, "part file kept", r.Kept, false)
			wantEqual(t, "servers", len(r.Servers), 1)
			if heard.resumed != x.resumed || heard.last.Bytes != r.Bytes || heard.last.Total != r.Bytes {
				t.Errorf("heard of %d bytes, at last of %+v", heard.resumed, heard.last)
			}
			if info, err := os.Stat(target); err != nil || info.Mode() != 0o644&^disk.Umask ||
				!info.ModTime().Equal(transfertest.SomeTime) {
				t.Errorf("mode %v, time %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// TestFailureKeepsTheProved checks that a failed transfer keeps the verified bytes and no
// others.
func TestFailureKeepsTheProved(t *testing.T) {
	const group = 65536
	for name, x := range map[string]struct {
		open kwik.OpenContentFunc
		kept int64  // at most: what a server that is given up had under way is dropped
		part string // before
		dead bool   // no server answers
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
				r, err = getWhole(w.T, w.Ctx,
					GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(),
						Target: target, KWIK: w.Client()}, NoReport{})
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
			_, missing := os.Lstat(part)
			wantEqual(t, "part file kept", r.Kept, missing == nil)
			wantEqual(t, "bytes resumed", r.Resumed, 0)
			if x.kept == 0 {
				wantEqual(t, "bytes", r.Bytes, 0)
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
