package kwik

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/proto"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// joinTimeout bounds a whole join.
const joinTimeout = 10 * time.Second

// A joinSecret is a key that only the two ends of a join connection know: 32 bytes exported from its TLS session (RFC 5705).
type joinSecret [32]byte

func newJoinSecret(conn *quic.Conn) (k joinSecret, err error) {
	state := conn.ConnectionState().TLS
	raw, err := state.ExportKeyingMaterial("EXPORTER-kwik-join", nil, len(k))
	copy(k[:], raw)
	return k, err
}

// proveProbe is what a secondary answers to a probe.
func (k joinSecret) proveProbe(nonce []byte) []byte { return keyedMAC(k, "kwik join probe", nonce) }

// proveToken shows knowledge of the join token, bound to this join; role is "secondary" or "primary".
func (k joinSecret) proveToken(token []byte, role string) []byte {
	if len(token) == 0 {
		return nil
	}
	var key [32]byte
	blake3.DeriveKey("kwik 2026 join token", token, key[:])
	return keyedMAC(key, "kwik join "+role, k[:])
}

func keyedMAC(key [32]byte, context string, data []byte) []byte {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("kwik: internal error: " + err.Error()) // only a key that is not 32 bytes long
	}
	h.WriteString(context)
	h.Write(data)
	return h.Sum(nil)
}

// A JoinConfig says how a secondary joins.
type JoinConfig struct {
	// TLS decides whether the primary is to be trusted. With a Token it may be nil: then whoever knows the token is.
	TLS *tls.Config
	// Token is the primary's join token; empty if it has none.
	Token []byte
	// Advertise is the address under which clients reach this secondary. Invalid (zero): the one that the primary sees.
	Advertise netip.AddrPort
}

// A Membership is a secondary's being known to its primary. It lasts as long as the connection between the two.
type Membership struct {
	id      ServerID
	primary netip.AddrPort
	conn    *quic.Conn
}

// ID returns the name that the primary gave this secondary.
func (m *Membership) ID() ServerID { return m.id }

// Primary returns the address at which the primary was reached.
func (m *Membership) Primary() netip.AddrPort { return m.primary }

// Context ends with the membership; its cause says why.
func (m *Membership) Context() context.Context { return m.conn.Context() }

// Close ends the membership: the primary offers this secondary to nobody any more.
func (m *Membership) Close() error {
	return m.conn.CloseWithError(ApplicationErrorCode(NoError), "leaving")
}

// Join makes this secondary known to the primary at host:port, through the listener's own socket. It returns when the
// primary has dialled back and accepted. Errors are quic-go's, or an [*Error] of code ErrAccessRefused (token, address),
// ErrInvalidStreamRole (not a primary), ErrSecondaryStreamOverflow (it has enough).
func (l *Listener) Join(ctx context.Context, primary string, conf JoinConfig) (*Membership, error) {
	if l.config.Role != ServerRoleSecondary {
		return nil, errorf(ErrInvalidStreamRole, "a %s does not join", l.config.Role)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	base := conf.TLS
	if base == nil {
		if len(conf.Token) == 0 {
			return nil, errors.New("kwik: joining without a token needs a tls.Config")
		}
		// The primary's proof of the token, bound to this TLS session, takes the place of its certificate's.
		base = &tls.Config{InsecureSkipVerify: true}
	}
	conn, addr, err := l.dialPrimary(ctx, primary, clientTLS(base, ProtocolJoin))
	if err != nil {
		return nil, fromQUIC(err, primaryPathID)
	}
	id, err := l.join(ctx, conn, conf)
	if err == nil && !l.keep(conn) {
		err = errorf(NoError, "server closed")
	}
	if err != nil {
		if ctx.Err() != nil {
			conn.CloseWithError(ApplicationErrorCode(NoError), "") // the primary did nothing wrong
		}
		conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
		return nil, fromQUIC(err, primaryPathID)
	}
	return &Membership{id: id, primary: addr, conn: conn}, nil
}

// keep answers the primary's challenges as long as a membership lasts, and ends it when the listener closes. It reports false if the listener is closed already.
func (l *Listener) keep(conn *quic.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.wg.Go(func() {
		defer context.AfterFunc(l.ctx, func() { conn.CloseWithError(ApplicationErrorCode(NoError), "server closed") })()
		l.answerChallenges(conn)
	})
	return true
}

// dialPrimary tries the addresses of host:port in order, through the listener's socket.
func (l *Listener) dialPrimary(ctx context.Context, primary string, tlsConf *tls.Config) (*quic.Conn, netip.AddrPort, error) {
	addrs, err := l.config.resolve(ctx, primary)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if tlsConf.ServerName == "" {
		tlsConf.ServerName, _, _ = net.SplitHostPort(primary)
	}
	var errs []error
	for i, addr := range addrs {
		attempt, cancel := context.WithTimeout(ctx, joinTimeout/time.Duration(2*(len(addrs)-i)))
		conn, err := l.transport.Dial(attempt, net.UDPAddrFromAddrPort(addr), tlsConf, l.config.joinQUIC())
		cancel()
		if err == nil {
			return conn, addr, nil
		}
		errs = append(errs, fmt.Errorf("%v: %w", addr, err))
	}
	return nil, netip.AddrPort{}, errors.Join(errs...)
}

// join is the secondary's side of docs/PROTOCOL.md section 9.
func (l *Listener) join(ctx context.Context, conn *quic.Conn, conf JoinConfig) (ServerID, error) {
	k, err := newJoinSecret(conn)
	if err != nil {
		return "", err
	}
	pin, err := l.ownPin()
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	busy := l.joining != nil
	if !busy {
		l.joining = &k
	}
	l.mu.Unlock()
	if busy {
		return "", errors.New("kwik: two joins at once")
	}
	defer func() {
		l.mu.Lock()
		l.joining = nil
		l.mu.Unlock()
	}()
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })()
	request := &kwikpb.JoinRequest{Version: protocolVersion, KeyHash: pin[:], TokenProof: k.proveToken(conf.Token, "secondary")}
	if conf.Advertise.IsValid() {
		request.Advertise = conf.Advertise.String()
	}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: request}}); err != nil {
		return "", err
	}
	f, err := readJoin(stream)
	if err != nil {
		return "", err
	}
	accept := f.GetAccept()
	id := ServerID(accept.GetPathId())
	switch {
	case accept == nil || !id.valid() || len(accept.GetTicketKey()) != len(ticketKey{}):
		return "", errorf(ErrMetadataProtocolViolation, "the primary's answer is not JoinAccept")
	case len(conf.Token) > 0 && subtle.ConstantTimeCompare(accept.GetTokenProof(), k.proveToken(conf.Token, "primary")) != 1:
		return "", errorf(ErrAccessRefused, "the primary does not know the join token")
	}
	l.mu.Lock()
	l.keys = append([]ticketKey{ticketKey(accept.GetTicketKey())}, l.keys[:min(1, len(l.keys))]...)
	l.mu.Unlock()
	return id, nil
}

