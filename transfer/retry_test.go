package transfer

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

func TestRetryDelay(t *testing.T) {
	for attempt, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 10: 512 * time.Second,
		11: 10 * time.Minute, 12: 10 * time.Minute, 1 << 40: 10 * time.Minute,
	} {
		if got := retryDelay(attempt, 0); got != want {
			t.Errorf("before retry %d: %v, want %v", attempt, got, want)
		}
		if got := retryDelay(attempt, 3*time.Millisecond); got != 3*time.Millisecond {
			t.Errorf("before retry %d: %v in place of the fixed delay", attempt, got)
		}
	}
}

// An attempt whose session the server closed as idle is repeated at once, and counts as no retry.
func TestRetryAfterIdleClose(t *testing.T) {
	idle := NetworkError("fetch x", &quic.ApplicationError{Remote: true, ErrorMessage: "idle"})
	if want := "fetch x: the server closed the idle connection"; idle.Error() != want {
		t.Errorf("%q, want %q", idle.Error(), want)
	}
	for idles, want := range map[int]bool{0: true, 1: true, maxIdleCloses: true, maxIdleCloses + 1: false} {
		calls := 0
		err := retryPolicy{}.run(t.Context(), func(context.Context) error {
			if calls++; calls <= idles {
				return idle
			}
			return nil
		}, isRetryable, func(Retry) { t.Error("a retry was announced") })
		if (err == nil) != want || calls > maxIdleCloses+1 {
			t.Errorf("after %d closes: %v, %d calls", idles, err, calls)
		}
	}
}

// A moody server serves content by the number of the session: the last of what it has for all
// that follow.
func (w *testNet) moody(content ...[]byte) {
	var sessions atomic.Int32
	now := func() []byte { return content[min(int(sessions.Load()), len(content))-1] }
	w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
		return bytesContent{bytes.NewReader(now())}, nil
	}, func(p *peer) {
		sessions.Add(1)
		whole := theFile
		if c := now(); len(c) > 0 && c[0] != theFile[0] {
			whole = otherFile
		}
		tree := treeOf(whole)
		root := tree.Root()
		m := &transferpb.Manifest{Size: uint64(len(whole)), Root: root[:], Group: uint32(tree.GroupSize())}
		p.offer(m, int64(len(whole)))
		p.Manifest(m)
		p.Tree(tree.CVs())
	})
}

// otherFile is a later version of theFile: the first group is another, the last two are not there.
var otherFile = func() []byte {
	b := bytes.Clone(theFile[:2*65536])
	b[0] ^= 1
	return b
}()

