package kwik

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/budget"
	"kwikcp/internal/udp"
)

// A Listener accepts clients and, on a primary, secondaries that join.
//
// Its goroutines are the accept loop, the session watch, one per connection or membership and, on
// a primary, one that renews tickets. Close ends them and waits for them.
type Listener struct {
	config    *ServerConfig
	tls       *tls.Config
	transport *quic.Transport
	quic      *quic.EarlyListener
	socket    net.PacketConn // closed with the listener; nil if it is the caller's
	memory    *budget.Total  // bytes that are held for clients, without queued control frames
	frames    *budget.Total  // bytes of queued control frames
	contents  *budget.Total  // open contents of attachments

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	accepted chan *ServerSession
	gate     *gate
	panics   atomic.Uint64 // contained

	rates *rateShares // of the clients

	mu       sync.Mutex
	sessions map[*ServerSession]struct{}
	draining bool          // Shutdown was called: no session begins
	empty    chan struct{} // closed when it is leaving and no session is left
	members  members       // a primary's secondaries
	revoked  revokedSessions
	reports  prefixLimit // the clients' reports of rejected bytes
	joins    *joinLimit  // attempts to join this primary
	joining  *joinSecret // a secondary's join in progress
	keys     []ticketKey // a secondary's, the newest first
}

// maxTokenAge bounds the age of the tokens that prove a client's address without a Retry.
const maxTokenAge = time.Hour

// Listen accepts connections on a socket of the caller, who closes it after the listener. It sets
// the ALPN protocols. tlsConf must have a certificate, or a GetCertificate that returns the same
// one for every ClientHello; see [Listener.CertificateChanged]. A nil conf makes a primary without
// content.
func Listen(conn net.PacketConn, tlsConf *tls.Config, conf *ServerConfig) (*Listener, error) {
	if tlsConf == nil {
		return nil, errors.New("kwik: a listener needs a tls.Config with a certificate")
	}
	c, err := conf.effective()
	if err != nil {
		return nil, err
	}
	tlsConf = tlsConf.Clone()
	tlsConf.NextProtos = []string{protocolClient, protocolJoin}
	tlsConf.MinVersion = tls.VersionTLS13
	l := &Listener{
		config: c, tls: tlsConf,
		accepted: make(chan *ServerSession),
		gate:     newGate(c),
		sessions: make(map[*ServerSession]struct{}),
		empty:    make(chan struct{}),
		contents: newContentBudget(c),
		revoked:  make(revokedSessions),
		reports:  newPrefixLimit(reportRate),
		joins:    newJoinLimit(),
		members: members{byID: make(map[ServerID]*member), unproved: make(map[memberKey]unprovedUnit),
			reach: make(reachability)},
		rates: newRateShares(c.RateLimit),
	}
	c.OnPanic = l.countPanics(c.OnPanic)
	l.memory, l.frames = newMemoryBudgets(c)
	l.transport = &quic.Transport{
		Conn: conn, StatelessResetKey: c.StatelessResetKey,
		TokenGeneratorKey: c.TokenKey, MaxTokenAge: maxTokenAge,
		VerifySourceAddress: l.gate.needsRetry, ConnContext: l.gate.connContext,
	}
	q := c.serverQUIC()
	q.KeepAlivePeriod = 0 // the peer keeps the connection alive as long as it needs it
	// Connections are accepted before their handshakes are complete, so that the gate can end them.
	if l.quic, err = l.transport.ListenEarly(tlsConf, q); err != nil {
		l.transport.Close()
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if c.Role == ServerRolePrimary {
		l.members.self = l.newSelf()
		l.wg.Go(l.renewTickets)
	}
	l.wg.Go(l.watchSessions)
	l.wg.Go(l.acceptLoop)
	return l, nil
}

// ListenAddr accepts connections on a new socket at the UDP address host:port.
func ListenAddr(addr string, tlsConf *tls.Config, conf *ServerConfig) (*Listener, error) {
	local, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	socket, err := udp.Listen("udp", local)
	if err != nil {
		return nil, err
	}
	l, err := Listen(socket, tlsConf, conf)
	if err != nil {
		socket.Close()
		return nil, err
	}
	l.socket = socket
	return l, nil
}

// Addr returns the address at which the listener listens.
func (l *Listener) Addr() net.Addr { return l.quic.Addr() }

// Accept returns the next client's session. After Close it fails with net.ErrClosed.
func (l *Listener) Accept(ctx context.Context) (*ServerSession, error) {
	select {
	case s := <-l.accepted:
		return s, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Sessions returns the number of clients that are connected to the server.
func (l *Listener) Sessions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// Close closes the listener, its sessions and its memberships, and waits for their goroutines.
func (l *Listener) Close() error {
	l.mu.Lock() // no membership may begin after this
	l.cancel()
	l.mu.Unlock()
	err := l.quic.Close()
	l.wg.Wait()
	l.transport.Close()
	if l.socket != nil {
		l.socket.Close()
	}
	return err
}

func (l *Listener) acceptLoop() {
	for {
		conn, err := l.quic.Accept(l.ctx)
		if err != nil {
			return
		}
		l.wg.Go(func() { l.contain(conn, func() { l.serve(conn) }) })
	}
}

// serve handles a connection until it ends.
func (l *Listener) serve(conn *quic.Conn) {
	defer context.AfterFunc(l.ctx, func() { conn.CloseWithError(ApplicationErrorCode(NoError), "server closed") })()
	n := newcomerOf(conn)
	defer context.AfterFunc(n.lost, func() {
		conn.CloseWithError(ApplicationErrorCode(ErrServerBusy), string(n.why))
	})()
	l.gate.serve(n)
	greeted := func() { l.gate.leave(n) }
	defer greeted()
	select {
	case <-conn.HandshakeComplete():
	case <-conn.Context().Done():
		return
	}
	err := l.gate.validate(n, conn.RemoteAddr())
	switch protocol := conn.ConnectionState().TLS.NegotiatedProtocol; {
	case err != nil:
	case protocol == protocolClient:
		err = l.serveClient(conn, greeted)
	case l.config.Role == ServerRolePrimary:
		err = l.serveJoin(conn, greeted)
	default:
		err = l.serveProbe(conn)
	}
	conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
}

// isLocal reports whether an address belongs to this host.
func (l *Listener) isLocal(ip netip.Addr) bool {
	if ip = ip.Unmap(); ip.IsLoopback() {
		return true
	}
	for _, own := range l.config.LocalAddresses() {
		if own == ip {
			return true
		}
	}
	return false
}
