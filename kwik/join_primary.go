package kwik

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/netprefix"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// dialBackTimeout bounds the time in which the primary reaches a joining secondary at its address.
const dialBackTimeout = 4 * time.Second

// serveJoin is the primary's side of a join (docs/PROTOCOL.md, section 9). It returns when the
// membership has ended.
func (l *Listener) serveJoin(conn *quic.Conn, greeted func()) error {
	m, stream, err := l.negotiateJoin(conn)
	if err != nil {
		return err
	}
	obsolete, err := l.admit(m)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Code == ErrServerBusy {
			l.gate.refuseMember(m.from, refusal(e.Message))
		}
		return err
	}
	greeted()
	if obsolete != nil {
		obsolete.CloseWithError(ApplicationErrorCode(NoError), "joined again")
	}
	l.config.OnMembership(m.id, m.addr, nil)
	accept := &kwikpb.JoinAccept{PathId: string(m.id), TicketKey: m.key[:]}
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

// negotiateJoin decides whether a secondary may join. It limits the attempts that fail and reports
// them.
func (l *Listener) negotiateJoin(conn *quic.Conn) (*member, *quic.Stream, error) {
	ctx, cancel := context.WithTimeout(l.ctx, joinTimeout)
	defer cancel()
	seen, err := addrPort(conn.RemoteAddr())
	if err != nil {
		return nil, nil, err
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return nil, nil, errorf(ErrMetadataProtocolViolation, "no JoinRequest arrived")
	}
	settle := l.beginJoin(netprefix.Of(seen.Addr()))
	if settle == nil {
		return nil, nil, errorf(ErrServerBusy, "too many failed joins; try again later")
	}
	stream.SetDeadline(time.Now().Add(l.config.HelloTimeout))
	m, err := l.checkJoin(ctx, conn, stream, seen)
	if isAborted := l.ctx.Err() != nil; isAborted {
		return nil, nil, errorf(NoError, "server closed")
	}
	settle(err == nil)
	if err != nil {
		l.config.OnJoinFailure(seen, err)
	}
	return m, stream, err
}

// checkJoin checks a secondary's request, its knowledge of the join token, and that it is at its
// address.
func (l *Listener) checkJoin(
	ctx context.Context, conn *quic.Conn, stream *quic.Stream, seen netip.AddrPort,
) (*member, error) {
	k, err := newJoinSecret(conn)
	if err != nil {
		return nil, err
	}
	f, err := readJoin(stream)
	if err != nil {
		return nil, err
	}
	if err := l.gate.join(newcomerOf(conn)); err != nil {
		return nil, err
	}
	r, isLocal := f.GetRequest(), l.isLocal(seen.Addr())
	switch {
	case r == nil || len(r.GetKeyHash()) != len(trust.Pin{}):
		return nil, errorf(ErrMetadataProtocolViolation, "the first frame is not JoinRequest")
	case r.GetVersion() != joinVersion:
		return nil, errorf(ErrVersionMismatch,
			"version %d of the join is not spoken here, version %d is: run the same release on both servers",
			r.GetVersion(), joinVersion)
	case len(l.config.JoinToken) > 0:
		if err := l.checkTokenOf(stream, k, r); err != nil {
			return nil, err
		}
	case !isLocal:
		return nil, errorf(ErrAccessRefused,
			"this primary has no join token, so only secondaries on its own machine may join")
	}
	m := &member{addr: seen, from: netprefix.Of(seen.Addr()), pin: trust.Pin(r.GetKeyHash()), conn: conn}
	m.key = l.newMemberKey(m.pin)
	if text := r.GetAdvertise(); text != "" {
		own, _ := addrPort(l.Addr())
		peer := joiningPeer{seen: seen, port: own.Port(), isLocal: isLocal, hasToken: len(l.config.JoinToken) > 0}
		if m.addr, err = peer.advertised(text, l.isLocal); err != nil {
			return nil, err
		}
	}
	return m, l.confirmAddress(ctx, m, k)
}

// checkTokenOf checks that a secondary knows the join token, and proves first that this primary
// does. A peer that does not know it learns whether one guess is right, and no more.
func (l *Listener) checkTokenOf(stream *quic.Stream, k joinSecret, r *kwikpb.JoinRequest) error {
	if len(r.GetShare()) == 0 {
		return errorf(ErrAccessRefused, "this primary requires a join token")
	}
	x, err := k.newExchange(l.config.JoinToken)
	if err != nil {
		return err
	}
	key, err := x.Responder(r.GetShare(), joinData(r), nil)
	if err != nil {
		return errorf(ErrMetadataProtocolViolation, "malformed share")
	}
	share := &kwikpb.JoinShare{Share: x.Share(), Mac: proveKey(key, "primary")}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Share{Share: share}}); err != nil {
		return err
	}
	f, err := readJoin(stream)
	if err != nil { // usually because the secondary refuses the proof
		return &Error{Code: ErrAccessRefused, Stream: -1, Offset: -1, Message: "join token wrong", Err: err}
	}
	if subtle.ConstantTimeCompare(f.GetConfirm().GetMac(), proveKey(key, "secondary")) != 1 {
		return errorf(ErrAccessRefused, "join token wrong")
	}
	return nil
}

// confirmAddress dials a secondary back. Its error tells the secondary neither the cause nor, by
// the time that it takes, whether anything is at the address: the secondary chose it.
func (l *Listener) confirmAddress(ctx context.Context, m *member, k joinSecret) error {
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	err := l.dialBack(ctx, m, k)
	if err == nil {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-m.conn.Context().Done():
	}
	return &Error{
		Code: ErrAccessRefused, Stream: -1, Offset: -1, Err: err,
		Message: fmt.Sprintf("the primary did not reach this server at %v", m.addr),
	}
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
