package webfile

import (
	"context"
	"net/netip"
	"syscall"
)

type proxyKey struct{}

// throughProxy marks the context of a request that goes to a proxy. The user chose its address.
func throughProxy(ctx context.Context) context.Context {
	return context.WithValue(ctx, proxyKey{}, true)
}

// control returns the function of net.Dialer that refuses addresses. It sees the address to which
// a name resolved, so a name cannot lead elsewhere between a check and its use.
func control(mayConnect func(netip.Addr) bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		if ctx.Value(proxyKey{}) != nil {
			return nil
		}
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if ip := addr.Addr().Unmap(); !mayConnect(ip) {
			return &refusedAddressError{ip}
		}
		return nil
	}
}
