package kwik

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// Dial connects to a primary through a socket of the caller, who closes it after the session.
//
// It differs from quic-go's Dial in two ways: the ALPN protocol is "kwik/1" whatever tlsConf
// contains, and it returns after the server's Welcome. Errors are quic-go's, or an [*Error]:
// ErrInvalidStreamRole if the server is a secondary, ErrAccessRefused, ErrVersionMismatch or
// ErrMetadataProtocolViolation.
func Dial(
	ctx context.Context, conn net.PacketConn, addr net.Addr, tlsConf *tls.Config, conf *ClientConfig,
) (*ClientSession, error) {
	s, err := DialEarly(ctx, conn, addr, tlsConf, conf)
	if err != nil {
		return nil, err
	}
	return s.afterWelcome(ctx)
}

// DialEarly is Dial, except that it returns one round trip earlier: after the QUIC handshake,
// which authenticates the server, and with Hello sent. The server reads data of the session's
// streams after it has accepted Hello. If it refuses, all calls fail.
func DialEarly(
	ctx context.Context, conn net.PacketConn, addr net.Addr, tlsConf *tls.Config, conf *ClientConfig,
) (*ClientSession, error) {
	remote, err := addrPort(addr)
	if err != nil {
		return nil, err
	}
	c, err := conf.effective()
	if err != nil {
		return nil, err
	}
	s := newClientSession(tlsConf, c)
	transport := &quic.Transport{Conn: conn}
	q, shares := s.firstQUIC(ctx)
	quicConn, err := transport.Dial(ctx, addr, clientTLS(tlsConf, protocolClient), q)
	if err != nil {
		transport.Close()
		return nil, fromQUIC(err, primaryPathID)
	}
	d := dialled{conn: quicConn, addr: remote, transport: transport, release: func() { transport.Close() }}
	return s.connected(ctx, d.owns(shares))
}

// DialAddr connects to a primary at host:port, through a socket that ClientConfig.ListenPacket
// opens. It tries several addresses in order, IPv6 and IPv4 in turn (RFC 8305). Each attempt
// starts 250 ms after the previous one, or as soon as that one has failed. The first connection
// that completes its handshake is used, and the others are closed.
func DialAddr(ctx context.Context, addr string, tlsConf *tls.Config, conf *ClientConfig) (*ClientSession, error) {
	s, err := DialAddrEarly(ctx, addr, tlsConf, conf)
	if err != nil {
		return nil, err
	}
	return s.afterWelcome(ctx)
}

