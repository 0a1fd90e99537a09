package webfile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"syscall"
)

// connectError returns the error of a request without an answer.
func connectError(u *url.URL, err error) *Error {
	e := &Error{URL: Shown(u), Err: err}
	if refused, ok := errors.AsType[*refusedAddressError](err); ok {
		e.Err, e.Permanent = refused, true
		return e
	}
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		e.Err, e.Permanent = verification.Err, true
		return e
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		e.Err, e.Permanent = errors.New("its name does not resolve"), dns.IsNotFound
		return e
	}
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isNoTLS := errors.AsType[tls.RecordHeaderError](err)
	e.Permanent = isUnknown || isNoTLS || errors.Is(err, errNearby)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Err = errors.New("the port is closed")
	case isNoTLS:
		e.Err = errors.New("the server does not speak TLS")
	}
	return e
}
