package kwik

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// A PathState is what a client thinks of a path.
type PathState int

const (
	PathConnecting PathState = iota // being dialled, or has not said Welcome yet
	PathActive                      // said Welcome
	PathClosed                      // ended; dialled again later unless the primary withdrew it
	PathBanned                      // its bytes failed their proof; not used again in this session
)

func (s PathState) String() string {
	switch s {
	case PathConnecting:
		return "connecting"
	case PathActive:
		return "active"
	case PathClosed:
		return "closed"
	case PathBanned:
		return "banned"
	}
	return "unknown"
}

// ServerStats is a snapshot of a server and the paths to it, of which there are several only where ClientConfig.ConnectionsPerServer says so or
// loss makes one useless.
type ServerStats struct {
	ID    ServerID
	Role  ServerRole
	Addr  netip.AddrPort
	State PathState
	// Err is why the server is closed or banned; nil otherwise.
	Err error
	// Connections is how many paths are connected.
	Connections int
	// RTT is the smoothed round-trip time and MinRTT the shortest that was seen; 0 while there is no connection.
	RTT, MinRTT time.Duration
	// CongestionWindow is how many bytes this side may have under way on all paths, 0 while there is no connection.
	CongestionWindow uint64
	// ServerSent, ServerLost and ServerWindow are what the server last reported of its side of the paths that are connected: packets sent,
	// packets lost, and how many bytes it may have under way. A server reports while it serves.
	ServerSent, ServerLost uint64
	ServerWindow           int64
	// Wire counts what went over all connections to the server.
	Wire WireStats
	// SecondaryStreams counts the secondary streams of all paths.
	SecondaryStreams SecondaryStreamStats
}

// A path is one QUIC connection to one server, on the client. Its goroutines (control reader and writer, acceptors, one
// per secondary stream) are started by run, end with the connection, and run waits for them.
type path struct {
	id      PathID
	role    ServerRole
	addr    netip.AddrPort
	conn    *quic.Conn
	control *controlStream
	session *ClientSession
	leaving bool          // no stream should begin to use it; guarded by the session
	greeted chan struct{} // closed by run when the server has said Welcome, or will not
	refusal error         // why it will not; set before greeted is closed
	asked   time.Time     // when Hello was sent
	host    *Host         // what the server says of itself; nil if nothing; guarded by the session
	release func()        // frees the socket; called once, when nothing of the path is left
}

// openPath says Hello on a new connection. Whether the server says Welcome is found out by run; what is sent meanwhile, the server
// looks at after Hello. role is what the server is to be on the path: a primary on the session's first, which needs no ticket. It takes
// over the connection and its socket, and gives both up if it fails.
func openPath(ctx context.Context, s *ClientSession, d dialled, id PathID, role ServerRole, ticket []byte) (*path, error) {
	p := &path{id: id, addr: d.addr, conn: d.conn, release: d.release, session: s, role: role, greeted: make(chan struct{})}
	if err := p.hello(ctx, ticket); err != nil {
		p.fail(nil) // the server did nothing wrong, as far as is known
		p.release()
		return nil, fromQUIC(err, id)
	}
	return p, nil
}

func (p *path) hello(ctx context.Context, ticket []byte) error {
	stream, err := p.conn.OpenStreamSync(ctx) // stream 0: nothing was opened before
	if err != nil {
		return err
	}
	p.control = newControlStream(stream)
	hello := &kwikpb.Hello{Version: protocolVersion, SessionId: p.session.id[:], Ticket: ticket, Inspect: p.session.config.Inspect}
	if p.role == ServerRoleSecondary {
		hello.PathId = string(p.id.server())
	}
	stream.SetReadDeadline(time.Now().Add(p.session.config.HelloTimeout))
	p.asked = p.session.config.Now()
	p.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: hello}})
	return nil
}

