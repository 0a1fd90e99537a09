package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"
)

const (
	// firstWait and longestWait bound the time between two packets of IsRefused. Systems limit
	// how often they refuse packets.
	firstWait   = 50 * time.Millisecond
	longestWait = 400 * time.Millisecond
)

// IsRefused asks until ctx ends whether the system at an address refuses packets to its port,
// with ICMP: nothing listens there. It returns false as soon as something does answer. A server
// drops the packets, which have one byte.
func IsRefused(ctx context.Context, addr netip.AddrPort) bool {
	if !addr.IsValid() { // a socket would ask this host
		return false
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr)) // only a connected socket hears of ICMP
	if err != nil {
		return false
	}
	defer conn.Close()
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, longestWait) {
		if _, err := conn.Write([]byte{0}); isRefusal(err) {
			return true
		}
		deadline := time.Now().Add(wait)
		if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
			deadline = end
		}
		conn.SetReadDeadline(deadline)
		stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
		_, err := conn.Read(make([]byte, 1))
		stop()
		if err == nil || isRefusal(err) {
			return err != nil
		}
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			continue
		}
		select { // such an answer arrives at once
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return false
}

// isRefusal reports whether an error is ICMP's "port unreachable".
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || isWindows(err, wsaConnReset)
}

// Error numbers of Windows, for which package syscall has others.
const (
	wsaAddrNotAvail = syscall.Errno(10049)
	wsaNetDown      = syscall.Errno(10050)
	wsaNetUnreach   = syscall.Errno(10051)
	wsaConnReset    = syscall.Errno(10054) // after an ICMP message
	wsaHostUnreach  = syscall.Errno(10065)
)

func isWindows(err error, number syscall.Errno) bool {
	return runtime.GOOS == "windows" && errors.Is(err, number)
}
