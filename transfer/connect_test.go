package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

func sysError(errno syscall.Errno) error {
	return &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmsg", errno)}
}

// TestConnectErrors checks that each way in which a connection fails has its own reason and text,
// also if it is one of several addresses.
func TestConnectErrors(t *testing.T) {
	noName := &net.DNSError{Err: "no such host", Name: "nowhere.example", IsNotFound: true}
	noLookup := &net.DNSError{Err: "i/o timeout", Name: "nowhere.example", Server: "192.0.2.53:53", IsTimeout: true}
	noFamily := &net.AddrError{Err: "no IPv6 address", Addr: "nowhere.example"}
	refused := fmt.Errorf("192.0.2.1:4433: the port is closed: %w", syscall.ECONNREFUSED)
	silent := fmt.Errorf("192.0.2.2:4433: %w", &quic.HandshakeTimeoutError{})
	pin := &trust.PinError{}
	r := request{url: URL{Host: "nowhere.example:4433"}}
	for _, tt := range []struct {
		err    error
		reason ConnectReason
		text   string
	}{
		{noName, ConnectNoName, `the name "nowhere.example" does not resolve: no such host`},
		{noLookup, ConnectNoLookup, `the name "nowhere.example" could not be looked up: i/o timeout`},
		{noFamily, ConnectNoAddress, `the name "nowhere.example" has no IPv6 address`},
		{refused, ConnectClosed, "the port is closed: connection refused"},
		{errors.Join(refused, refused), ConnectClosed, "the port is closed: connection refused"},
		{silent, ConnectNoAnswer, "no answer in time"},
		{errors.Join(refused, silent), ConnectNoAnswer, "no answer in time"},
		{context.DeadlineExceeded, ConnectNoAnswer, "no answer in time"},
		{&quic.IdleTimeoutError{}, ConnectNoAnswer, "no answer in time"},
		{sysError(syscall.ENETUNREACH), ConnectNoRoute, "no route to the server"},
		{sysError(syscall.EHOSTUNREACH), ConnectNoRoute, "no route to the server"},
		{errors.Join(sysError(syscall.ENETUNREACH), silent), ConnectNoAnswer, "no answer in time"},
		{errors.Join(sysError(syscall.ENETUNREACH), refused), ConnectClosed, "the port is closed: connection refused"},
	} {
		err := r.connectError(tt.err)
		c, ok := errors.AsType[*ConnectError](err)
		if !ok || c.Reason != tt.reason {
			t.Errorf("%v: %#v", tt.err, err)
			continue
		}
		if want := "connect to nowhere.example:4433 over UDP: " + tt.text; err.Error() != want {
			t.Errorf("%v: %q, want %q", tt.err, err, want)
		}
		if isSilent := tt.reason == ConnectNoAnswer; errors.Is(err, errNoAnswer) != isSilent {
			t.Errorf("%v: it matches a silent server: %v", tt.err, !isSilent)
		}
	}
	if err := r.connectError(errors.Join(silent, pin)); errors.Is(err, errNoAnswer) {
		t.Errorf("another key at one address: %v", err)
	}
}