// awaitWelcome waits for the server's answer to Hello, and closes the path if that is not Welcome.
func (p *path) awaitWelcome() error {
	defer close(p.greeted)
	err := p.readWelcome()
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.fail(nil) // the server did nothing wrong, as far as is known
	}
	p.fail(err)
	p.refusal = fromQUIC(err, p.id)
	return err
}

func (p *path) readWelcome() error {
	f, err := p.control.receive()
	if err != nil {
		return fmt.Errorf("waiting for the server's welcome: %w", err)
	}
	w := f.GetWelcome()
	switch {
	case w == nil:
		return errorf(ErrMetadataProtocolViolation, "the server's first frame is not Welcome").onPath(p.id)
	case w.GetVersion() != protocolVersion:
		return errorf(ErrVersionMismatch, "the server speaks KWIK version %d", w.GetVersion()).onPath(p.id)
	case (w.GetRole() == kwikpb.Role_ROLE_PRIMARY) != (p.role == ServerRolePrimary):
		return errorf(ErrInvalidStreamRole, "the server is a %s", roleFromWire(w.GetRole())).onPath(p.id)
	}
	p.control.stream.SetReadDeadline(time.Time{})
	p.session.welcomed(p, readHost(w.GetHost(), p.asked, p.session.config.Now()))
	return nil
}

func roleFromWire(r kwikpb.Role) ServerRole {
	if r == kwikpb.Role_ROLE_PRIMARY {
		return ServerRolePrimary
	}
	return ServerRoleSecondary
}

// run serves the path until it ends and returns why. Everything that it started has ended then.
func (p *path) run() error {
	var wg sync.WaitGroup
	ctx := p.conn.Context()
	wg.Go(func() {
		if err := p.control.writeLoop(ctx.Done()); err != nil {
			p.fail(err)
		}
	})
	wg.Go(func() { p.fail(p.readControl()) })
	wg.Go(func() { p.acceptStreams(ctx) })
	wg.Go(func() { p.acceptSecondaryStreams(ctx) })
	<-ctx.Done()
	wg.Wait()
	p.release()
	if p.refusal != nil {
		return p.refusal
	}
	return fromQUIC(context.Cause(ctx), p.id)
}

// fail closes the path because of err. Closing a closed path does nothing.
func (p *path) fail(err error) {
	p.conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
}

// closingReason is what the peer is told: the error's own reason, nothing of its causes.
func closingReason(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return printable(e.Message)
	}
	return ""
}

func (p *path) readControl() error {
	if err := p.awaitWelcome(); err != nil {
		return err
	}
	for {
		f, err := p.control.receive()
		if err != nil {
			return err
		}
		if err := p.session.handleControl(p, f); err != nil {
			return err
		}
	}
}

// acceptStreams delivers the plain streams that the primary opens and resets those of a secondary.
func (p *path) acceptStreams(ctx context.Context) {
	for {
		stream, err := p.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		if refusal := checkPublicStream(p.role, true); refusal != nil {
			stream.CancelRead(StreamErrorCode(refusal.Code))
			stream.CancelWrite(StreamErrorCode(refusal.Code))
			continue
		}
		p.session.mu.Lock()
		p.session.waiting = append(p.session.waiting, &Stream{quic: stream, path: p.id})
		p.session.announce()
		p.session.mu.Unlock()
	}
}

// acceptSecondaryStreams hands secondary streams to the handler, each in a goroutine that ends with the stream or the
// path at the latest. There are as many at once as QUIC allows to be open: a stream that was cancelled gives its credit back
// while what it brought last is still being placed, so that has to be counted here.
func (p *path) acceptSecondaryStreams(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, p.session.config.SecondaryStreams.MaxStreamsPerPath)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		stream, err := p.conn.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := p.session.handler.handle(ctx.Done(), p.id, stream); err != nil {
				p.fail(err)
			}
		})
	}
}

// rtt returns the path's smoothed round-trip time.
func (p *path) rtt() time.Duration { return p.conn.ConnectionStats().SmoothedRTT }