// serveProbe is the secondary's answer when its primary dials back.
func (l *Listener) serveProbe(conn *quic.Conn) error {
	ctx, cancel := context.WithTimeout(l.ctx, l.config.HelloTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return errorf(ErrMetadataProtocolViolation, "no probe came")
	}
	stream.SetDeadline(time.Now().Add(l.config.HelloTimeout))
	f, err := readJoin(stream)
	if err != nil || len(f.GetProbe().GetNonce()) != 32 {
		if f.GetRequest() != nil {
			return errorf(ErrInvalidStreamRole, "this server is a secondary; join its primary")
		}
		return errorf(ErrMetadataProtocolViolation, "the first frame is not JoinProbe")
	}
	l.mu.Lock()
	k := l.joining
	l.mu.Unlock()
	if k == nil {
		return errorf(ErrAccessRefused, "this server is not joining")
	}
	proof := &kwikpb.JoinProof{Mac: k.proveProbe(f.GetProbe().GetNonce())}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Proof{Proof: proof}}); err != nil {
		return err
	}
	select { // the primary closes the connection when it has read the proof
	case <-conn.Context().Done():
	case <-ctx.Done():
	}
	return nil
}

// serveJoin is the primary's side of a join; it stays until the membership ends.
func (l *Listener) serveJoin(conn *quic.Conn, greeted func()) error {
	ctx, cancel := context.WithTimeout(l.ctx, joinTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return errorf(ErrMetadataProtocolViolation, "no JoinRequest came")
	}
	stream.SetDeadline(time.Now().Add(l.config.HelloTimeout))
	f, err := readJoin(stream)
	if err != nil {
		return err
	}
	m, k, err := l.judgeJoin(conn, f.GetRequest())
	if err != nil {
		return err
	}
	if err := l.probe(ctx, m, k); err != nil {
		return errorf(ErrAccessRefused, "dialling back to %v: %w", m.addr, err)
	}
	obsolete, err := l.admit(m)
	if err != nil {
		return err
	}
	greeted()
	if obsolete != nil {
		obsolete.CloseWithError(ApplicationErrorCode(NoError), "joined again")
	}
	l.config.OnMembership(m.id, m.addr, nil)
	accept := &kwikpb.JoinAccept{PathId: string(m.id), TicketKey: m.key[:], TokenProof: k.proveToken(l.config.JoinToken, "primary")}
	stream.SetDeadline(time.Time{})
	err = writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Accept{Accept: accept}})
	if err == nil {
		select {
		case <-conn.Context().Done():
			err = context.Cause(conn.Context())
		case <-l.ctx.Done():
			err = errorf(NoError, "server closed")
		}
	}
	if l.dismiss(m, printable(err.Error())) {
		l.config.OnMembership(m.id, m.addr, err)
	}
	return err
}