// DialAddrEarly is DialAddr, except that it returns as early as DialEarly.
func DialAddrEarly(ctx context.Context, addr string, tlsConf *tls.Config, conf *ClientConfig) (*ClientSession, error) {
	c, err := conf.effective()
	if err != nil {
		return nil, err
	}
	addrs, err := c.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	tlsConf = tlsConf.Clone()
	if tlsConf == nil {
		tlsConf = &tls.Config{}
	}
	if tlsConf.ServerName == "" {
		tlsConf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	s := newClientSession(tlsConf, c)
	q, shares := s.firstQUIC(ctx)
	tlsConf = clientTLS(tlsConf, protocolClient)
	d, err := dialAny(ctx, addrs, func(ctx context.Context, to netip.AddrPort) (dialled, error) {
		return dialOne(ctx, to, tlsConf, q, c.ListenPacket, c.askPort)
	})
	if err != nil {
		return nil, fromQUIC(err, primaryPathID)
	}
	return s.connected(ctx, d.owns(shares))
}

// firstQUIC returns the QUIC configuration of a session's first path. If the caller set no time-out
// of the handshake, the deadline of ctx is one, be it shorter or longer than the default.
func (s *ClientSession) firstQUIC(ctx context.Context) (*quic.Config, *pathShares) {
	q, shares := s.pathQUIC(ServerRolePrimary)
	if deadline, ok := ctx.Deadline(); ok && s.config.defaultHandshake {
		q.HandshakeIdleTimeout = max(q.HandshakeIdleTimeout, time.Until(deadline))
	}
	return q, shares
}

// helloDeadline returns until when the server must send Welcome on a path that ctx opens.
func (c *ClientConfig) helloDeadline(ctx context.Context, isFirst bool) time.Time {
	by := time.Now().Add(c.HelloTimeout)
	if deadline, ok := ctx.Deadline(); ok && isFirst && c.defaultHello && deadline.After(by) {
		return deadline
	}
	return by
}

// afterWelcome returns the session after the server's Welcome, and closes it if that does not
// arrive.
func (s *ClientSession) afterWelcome(ctx context.Context) (*ClientSession, error) {
	if err := s.Welcomed(ctx); err != nil {
		s.CloseWithError(ApplicationErrorCode(NoError), "")
		return nil, err
	}
	return s, nil
}

// connected begins the session with the connection to its primary.
func (s *ClientSession) connected(ctx context.Context, d dialled) (*ClientSession, error) {
	p, err := openPath(ctx, s, d, primaryPathID, ServerRolePrimary, nil)
	if err != nil {
		return nil, err
	}
	s.begin(p)
	return s, nil
}

// A dialled is a new connection and the function that frees its socket.
type dialled struct {
	conn       *quic.Conn
	addr       netip.AddrPort
	transport  *quic.Transport
	release    func()
	maxStreams int // secondary streams that may be open at once
}

// attemptDelay is the time between attempts at the addresses of one host (RFC 8305 section 5).
const attemptDelay = 250 * time.Millisecond

type (
	dialOneFunc      func(context.Context, netip.AddrPort) (dialled, error)
	listenPacketFunc func(context.Context, netip.AddrPort) (net.PacketConn, error)
	askPortFunc      func(context.Context, netip.AddrPort) (isRefused bool)
)

// askDelay is the time without an answer after which a dial asks whether the port is closed. Most
// handshakes are complete by then, and cost nothing more.
const askDelay = 100 * time.Millisecond

// dialAny connects with dial to the first of addrs that completes its handshake.
func dialAny(ctx context.Context, addrs []netip.AddrPort, dial dialOneFunc) (dialled, error) {
	type attempt struct {
		dialled
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt)
	started, ended := 0, 0
	start := func() {
		to := addrs[started]
		started++
		go func() { // ends with its dial, by ctx at the latest; the loops below receive every result
			d, err := dial(ctx, to)
			results <- attempt{d, err}
		}()
	}
	var errs []error
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	start()
	for ended < started {
		var next <-chan time.Time
		if started < len(addrs) {
			next = timer.C
		}
		select {
		case <-next:
			start()
			timer.Reset(attemptDelay)
		case a := <-results:
			ended++
			if a.err == nil {
				cancel()
				for ; ended < started; ended++ {
					if late := <-results; late.err == nil {
						late.conn.CloseWithError(ApplicationErrorCode(NoError), "")
						late.release()
					}
				}
				return a.dialled, nil
			}
			errs = append(errs, fmt.Errorf("%v: %w", a.addr, a.err))
			if started < len(addrs) && ctx.Err() == nil {
				start()
				timer.Reset(attemptDelay)
			}
		}
	}
	return dialled{}, errors.Join(errs...)
}

// dialOne connects through a new socket. The result has its address even if it fails. The error is
// errRefused if nothing listens at the port.
func dialOne(
	ctx context.Context, to netip.AddrPort, tlsConf *tls.Config, q *quic.Config, listen listenPacketFunc,
	ask askPortFunc,
) (dialled, error) {
	d := dialled{addr: to}
	socket, err := listen(ctx, to)
	if err != nil {
		return d, err
	}
	d.transport = &quic.Transport{Conn: socket}
	d.release = func() {
		d.transport.Close()
		socket.Close()
	}
	ctx, asked := askWhileDialing(ctx, to, ask)
	d.conn, err = d.transport.Dial(ctx, net.UDPAddrFromAddrPort(to), tlsConf, q)
	isRefused := asked()
	if err != nil {
		d.release()
		if isRefused {
			err = errRefused
		}
		return d, err
	}
	return d, nil
}

// askWhileDialing asks whether a port is closed. If it is, the context ends. done ends the
// question, waits for that and returns its result.
func askWhileDialing(
	ctx context.Context, to netip.AddrPort, ask askPortFunc,
) (dialing context.Context, done func() (isRefused bool)) {
	if ask == nil {
		return ctx, func() bool { return false }
	}
	dialing, cancel := context.WithCancel(ctx)
	result := make(chan bool, 1)
	go func() { // done ends it and waits for it
		select {
		case <-time.After(askDelay):
		case <-dialing.Done():
			result <- false
			return
		}
		isRefused := ask(dialing, to)
		if isRefused {
			cancel()
		}
		result <- isRefused
	}()
	return dialing, func() bool {
		cancel()
		return <-result
	}
}

// clientTLS returns a copy of base with the given protocol and TLS 1.3 as the minimum.
func clientTLS(base *tls.Config, protocol string) *tls.Config {
	conf := &tls.Config{}
	if base != nil {
		conf = base.Clone()
	}
	conf.NextProtos = []string{protocol}
	conf.MinVersion = tls.VersionTLS13
	return conf
}

// addrPort returns the IP address and port of a UDP address.
func addrPort(addr net.Addr) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("kwik: address %v: %w", addr, err)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
