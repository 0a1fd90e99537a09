package kwik

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/cpace"
	"kwikcp/internal/trust"
	"kwikcp/internal/udp"
	kwikpb "kwikcp/kwik/proto"
)

// JoinConfig is the configuration of a join.
type JoinConfig struct {
	// TLS decides whether the primary is trusted. With a Token it may be nil: then a primary
	// that knows the token is trusted.
	TLS *tls.Config
	// Token is the primary's join token, of at least MinJoinToken bytes; empty if it has none.
	Token []byte
	// Advertise is the address at which clients reach this secondary. The zero value stands for
	// the address that the primary sees.
	Advertise netip.AddrPort
}

// A Membership is a secondary's registration with its primary. It lasts as long as the connection
// between the two.
type Membership struct {
	id      ServerID
	primary netip.AddrPort
	conn    *quic.Conn
}

// ID returns the server ID that the primary gave this secondary.
func (m *Membership) ID() ServerID { return m.id }

// Primary returns the address at which the primary was reached.
func (m *Membership) Primary() netip.AddrPort { return m.primary }

// Context is canceled when the membership ends; its cause is the reason.
func (m *Membership) Context() context.Context { return m.conn.Context() }

// Close ends the membership: the primary no longer announces this secondary to clients.
func (m *Membership) Close() error {
	return m.conn.CloseWithError(ApplicationErrorCode(NoError), "leaving")
}

// Join registers this secondary with the primary at host:port, through the listener's own socket.
// It returns when the primary has dialed back and accepted. An error is quic-go's or an [*Error]
// with code ErrAccessRefused (token or address), ErrInvalidStreamRole (not a primary) or
// ErrServerBusy (too many secondaries).
func (l *Listener) Join(ctx context.Context, primary string, conf JoinConfig) (*Membership, error) {
	if l.config.Role != ServerRoleSecondary {
		return nil, errorf(ErrInvalidStreamRole, "a %s does not join", l.config.Role)
	}
	if err := checkToken(conf.Token); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	base := conf.TLS
	if base == nil {
		if len(conf.Token) == 0 {
			return nil, errors.New("kwik: joining without a token needs a tls.Config")
		}
		// The primary proves that it knows the token. The proof is bound to this TLS session and
		// replaces the check of the certificate.
		base = &tls.Config{InsecureSkipVerify: true}
	}
	conn, addr, err := l.dialPrimary(ctx, primary, clientTLS(base, protocolJoin))
	if err != nil {
		return nil, fromQUIC(err, primaryPathID)
	}
	id, err := l.join(ctx, conn, conf)
	if err == nil && !l.startMembership(conn) {
		err = errorf(NoError, "server closed")
	}
	if err != nil {
		if isAborted := ctx.Err() != nil; isAborted {
			conn.CloseWithError(ApplicationErrorCode(NoError), "") // the primary broke no rule
		} else {
			conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
		}
		return nil, fromQUIC(err, primaryPathID)
	}
	return &Membership{id: id, primary: addr, conn: conn}, nil
}

// startMembership starts to answer the primary's challenges, and ends the membership when the
// listener closes. It returns false if the listener is closed already.
func (l *Listener) startMembership(conn *quic.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.wg.Go(func() {
		defer context.AfterFunc(l.ctx, func() { conn.CloseWithError(ApplicationErrorCode(NoError), "server closed") })()
		l.contain(conn, func() { l.answerChallenges(conn) })
	})
	return true
}

// dialPrimary connects to host:port through the listener's socket, as DialAddr does.
func (l *Listener) dialPrimary(
	ctx context.Context, primary string, tlsConf *tls.Config,
) (*quic.Conn, netip.AddrPort, error) {
	addrs, err := l.config.resolve(ctx, primary)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if tlsConf.ServerName == "" {
		tlsConf.ServerName, _, _ = net.SplitHostPort(primary)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout/2)
	defer cancel()
	var ask askPortFunc
	if _, isOfSystem := l.transport.Conn.(quic.OOBCapablePacketConn); isOfSystem {
		ask = udp.IsRefused
	}
	d, err := dialAny(ctx, addrs, func(ctx context.Context, to netip.AddrPort) (dialled, error) {
		d := dialled{addr: to, release: func() {}}
		asking, asked := askWhileDialing(ctx, to, ask)
		conn, err := l.transport.Dial(asking, net.UDPAddrFromAddrPort(to), tlsConf, l.config.joinQUIC())
		if isRefused := asked(); isRefused && err != nil {
			err = errRefused
		}
		d.conn = conn
		return d, err
	})
	return d.conn, d.addr, err
}

// join is the secondary's side of a join (docs/PROTOCOL.md, section 9).
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
	accept, err := requestJoin(stream, k, pin, conf)
	if err != nil {
		return "", err
	}
	id := ServerID(accept.GetPathId())
	if !id.valid() || len(accept.GetTicketKey()) != len(ticketKey{}) {
		return "", errorf(ErrMetadataProtocolViolation, "malformed JoinAccept")
	}
	l.mu.Lock()
	l.keys = append([]ticketKey{ticketKey(accept.GetTicketKey())}, l.keys[:min(1, len(l.keys))]...)
	l.mu.Unlock()
	return id, nil
}

// requestJoin sends the request and returns the primary's acceptance. With a token, the primary
// proves that it knows the token before this side does.
func requestJoin(stream *quic.Stream, k joinSecret, pin trust.Pin, conf JoinConfig) (*kwikpb.JoinAccept, error) {
	request := &kwikpb.JoinRequest{Version: joinVersion, KeyHash: pin[:]}
	if conf.Advertise.IsValid() {
		request.Advertise = conf.Advertise.String()
	}
	var x *cpace.Exchange
	if len(conf.Token) > 0 {
		var err error
		if x, err = k.newExchange(conf.Token); err != nil {
			return nil, err
		}
		request.Share = x.Share()
	}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Request{Request: request}}); err != nil {
		return nil, err
	}
	f, err := readJoin(stream)
	if err != nil {
		return nil, err
	}
	if x != nil {
		if f, err = confirmToken(stream, x, request, f); err != nil {
			return nil, err
		}
	}
	if f.GetAccept() == nil {
		return nil, errorf(ErrMetadataProtocolViolation, "the primary's answer is not JoinAccept")
	}
	return f.GetAccept(), nil
}

// confirmToken checks the primary's proof in f that it knows the token, answers with this side's,
// and returns the frame that follows.
func confirmToken(
	stream *quic.Stream, x *cpace.Exchange, request *kwikpb.JoinRequest, f *kwikpb.JoinFrame,
) (*kwikpb.JoinFrame, error) {
	if f.GetShare() == nil {
		return nil, errorf(ErrAccessRefused, "the primary does not know the join token")
	}
	key, err := x.Initiator(f.GetShare().GetShare(), joinData(request), nil)
	if err != nil {
		return nil, errorf(ErrMetadataProtocolViolation, "malformed share")
	}
	if subtle.ConstantTimeCompare(f.GetShare().GetMac(), proveKey(key, "primary")) != 1 {
		return nil, errorf(ErrAccessRefused, "the primary has another join token")
	}
	confirm := &kwikpb.JoinConfirm{Mac: proveKey(key, "secondary")}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Confirm{Confirm: confirm}}); err != nil {
		return nil, err
	}
	return readJoin(stream)
}

// serveProbe answers the primary that dials back during a join.
func (l *Listener) serveProbe(conn *quic.Conn) error {
	ctx, cancel := context.WithTimeout(l.ctx, l.config.HelloTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return errorf(ErrMetadataProtocolViolation, "no probe arrived")
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
