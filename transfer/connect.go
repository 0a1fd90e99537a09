package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/quic-go/quic-go"
)

// A ConnectReason is why there is no connection to a server.
type ConnectReason int

const (
	ConnectNoAnswer  ConnectReason = iota // nothing answers; the server may be down, or UDP blocked
	ConnectClosed                         // nothing listens at the port, as the server's system reports
	ConnectNoRoute                        // this machine has no way to the address
	ConnectNoName                         // the name has no address
	ConnectNoLookup                       // the name could not be looked up
	ConnectNoAddress                      // the name has no address of the requested family
)

// A ConnectError is the error of a connection that could not be made. Addresses and names are in
// [Error.Op], or in the cause.
type ConnectError struct {
	Reason ConnectReason
	// Err is the cause. If there were several addresses, it is the cause of one of them or a join.
	Err error
}

func (e *ConnectError) Error() string {
	switch e.Reason {
	case ConnectClosed:
		return "the port is closed: " + syscall.ECONNREFUSED.Error()
	case ConnectNoRoute:
		return "no route to the server"
	case ConnectNoName, ConnectNoLookup:
		if dns, ok := errors.AsType[*net.DNSError](e.Err); ok {
			return describeLookup(e.Reason, dns)
		}
	case ConnectNoAddress:
		if addr, ok := errors.AsType[*net.AddrError](e.Err); ok {
			return fmt.Sprintf("the name %q has %s", addr.Addr, addr.Err)
		}
	}
	return errNoAnswer.Error()
}

func describeLookup(reason ConnectReason, dns *net.DNSError) string {
	if reason == ConnectNoName {
		return fmt.Sprintf("the name %q does not resolve: %s", dns.Name, dns.Err)
	}
	return fmt.Sprintf("the name %q could not be looked up: %s", dns.Name, dns.Err)
}

// Is makes a server that does not answer match the error of other waits.
func (e *ConnectError) Is(target error) bool {
	return e.Reason == ConnectNoAnswer && target == errNoAnswer
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// noRoutes are the errors of a system that cannot send packets to an address.
var noRoutes = []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL}

// connectCause returns the error of a connection that could not be made as a ConnectError; nil
// if it is none.
func connectCause(err error) error {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return &ConnectError{Reason: ConnectNoName, Err: err}
		}
		return &ConnectError{Reason: ConnectNoLookup, Err: err}
	}
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return &ConnectError{Reason: ConnectNoAddress, Err: err}
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return &ConnectError{Reason: ConnectNoAnswer, Err: err}
	}
	isTimeout := errors.Is(err, context.DeadlineExceeded)
	switch {
	case isTimeout:
		return nil // of any wait
	case errors.Is(err, syscall.ECONNREFUSED):
		return &ConnectError{Reason: ConnectClosed, Err: err}
	}
	for _, errno := range noRoutes {
		if errors.Is(err, errno) {
			return &ConnectError{Reason: ConnectNoRoute, Err: err}
		}
	}
	return nil
}
