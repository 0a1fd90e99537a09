package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"kwikcp/internal/simnet"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
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

// lost and closed are errors of a get whose connection was lost, or closed by the primary.
var (
	errLost    = NetworkError("get", errSilent)
	errClosed  = NetworkError("get", &quic.ApplicationError{Remote: true})
	errRefused = NetworkError("connect", fmt.Errorf("the port is closed: %w", syscall.ECONNREFUSED))
	errReset   = NetworkError("get", &quic.StatelessResetError{})
)

// TestMayReconnect checks how long another attempt follows an error.
func TestMayReconnect(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want time.Duration // to the last attempt, while nothing arrives
	}{
		{NetworkError("get", errors.New("an answer")), -1},
		{NetworkError("get", errUnserved), -1},
		{NetworkError("get", &quic.ApplicationError{Remote: true, ErrorCode: 7}), -1},
		{&Error{Kind: KindIntegrity, Err: errSilent}, -1},
		{errRefused, restartTime},
		{errClosed, restartTime},
		{NetworkError("connect", errors.Join(syscall.ECONNREFUSED, syscall.ECONNREFUSED)), restartTime},
		{NetworkError("connect", errors.Join(syscall.ECONNREFUSED, &quic.IdleTimeoutError{})), stallLimit(time.Minute)},
		{NetworkError("connect", errors.Join(syscall.ECONNREFUSED, syscall.ENETUNREACH)), stallLimit(time.Minute)},
		{NetworkError("connect", &net.DNSError{Err: "no such host", IsNotFound: true}), stallLimit(time.Minute)},
		{NetworkError("get", &quic.ApplicationError{}), stallLimit(time.Minute)}, // of this side
		{errReset, stallLimit(time.Minute)},
		{errLost, stallLimit(time.Minute)},
	} {
		w := &stallWatch{timeout: time.Minute}
		defer w.wait()()
		if _, ok := w.mayReconnect(tt.err); ok {
			t.Errorf("%v: a server that was not reached is waited for", tt.err)
		}
		w = &stallWatch{timeout: time.Minute}
		defer w.wait()()
		w.progress(1)
		w.tick(time.Millisecond)
		last := time.Duration(-1)
		for silent := time.Duration(0); silent < 2*time.Minute; silent += stallTick {
			if _, ok := w.mayReconnect(tt.err); !ok {
				break
			}
			last = silent + stallTick
			w.tick(stallTick)
		}
		if last != tt.want {
			t.Errorf("%v: waited for %v, want %v", tt.err, last, tt.want)
		}
	}
}

// TestMayReconnectAfterEnd checks sequences of errors.
func TestMayReconnectAfterEnd(t *testing.T) {
	type step struct {
		err  error         // nil if something arrives
		rest time.Duration // before it
		want bool
	}
	ended := NetworkError("get", &kwik.Error{Code: kwik.ErrAggregationTimeout, Err: errors.Join(syscall.ECONNREFUSED)})
	for name, steps := range map[string][]step{
		"closed, then silent": {{errClosed, 0, true}, {errLost, restartTime, false}},
		"closed, then restarted": {
			{errClosed, 0, true}, {nil, 2 * time.Second, true}, {errClosed, 9 * time.Second, true},
		},
		"closed, then reset": {
			{errClosed, 0, true}, {errReset, restartTime, true}, {errLost, 9 * time.Second, true},
		},
		"silent, then closed": {
			{errLost, 0, true}, {errRefused, 30 * time.Second, true}, {errRefused, time.Second, true},
			{errRefused, 2 * time.Second, false},
		},
		"a stream waited for it":    {{ended, 3 * time.Second, true}, {errRefused, 0, false}},
		"silent for its whole time": {{errLost, stallLimit(time.Minute), false}},
	} {
		w := &stallWatch{timeout: time.Minute}
		defer w.wait()()
		w.progress(1)
		w.tick(time.Millisecond)
		for i, s := range steps {
			for rest := s.rest; rest > 0; rest -= min(rest, stallTick) {
				w.tick(min(rest, stallTick))
			}
			if s.err == nil {
				w.progress(int64(2 + i))
				w.tick(time.Millisecond)
				continue
			}
			if _, ok := w.mayReconnect(s.err); ok != s.want {
				t.Errorf("%s, step %d: another attempt: %v", name, i, ok)
			}
		}
	}
}

// TestBarrenAttempts checks that a primary that answers without new content is asked
// maxReconnects times in a row.
func TestBarrenAttempts(t *testing.T) {
	w := &stallWatch{timeout: time.Minute}
	w.progress(2)
	for i := range maxReconnects + 1 {
		if _, ok := w.mayReconnect(errReset); ok != (i < maxReconnects) {
			t.Errorf("attempt %d: %v", i, ok)
		}
		w.progress(2)
	}
	w.progress(3)
	if _, ok := w.mayReconnect(errReset); !ok {
		t.Error("no attempt after new content")
	}
}

// TestConnectTimeoutAfterEnd checks that a dial to a server that has ended is short.
func TestConnectTimeoutAfterEnd(t *testing.T) {
	w := &stallWatch{timeout: time.Minute}
	defer w.wait()()
	w.progress(1)
	w.tick(0)
	check := func(want time.Duration) {
		t.Helper()
		if got := w.connectTimeout(10 * time.Second); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	check(10 * time.Second)
	w.mayReconnect(errClosed)
	check(restartTime)
	w.tick(time.Second)
	check(restartTime - time.Second)
	w.tick(time.Second)
	w.tick(time.Second)
	check(lastConnectTime)
	w.progress(2)
	check(10 * time.Second)
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
				w.T.Errorf("with %v it took %v: %v", timeout, took, err)
			}
		})
	}
}
