package transfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
)

// TestPool checks that transfers from one server share a session, in sequence or at the same
// time. There may be many more transfers than a session may have streams, even if most fetch no
// byte. No transfer uses a failed session again.
func TestPool(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	for i := range 4 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), theFile[i:], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	primary, pin := serveOnLoopback(t, kwik.ServerRolePrimary, root, newRoundCall(1))
	var pool Pool
	defer pool.Close()
	var dials atomic.Int32
	var sessions []*kwik.ClientSession
	get := func(path, target string) (Result, error) {
		return Get(t.Context(), GetOptions{
			URL:    URL{Host: primary.Addr().String(), Path: path, Pin: (*[32]byte)(&pin)},
			TLS:    trust.PinnedClientConfig(nil, pin),
			Target: filepath.Join(out, target),
			Pool:   &pool,
			Dial: func(
				ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig,
			) (*kwik.ClientSession, error) {
				dials.Add(1)
				s, err := kwik.DialAddr(ctx, addr, tlsConf, conf)
				sessions = append(sessions, s)
				return s, err
			},
		}, NoReport{})
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			target := fmt.Sprint("at-once-", i)
			if r, err := get(fmt.Sprint(i%4), target); err != nil || r.Bytes != int64(len(theFile)-i%4) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	for i := range 12 {
		transfertest.WantContent(t, filepath.Join(out, fmt.Sprint("at-once-", i)), string(theFile[i%4:]))
	}
	for range 300 {
		if r, err := get("1", "at-once-1"); err != nil || !r.UpToDate {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if _, err := get("nothing", "nothing"); err == nil {
		t.Error("a file was fetched that does not exist")
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
	if n := len(sessions[0].Servers()); n != 1 {
		t.Errorf("%d paths", n)
	}
	if n := sessions[0].Stats().AggregateStreams; n != 0 {
		t.Errorf("%d streams are open", n)
	}

	sessions[0].CloseWithError(0, "")
	if _, err := get("2", "after"); err != nil {
		t.Error(err)
	}
	if n := dials.Load(); n != 2 {
		t.Errorf("%d dials after the session ended", n)
	}
}

// TestPoolAfterAPause uses a session again after pauses. The server closes it after a minute, or is
// about to. No transfer fails.
func TestPoolAfterAPause(t *testing.T) {
	for _, pause := range []time.Duration{
		time.Second, 44 * time.Second, 59 * time.Second, time.Minute, 61 * time.Second, 65 * time.Second, 3 * time.Hour,
	} {
		onWire(t, func(w *testNet) {
			w.serveFiles(map[string][]byte{"file": theFile[:3000]})
			conf := w.Client()
			var pool Pool
			defer pool.Close()
			dials := 0
			for range 3 {
				_, took, err := w.get(func(o *GetOptions) {
					o.KWIK, o.Pool = conf, &pool
					o.Dial = func(
						ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig,
					) (*kwik.ClientSession, error) {
						dials++
						return kwik.DialAddrEarly(ctx, addr, tlsConf, conf)
					}
				})
				if err != nil {
					t.Fatalf("after %v: %v after %v", pause, err, took)
				}
				time.Sleep(pause)
			}
			if want := pause <= maxIdleTime; (dials == 1) != want {
				t.Errorf("with pauses of %v: %d dials", pause, dials)
			}
		})
	}
}

// TestPoolWaitsForADial checks a transfer that waits for the dial of another. It fails if it is
// cancelled itself, but not if the other is.
func TestPoolWaitsForADial(t *testing.T) {
	var pool Pool
	defer pool.Close()
	key := poolKey{host: "h"}
	begun, end := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() { // ends with the dial
		_, _, err := pool.acquire(t.Context(), key, func() (*kwik.ClientSession, error) {
			close(begun)
			<-end
			return nil, fmt.Errorf("dial: %w", context.Canceled)
		})
		first <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, _, err := pool.acquire(ctx, key, func() (*kwik.ClientSession, error) {
		panic("a second dial")
	}); err != context.DeadlineExceeded {
		t.Error(err)
	}
	mine := errors.New("mine")
	second := make(chan error, 1)
	go func() { // ends with its own dial
		_, _, err := pool.acquire(t.Context(), key, func() (*kwik.ClientSession, error) { return nil, mine })
		second <- err
	}()
	close(end)
	if err := <-second; err != mine {
		t.Error(err)
	}
	if len(pool.sessions) != 0 {
		t.Errorf("%d sessions are left", len(pool.sessions))
	}
	<-first
}

// TestPoolOfManyTransfers runs more transfers than a path may have secondary streams, so some
// wait. On a slow link they wait long, and must not count as stalled.
func TestPoolOfManyTransfers(t *testing.T) {
	onWire(t, func(w *testNet) {
		want := bytes.Repeat(theFile, 1+(1<<20)/len(theFile))[:1<<20]
		w.serveFiles(map[string][]byte{"file": want})
		w.Link = simnet.Link{Latency: 15 * time.Millisecond, Rate: 4e6}
		conf := w.Client()
		conf.ConnectionsPerServer = 1
		var pool Pool
		defer pool.Close()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				got, took, err := w.get(func(o *GetOptions) { o.KWIK, o.Pool = conf, &pool })
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v after %v", len(got), err, took)
				}
			})
		}
		wg.Wait()
	})
}

// TestPoolAfterCancel cancels a transfer at any moment. It leaves no stream and no unread head
// start in the shared session. Transfers that share the session succeed.
func TestPoolAfterCancel(t *testing.T) {
	for ms := 0; ms < 700; ms += 40 { // a round trip takes 200
		onWire(t, func(w *testNet) {
			w.serveFiles(map[string][]byte{"large": bytes.Repeat(theFile, 20), "file": theFile[:3000]})
			large := func(o *GetOptions) { o.URL.Path = "large" }
			w.Link = simnet.Link{Latency: 50 * time.Millisecond, Rate: 20e6}
			var pool Pool
			defer pool.Close()
			conf := w.Client()
			pooled := func(o *GetOptions) { o.KWIK, o.Pool = conf, &pool }
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(w.Ctx)
					defer cancel()
					time.AfterFunc(time.Duration(ms)*time.Millisecond+time.Microsecond, cancel)
					w.getContext(ctx, pooled)
				})
			}
			wg.Go(func() {
				if _, took, err := w.get(pooled, large); err != nil {
					t.Errorf("the others were cancelled after %d ms, and this one failed: %v after %v", ms, err, took)
				}
			})
			wg.Wait()
			time.Sleep(2 * time.Second)
			pool.mu.Lock()
			for _, e := range pool.sessions {
				if e.session == nil {
					continue // its dialler was cancelled, so it will not be used
				}
				if n := e.session.Stats().AggregateStreams; n > 0 {
					t.Errorf("cancelled after %d ms: %d streams are left", ms, n)
				}
			}
			pool.mu.Unlock()
			if _, took, err := w.get(pooled); err != nil {
				t.Errorf("cancelled after %d ms: the next one failed: %v after %v", ms, err, took)
			}
		})
	}
}