// judgeJoin decides whether a secondary may join, before it is dialled back.
func (l *Listener) judgeJoin(conn *quic.Conn, r *kwikpb.JoinRequest) (*member, joinSecret, error) {
	k, err := newJoinSecret(conn)
	if err != nil {
		return nil, k, err
	}
	seen, err := addrPort(conn.RemoteAddr())
	if err != nil {
		return nil, k, err
	}
	local := l.isLocal(seen.Addr())
	switch {
	case r == nil || len(r.GetKeyHash()) != len(trust.Pin{}):
		return nil, k, errorf(ErrMetadataProtocolViolation, "the first frame is not JoinRequest")
	case r.GetVersion() != protocolVersion:
		return nil, k, errorf(ErrVersionMismatch, "KWIK version %d is not spoken here, version %d is", r.GetVersion(), protocolVersion)
	case len(l.config.JoinToken) == 0 && !local:
		return nil, k, errorf(ErrAccessRefused, "this primary has no join token, so only secondaries on its own machine may join")
	case len(l.config.JoinToken) > 0 && subtle.ConstantTimeCompare(r.GetTokenProof(), k.proveToken(l.config.JoinToken, "secondary")) != 1:
		return nil, k, errorf(ErrAccessRefused, "join token missing or wrong")
	}
	m := &member{addr: seen, pin: trust.Pin(r.GetKeyHash()), conn: conn}
	rand.Read(m.key[:])
	if text := r.GetAdvertise(); text != "" {
		addr, err := netip.ParseAddrPort(text)
		ip := addr.Addr().Unmap()
		if err != nil || addr.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
			return nil, k, errorf(ErrAccessRefused, "%q is no address to advertise", printable(text))
		}
		if (ip.IsLoopback() || ip.IsLinkLocalUnicast()) && !local {
			return nil, k, errorf(ErrAccessRefused, "%v cannot be reached from elsewhere", addr)
		}
		m.addr = netip.AddrPortFrom(ip, addr.Port())
	}
	return m, k, nil
}

// probe dials a secondary back: whoever answers at its address has its key and is who asked to join.
func (l *Listener) probe(ctx context.Context, m *member, k joinSecret) error {
	tlsConf := clientTLS(trust.PinnedClientConfig(&tls.Config{Time: l.tls.Time}, m.pin), ProtocolJoin)
	conn, err := l.transport.Dial(ctx, net.UDPAddrFromAddrPort(m.addr), tlsConf, l.config.joinQUIC())
	if err != nil {
		return err
	}
	defer conn.CloseWithError(ApplicationErrorCode(NoError), "")
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	stream.SetDeadline(time.Now().Add(l.config.HelloTimeout))
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Probe{Probe: &kwikpb.JoinProbe{Nonce: nonce}}}); err != nil {
		return err
	}
	f, err := readJoin(stream)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(f.GetProof().GetMac(), k.proveProbe(nonce)) != 1 {
		return errors.New("another server answers there")
	}
	return nil
}

// ownPin returns the hash of the listener's own public key.
func (l *Listener) ownPin() (trust.Pin, error) {
	if len(l.tls.Certificates) == 0 {
		return trust.Pin{}, errors.New("kwik: a listener that joins needs its certificate in tls.Config.Certificates")
	}
	cert := l.tls.Certificates[0]
	leaf := cert.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return trust.Pin{}, err
		}
	}
	return trust.PinOf(leaf), nil
}

// joinQUIC returns the QUIC configuration of connections between servers that this side opens: a membership is kept
// alive and noticed to be dead within a few seconds.
func (c *ServerConfig) joinQUIC() *quic.Config {
	q := c.QUIC.Clone()
	q.KeepAlivePeriod = 2 * time.Second
	q.MaxIdleTimeout = 8 * time.Second
	q.MaxIncomingStreams, q.MaxIncomingUniStreams = 1, -1 // challenges
	return q
}

func writeJoin(stream *quic.Stream, f *kwikpb.JoinFrame) error {
	raw, err := appendDelimited(nil, proto.Message(f))
	if err != nil {
		return err
	}
	_, err = stream.Write(raw)
	return err
}

// readJoin reads one frame. Nothing follows it before it is answered, so that reading ahead loses nothing.
func readJoin(stream *quic.Stream) (*kwikpb.JoinFrame, error) {
	f := &kwikpb.JoinFrame{}
	if err := readDelimited(bufio.NewReaderSize(stream, 512), maxJoinFrame, f); err != nil {
		return nil, err
	}
	return f, nil
}
