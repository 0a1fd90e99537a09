package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// failedWrite returns the error of a write as package net returns it.
func failedWrite(cause error) error {
	if number, ok := cause.(syscall.Errno); ok {
		cause = os.NewSyscallError("sendto", number)
	}
	return &net.OpError{Op: "write", Net: "udp", Err: cause}
}

// TestOutageIsLoss checks which errors of a write count as lost packets, and that the error of a
// first write is reported.
func TestOutageIsLoss(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{failedWrite(syscall.ENETDOWN), true},
		{failedWrite(syscall.ENETUNREACH), true},
		{failedWrite(syscall.EHOSTDOWN), true},
		{failedWrite(syscall.EHOSTUNREACH), true},
		{failedWrite(syscall.EADDRNOTAVAIL), true},
		{failedWrite(syscall.ENOBUFS), true},
		{failedWrite(syscall.ECONNREFUSED), true},
		{failedWrite(syscall.EPERM), true},
		{failedWrite(syscall.EACCES), true},
		{fmt.Errorf("wrapped: %w", failedWrite(syscall.ENETUNREACH)), true},
		{failedWrite(syscall.EMSGSIZE), false}, // QUIC searches for the MTU with it
		{failedWrite(syscall.EINVAL), false},
		{failedWrite(syscall.EBADF), false},
		{failedWrite(syscall.EIO), false},
		{failedWrite(net.ErrClosed), false},
		{failedWrite(os.ErrDeadlineExceeded), false},
		{errors.New("another"), false},
	} {
		var c steadyConn
		if c.isLost(tt.err) {
			t.Errorf("%v: a first packet counts as lost", tt.err)
		}
		c.isLost(nil) // a write succeeds
		if got := c.isLost(tt.err); got != tt.want {
			t.Errorf("%v: lost: %v, want %v", tt.err, got, tt.want)
		}
		if got := c.isLost(tt.err); got != tt.want {
			t.Errorf("%v, again: lost: %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestSteadyConnWrites checks the results of writes, also to an address for which there is no route
// and on a closed socket.
func TestSteadyConnWrites(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &steadyConn{UDPConn: conn}
	self := conn.LocalAddr().(*net.UDPAddr)
	unreachable := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9} // from a loopback address
	p := []byte("packet")
	write := func(to *net.UDPAddr) (first, second error) {
		n, first := c.WriteTo(p, to)
		if first == nil && n != len(p) {
			t.Errorf("wrote %d bytes to %v", n, to)
		}
		m, oobn, second := c.WriteMsgUDP(p, nil, to)
		if second == nil && m+oobn != len(p) {
			t.Errorf("wrote %d and %d bytes to %v", m, oobn, to)
		}
		return first, second
	}
	if first, second := write(unreachable); first == nil || second == nil {
		t.Skip("this system has a route from 127.0.0.1 to 192.0.2.1")
	}
	if first, second := write(self); first != nil || second != nil {
		t.Fatal(first, second)
	}
	if first, second := write(unreachable); isOutage(first) || isOutage(second) {
		t.Errorf("an outage is reported: %v, %v", first, second)
	}
	conn.Close()
	if first, second := write(self); !errors.Is(first, net.ErrClosed) || !errors.Is(second, net.ErrClosed) {
		t.Errorf("on a closed socket: %v, %v", first, second)
	}
}

// TestIsRefused checks the answers of ports that are closed, that answer, that are silent, and that
// close or answer meanwhile.
func TestIsRefused(t *testing.T) {
	listen := func() (*net.UDPConn, netip.AddrPort) {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	ask := func(t *testing.T, addr netip.AddrPort, limit time.Duration) (isRefused bool, took time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		begun := time.Now()
		return IsRefused(ctx, addr), time.Since(begun)
	}
	const long = 5 * time.Second

	t.Run("closed", func(t *testing.T) {
		conn, addr := listen()
		conn.Close()
		if isRefused, took := ask(t, addr, long); !isRefused || took > long/2 {
			t.Errorf("%v after %v", isRefused, took)
		}
	})
	t.Run("silent", func(t *testing.T) {
		_, addr := listen()
		if isRefused, took := ask(t, addr, 120*time.Millisecond); isRefused || took < 100*time.Millisecond || took > long/2 {
			t.Errorf("%v after %v", isRefused, took)
		}
	})
	t.Run("answers", func(t *testing.T) {
		conn, addr := listen()
		done := make(chan struct{})
		go func() { // ends with the first packet; the test waits for it
			defer close(done)
			_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 10))
			if err == nil {
				conn.WriteToUDPAddrPort([]byte("hello"), from)
			}
		}()
		if isRefused, took := ask(t, addr, long); isRefused || took > long/2 {
			t.Errorf("%v after %v", isRefused, took)
		}
		<-done
	})
	t.Run("closes meanwhile", func(t *testing.T) {
		conn, addr := listen()
		done := make(chan struct{})
		go func() { // ends with the first packet; the test waits for it
			defer close(done)
			conn.Read(make([]byte, 10))
			conn.Close()
		}()
		if isRefused, took := ask(t, addr, long); !isRefused || took > long/2 {
			t.Errorf("%v after %v", isRefused, took)
		}
		<-done
	})
	t.Run("the context has ended", func(t *testing.T) {
		conn, addr := listen()
		conn.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if IsRefused(ctx, addr) {
			t.Error("a question that was not asked has an answer")
		}
	})
	t.Run("cancelled meanwhile", func(t *testing.T) {
		conn, addr := listen()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { // ends with the first packet; the test waits for it
			defer close(done)
			conn.Read(make([]byte, 10))
			cancel()
		}()
		begun := time.Now()
		if isRefused := IsRefused(ctx, addr); isRefused || time.Since(begun) > long/2 {
			t.Errorf("%v after %v", isRefused, time.Since(begun))
		}
		<-done
	})
	t.Run("no address", func(t *testing.T) {
		if isRefused, _ := ask(t, netip.AddrPort{}, 100*time.Millisecond); isRefused {
			t.Error("an invalid address is refused")
		}
	})
}
