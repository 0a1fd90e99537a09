package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"kwikcp/internal/simnet"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestStallWatch checks what counts as silence and when it is reported.
func TestStallWatch(t *testing.T) {
	w := &stallWatch{host: "h", timeout: time.Minute}
	second := func(want ...Waiting) {
		t.Helper()
		var got []Waiting
		if due, ok := w.tick(time.Second); ok {
			got = append(got, due)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("reported %v, want %v", got, want)
		}
	}
	for range 10 {
		second() // it works on this machine
	}
	done := w.wait()
	second()
	second()
	second(Waiting{"h", 3 * time.Second, 0})
	second(Waiting{"h", 4 * time.Second, 0})
	w.progress(0)
	second(Waiting{Host: "h"})
	second()
	second()
	second(Waiting{"h", 3 * time.Second, time.Minute})
	done()
	second(Waiting{Host: "h"})
	second()
}

// TestMayReconnect checks which errors another attempt follows.
func TestMayReconnect(t *testing.T) {
	now := time.Unix(1e9, 0)
	lost := NetworkError("get", errSilent)
	refused := NetworkError("connect", syscall.ECONNREFUSED)
	w := &stallWatch{timeout: time.Minute}
	check := func(err error, after time.Duration, want bool) {
		t.Helper()
		if _, ok := w.mayReconnect(err, now.Add(after)); ok != want {
			t.Errorf("after %v: %v, want %v", err, ok, want)
		}
	}
	check(lost, 0, false) // the server was not reached
	w.progress(1)
	check(lost, 0, true)
	check(refused, 0, true)
	check(refused, restartTime-1, true)
	check(refused, restartTime, false)
	check(lost, restartTime, true)
	check(refused, restartTime, true) // closed again
	check(NetworkError("get", errors.New("an answer")), 0, false)
	check(&Error{Kind: KindIntegrity, Err: errSilent}, 0, false)
	done := w.wait()
	defer done()
	for range 80 {
		w.tick(time.Second)
	}
	check(lost, 0, false)
	w.progress(2)
	for range maxReconnects {
		check(lost, 0, true)
		w.progress(2) // nothing new
	}
	check(lost, 0, false)
	w.progress(3)
	check(lost, 0, true)
}

// outageStarts are times after the start of a transfer that takes about five seconds.
var outageStarts = []time.Duration{
	420 * time.Millisecond, 500 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond, 4 * time.Second,
}

// inOutages runs a transfer of some MB, with an outage of a minute in each of its phases.
func inOutages(t *testing.T, files map[string][]byte, transfer func(w *testNet) error) {
	for _, at := range outageStarts {
		onWire(t, func(w *testNet) {
			w.Link = simnet.Link{Latency: 50 * time.Millisecond, Rate: 1e6}
			w.serveFiles(files)
			time.Sleep(time.Second)
			host := transfertest.ServerAddr.Addr()
			time.AfterFunc(at, func() { w.Sim.Silence(host) })
			time.AfterFunc(at+time.Minute, func() { w.Sim.Heal(host) })
			start := time.Now()
			if err := transfer(w); err != nil {
				w.T.Errorf("an outage after %v: %v after %v", at, err, time.Since(start))
			}
			if took := time.Since(start); took < time.Minute || took > 100*time.Second {
				w.T.Errorf("an outage after %v: it took %v", at, took)
			}
		})
	}
}

// TestAttackOutages cuts the network for as long as the default StallTimeout, in each phase of a
// get into a file, a get to an output, and a mirror.
func TestAttackOutages(t *testing.T) {
	content := bytes.Repeat(theFile, 4<<20/len(theFile)+1)
	file := map[string][]byte{"file": content}
	t.Run("file", func(t *testing.T) {
		inOutages(t, file, func(w *testNet) error {
			target := filepath.Join(w.T.TempDir(), "target")
			_, err := getWhole(w.T, w.Ctx, GetOptions{
				URL: serverFile, TLS: w.TLS(), Target: target, KWIK: w.Client(), ConnectTimeout: time.Second,
			}, nil)
			return err
		})
	})
	t.Run("output", func(t *testing.T) {
		inOutages(t, file, func(w *testNet) error {
			got, _, err := w.get()
			if err == nil && !bytes.Equal(got, content) {
				err = io.ErrUnexpectedEOF
			}
			return err
		})
	})
	t.Run("mirror", func(t *testing.T) {
		files := make(map[string][]byte)
		for i := range 16 {
			files[fmt.Sprintf("file%02d", i)] = content[i*200_000 : (i+1)*200_000+50_000]
		}
		inOutages(t, files, func(w *testNet) error {
			target := filepath.Join(w.T.TempDir(), "target")
			source := MirrorSource{
				URL: URL{Host: transfertest.ServerAddr.String()}, TLS: w.TLS(), KWIK: w.Client(), ConnectTimeout: time.Second,
			}
			_, err := Mirror(w.Ctx, MirrorOptions{MirrorSource: source, Target: target}, nil)
			for name, want := range files {
				if got, _ := os.ReadFile(filepath.Join(target, name)); err == nil && !bytes.Equal(got, want) {
					err = fmt.Errorf("%s has %d bytes", name, len(got))
				}
			}
			return err
		})
	})
}

// TestStallTimeout checks that a get ends when nothing arrives for longer than it allows.
func TestStallTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{2 * time.Second, 20 * time.Second, 5 * time.Minute} {
		onWire(t, func(w *testNet) {
			w.Link = simnet.Link{Latency: 50 * time.Millisecond, Rate: 1e6}
			w.serveFiles(map[string][]byte{"file": bytes.Repeat(theFile, 4<<20/len(theFile)+1)})
			time.Sleep(time.Second)
			time.AfterFunc(2*time.Second, func() { w.Sim.Silence(transfertest.ServerAddr.Addr()) })
			_, took, err := w.get(func(o *GetOptions) { o.StallTimeout = timeout })
			if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindNetwork {
				w.T.Errorf("%v: %v", timeout, err)
			}
			if least, most := timeout+2*time.Second, timeout*5/4+6*time.Second; took < least || took > most {
				w.T.Errorf("with %v it took %v", timeout, took)
			}
		})
	}
}