// TestRetry: a transfer that lost its servers goes on where it was when they are back, without a
// look at what it has.
func TestRetry(t *testing.T) {
	const group = 65536
	size := int64(len(theFile))
	for name, x := range map[string]struct {
		content [][]byte
		part    []byte
		retries int
		want    []byte // nil if it fails
		tries   int
		resumed int64
		wasted  int64
		reads   bool
	}{
		"none allowed": {content: [][]byte{theFile[:2*group], theFile}},
		"none needed":  {content: [][]byte{theFile}, retries: 3, want: theFile},
		"one":          {content: [][]byte{theFile[:2*group], theFile}, retries: 3, want: theFile, tries: 1},
		"three": {
			content: [][]byte{nil, theFile[:group], theFile[:2*group], theFile},
			retries: 3, want: theFile, tries: 3,
		},
		"one too few": {
			content: [][]byte{nil, theFile[:group], theFile[:2*group], theFile},
			retries: 2, tries: 2,
		},
		"of what was there": {
			content: [][]byte{theFile[:2*group], theFile},
			part:    theFile[:group], retries: 1, want: theFile, tries: 1, resumed: group, reads: true,
		},
		"of another version": {
			content: [][]byte{theFile[:2*group], otherFile},
			retries: 1, want: otherFile, tries: 1, wasted: group, reads: true,
		},
		"and back": {
			content: [][]byte{theFile[:3*group], otherFile[:group/2], theFile},
			retries: 2, want: theFile, tries: 2, wasted: group, reads: true,
		},
		"of an older and newer": {
			content: [][]byte{theFile[:2*group], otherFile},
			part:    append(make([]byte, group), theFile[group:2*group]...), retries: 1, want: otherFile, tries: 1,
			resumed: group, wasted: group, reads: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
			if x.part != nil {
				transfertest.Put(t, filepath.Join(filepath.Dir(target), partName("out")), string(x.part))
			}
			var r Result
			var err error
			var took time.Duration
			heard, x2 := &recordedReports{}, &faults{}
			onWire(t, func(w *testNet) {
				w.moody(x.content...)
				start := time.Now()
				r, err = getWhole(w.T, w.Ctx, GetOptions{
					URL: serverFile, TLS: w.TLS(), Target: target, KWIK: w.Client(),
					OpenDir: x2.opener(), Retries: x.retries,
				}, heard)
				took = time.Since(start)
			})
			if len(heard.retries) != x.tries {
				t.Errorf("retries %+v, want %d", heard.retries, x.tries)
			}
			var pauses time.Duration
			for i, a := range heard.retries {
				want := Retry{Attempt: i + 1, Of: x.retries, Delay: retryDelay(i+1, 0), Err: a.Err}
				if a != want || a.Err == nil {
					t.Errorf("retry %d: %+v, want %+v and an error", i, a, want)
				}
				pauses += a.Delay
			}
			if took < pauses || took > pauses+2*time.Second {
				t.Errorf("it took %v with pauses of %v", took, pauses)
			}
			if slices.Contains(x2.ops, "read") != x.reads {
				t.Errorf("operations %v", x2.ops)
			}
			// Bytes under way from a lost server may be wasted, too.
			if r.Resumed != x.resumed || r.Wasted > x.wasted+3*group {
				t.Errorf("%+v", r)
			}
			if x.want == nil {
				wantKind(t, err, KindNetwork, "")
				transfertest.WantContent(t, target, "before")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			transfertest.WantContent(t, target, string(x.want))
			wantNames(t, filepath.Dir(target), "out")
			var delivered int64
			for _, s := range r.Servers {
				delivered += s.Bytes
			}
			if r.Bytes != int64(len(x.want)) || len(r.Servers) != 1 {
				t.Errorf("%+v", r)
			}
			if fetched := r.Bytes - r.Resumed; delivered < fetched || delivered > fetched+x.wasted {
				t.Errorf("%d bytes delivered, %d fetched: %+v", delivered, fetched, r)
			}
			if len(x.want) == len(theFile) && r.Bytes != size {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestNoRetry checks that only temporary errors cause a retry.
func TestNoRetry(t *testing.T) {
	for code, kind := range map[transferpb.Failure_Code]Kind{
		transferpb.Failure_OTHER: KindOther, transferpb.Failure_NOT_FOUND: KindNotFound,
		transferpb.Failure_CHANGED: KindChanged,
	} {
		onWire(t, func(w *testNet) {
			w.hostile(openTheFile, func(p *peer) {
				p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{Code: code}}})
				p.Stream.Close()
			})
			_, took, err := w.get(func(o *GetOptions) { o.Retries = 5 })
			wantKind(w.T, err, kind, "")
			if took > time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

// TestRetryInOrder checks that there is a retry before the first byte of an output, and none
// after it.
func TestRetryInOrder(t *testing.T) {
	for _, first := range [][]byte{nil, theFile[:65536]} {
		onWire(t, func(w *testNet) {
			w.moody(first, theFile)
			got, _, err := w.get(func(o *GetOptions) { o.Retries = 5 })
			if first == nil {
				if err != nil || !bytes.Equal(got, theFile) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			wantKind(w.T, err, KindNetwork, "")
			if !bytes.HasPrefix(theFile, got) {
				t.Errorf("%d wrong bytes", len(got))
			}
		})
	}
}

// TestRetryWithoutAServer starts the server after a long time. The end of the context ends a
// pause at once.
func TestRetryWithoutAServer(t *testing.T) {
	onWire(t, func(w *testNet) {
		reason := errors.New("enough")
		ctx, cancel := context.WithCancelCause(w.Ctx)
		time.AfterFunc(time.Hour+time.Second, func() { cancel(reason) })
		_, took, err := w.getContext(ctx, func(o *GetOptions) { o.Retries, o.RetryDelay = 9, time.Hour })
		if err != reason || took != time.Hour+time.Second {
			t.Errorf("%v after %v", err, took)
		}

		time.AfterFunc(2*time.Minute, func() { w.moody(theFile) })
		got, took, err := w.get(func(o *GetOptions) { o.Retries, o.RetryDelay = 9, 30*time.Second })
		if err != nil || !bytes.Equal(got, theFile) || took > 3*time.Minute {
			t.Errorf("%d bytes, %v after %v", len(got), err, took)
		}
	})
}

// TestMaxTimeOfAttempts checks that MaxTime applies to each attempt separately. An attempt that
// took too long is repeated until RetryMaxTime.
func TestMaxTimeOfAttempts(t *testing.T) {
	for _, x := range []struct {
		retries      int
		retryMaxTime time.Duration
		tries        int
		took         time.Duration // pauses of one and two seconds and so on included
	}{
		{0, 0, 0, 3 * time.Second},
		{2, 0, 2, 12 * time.Second},
		{9, 5 * time.Second, 1, 7 * time.Second},
		{9, 2 * time.Second, 0, 3 * time.Second},
	} {
		onWire(t, func(w *testNet) {
			heard := &recordedReports{}
			start := time.Now()
			_, err := Get(w.Ctx, GetOptions{
				URL: serverFile, TLS: w.TLS(), Target: filepath.Join(t.TempDir(), "out"), KWIK: w.Client(),
				Retries: x.retries, MaxTime: 3 * time.Second, RetryMaxTime: x.retryMaxTime,
			}, heard)
			took := time.Since(start)
			if e, ok := errors.AsType[*TimeLimitError](err); !ok || e.Limit != 3*time.Second {
				t.Errorf("%+v: %v", x, err)
			}
			if len(heard.retries) != x.tries || took != x.took {
				t.Errorf("%+v: %v after %v and %d retries", x, err, took, len(heard.retries))
			}
		})
	}
}
