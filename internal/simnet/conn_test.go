package simnet

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

func TestReceiveBuffer(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{}), t.listen(bob, Link{})
		b.SetReadBuffer(1000)
		for range 5 {
			t.send(a, bob, make([]byte, 300))
		}
		t.wantSettled()
		if s := t.Stats(); s.Delivered != 3 || s.Overflowed != 2 {
			t.Errorf("%+v, want 3 delivered and 2 overflowed", s)
		}
		b.SetReadDeadline(time.Time{})
		if n, _, err := b.ReadFrom(make([]byte, 100)); n != 100 || err != nil {
			t.Errorf("ReadFrom into a small buffer: %d, %v", n, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{})
		to := net.UDPAddrFromAddrPort(bob)
		start := time.Now()
		a.SetDeadline(start.Add(time.Second))
		if _, err := a.WriteTo(nil, to); err != nil {
			t.Errorf("WriteTo before its deadline: %v", err)
		}
		_, _, err := a.ReadFrom(nil)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("ReadFrom: %v after %v", err, time.Since(start))
		}
		var nerr net.Error
		if !errors.As(err, &nerr) || !nerr.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		if _, err := a.WriteTo(nil, to); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("WriteTo after its deadline: %v", err)
		}
		// Moving the deadline reaches a reader that waits already.
		a.SetDeadline(time.Time{})
		done := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(nil)
			done <- err
		}()
		time.Sleep(time.Hour)
		a.SetReadDeadline(time.Now().Add(time.Minute))
		a.SetReadDeadline(time.Now())
		start = time.Now()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("ReadFrom: %v after %v", err, time.Since(start))
		}
		if _, err := a.WriteTo(nil, &net.TCPAddr{}); err == nil {
			t.Error("writes to a TCP address")
		}
	})
}
