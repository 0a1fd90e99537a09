package kwik

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// serveJoin is the primary's side of a join (docs/PROTOCOL.md, section 9). It returns when the
// membership has ended.
func (l *Listener) serveJoin(conn *quic.Conn, greeted func()) error {
	ctx, cancel := context.WithTimeout(l.ctx, joinTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return errorf(ErrMetadataProtocolViolation, "no JoinRequest arrived")
	}
	stream.SetDeadline(time.Now().Add(l.config.HelloTimeout))
	f, err := readJoin(stream)
	if err != nil {
		return err
	}
	if err := l.gate.join(newcomerOf(conn)); err != nil {
		return err
	}
	m, k, err := l.checkJoin(conn, f.GetRequest())
	if err != nil {
		return err
	}
	if err := l.dialBack(ctx, m, k); err != nil {
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
	accept := &kwikpb.JoinAccept{
		PathId: string(m.id), TicketKey: m.key[:], TokenProof: k.proveToken(l.config.JoinToken, "primary"),
	}
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
	if l.removeMember(m, printable(err.Error())) {
		l.config.OnMembership(m.id, m.addr, err)
	}
	return err
}

// checkJoin decides whether a secondary may join, before the primary dials it back.
func (l *Listener) checkJoin(conn *quic.Conn, r *kwikpb.JoinRequest) (*member, joinSecret, error) {
	k, err := newJoinSecret(conn)
	if err != nil {
		return nil, k, err
	}
	seen, err := addrPort(conn.RemoteAddr())
	if err != nil {
		return nil, k, err
	}
	local := l.isLocal(seen.Addr())
	proof := k.proveToken(l.config.JoinToken, "secondary")
	switch {
	case r == nil || len(r.GetKeyHash()) != len(trust.Pin{}):
		return nil, k, errorf(ErrMetadataProtocolViolation, "the first frame is not JoinRequest")
	case r.GetVersion() != protocolVersion:
		return nil, k, errorf(ErrVersionMismatch, "KWIK version %d is not spoken here, version %d is",
			r.GetVersion(), protocolVersion)
	case len(l.config.JoinToken) == 0 && !local:
		return nil, k, errorf(ErrAccessRefused,
			"this primary has no join token, so only secondaries on its own machine may join")
	case len(l.config.JoinToken) > 0 && subtle.ConstantTimeCompare(r.GetTokenProof(), proof) != 1:
		return nil, k, errorf(ErrAccessRefused, "join token missing or wrong")
	}
	m := &member{addr: seen, from: prefixOf(seen.Addr()), pin: trust.Pin(r.GetKeyHash()), conn: conn}
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

// dialBack dials a secondary, which must prove two things: the server at its address has its key,
// and that server requested the join.
func (l *Listener) dialBack(ctx context.Context, m *member, k joinSecret) error {
	tlsConf := clientTLS(trust.PinnedClientConfig(&tls.Config{Time: l.tls.Time}, m.pin), protocolJoin)
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
	probe := &kwikpb.JoinProbe{Nonce: nonce}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Probe{Probe: probe}}); err != nil {
		return err
	}
	f, err := readJoin(stream)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(f.GetProof().GetMac(), k.proveProbe(nonce)) != 1 {
		return errors.New("another server answers at this address")
	}
	return nil
}
