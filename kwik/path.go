package kwik

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// PathState is the state of a client's path to a server.
type PathState int

const (
	PathConnecting PathState = iota // being dialed, or waiting for Welcome
	PathActive                      // Welcome has arrived
	PathClosed                      // ended; dialed again later unless the primary has withdrawn the server
	PathBanned                      // bytes failed their proof; not used again in this session
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

// ServerStats is a snapshot of a server and the paths to it. There are several paths only if
// ClientConfig.ConnectionsPerServer requires them, or if loss limits the first one.
type ServerStats struct {
	ID    ServerID
	Role  ServerRole
	Addr  netip.AddrPort
	State PathState
	// Err is why the server is closed or banned; nil otherwise.
	Err error
	// connections is the number of connected paths.
	connections int
	// RTT is the smoothed round-trip time and MinRTT the shortest one; 0 while there is no
	// connection.
	RTT, MinRTT time.Duration
	// congestionWindow is the sum of this side's congestion windows over all paths, in bytes; 0
	// while there is no connection.
	congestionWindow uint64
	// serverSent, serverLost and serverWindow are the newest reports of the server on its side of
	// the connected paths. They count packets sent and packets lost, and give the congestion
	// window in bytes. A server reports while it serves.
	serverSent, serverLost uint64
	serverWindow           int64
	// Wire counts the traffic of all connections to the server.
	Wire WireStats
	// SecondaryStreams counts the secondary streams of all paths.
	SecondaryStreams SecondaryStreamStats
}

// A path is one QUIC connection to one server, on the client. run starts its goroutines (control
// reader and writer, acceptors, one per secondary stream) and waits for them. They end with the
// connection.
type path struct {
	id       PathID
	role     ServerRole
	addr     netip.AddrPort
	conn     *quic.Conn
	control  *controlStream
	session  *ClientSession
	draining bool          // no stream should start to use it; guarded by the session
	greeted  chan struct{} // closed by run when Welcome has arrived or cannot arrive any more
	refusal  error         // why there is no Welcome; set before greeted is closed
	asked    time.Time     // when Hello was sent
	host     *Host         // the server's description of itself, or nil; guarded by the session
	release  func()        // frees the socket; called once, when the path has ended
	// maxStreams is the number of secondary streams that may be open at once.
	maxStreams int
	heardAt    atomic.Int64 // when watch last saw that a packet had arrived, in nanoseconds since the Unix epoch
	// excusedUntil is until when the server may deliver nothing after an outage, as heardAt.
	excusedUntil atomic.Int64
	reading      atomic.Int32 // calls of Read and Write on plain streams
	gone         error        // the system of the server refuses packets; of watch, which run waits for
	carried      atomic.Int64 // bytes of plain streams
	sockets      pathSockets  // of watch and its goroutine
}

// openPath sends Hello on a new connection. It does not wait for Welcome: run does, and the server
// handles frames that follow Hello after Hello. role is the role that the server must have on the
// path: primary on the session's first path, which needs no ticket. openPath owns the connection
// and its socket, and closes both if it fails.
func openPath(
	ctx context.Context, s *ClientSession, d dialled, id PathID, role ServerRole, ticket []byte,
) (*path, error) {
	p := &path{
		id: id, addr: d.addr, conn: d.conn, release: d.release, maxStreams: d.maxStreams,
		session: s, role: role, greeted: make(chan struct{}), sockets: pathSockets{first: d.transport},
	}
	p.heardAt.Store(time.Now().UnixNano())
	if err := p.hello(ctx, ticket); err != nil {
		p.fail(nil) // the server broke no rule
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
	p.control = newControlStream(p.conn, stream)
	hello := &kwikpb.Hello{
		Version: protocolVersion, SessionId: p.session.id[:], Ticket: ticket,
		Inspect: p.session.config.Inspect, ProofKey: p.session.key.Public().(ed25519.PublicKey),
	}
	if p.role == ServerRoleSecondary {
		hello.PathId = string(p.id.server())
		if hello.Proof, err = provePath(p.session.key, p.conn); err != nil {
			return err
		}
	} else { // the handshake, which authenticated the primary, is complete
		hello.Credential = p.session.config.Credential
	}
	isFirst := ticket == nil
	p.control.due = p.session.config.helloDeadline(ctx, isFirst)
	p.asked = p.session.config.now()
	p.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: hello}})
	return nil
}

// awaitWelcome waits for Welcome. Any other answer closes the path.
func (p *path) awaitWelcome() error {
	defer close(p.greeted)
	err := p.readWelcome()
	if err == nil {
		return nil
	}
	if isTimeout := errors.Is(err, os.ErrDeadlineExceeded); isTimeout {
		p.fail(nil) // a slow server broke no rule
	} else {
		p.fail(err)
	}
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
	p.control.due = time.Time{}
	p.session.welcomed(p, readHost(w.GetHost(), p.asked, p.session.config.now()))
	return nil
}

func roleFromWire(r kwikpb.Role) ServerRole {
	if r == kwikpb.Role_ROLE_PRIMARY {
		return ServerRolePrimary
	}
	return ServerRoleSecondary
}

// run serves the path until it ends and returns the reason. All goroutines that it started have
// ended then.
func (p *path) run() error {
	var wg sync.WaitGroup
	ctx := p.conn.Context()
	start := func(f func()) { wg.Go(func() { containTo(p.session.abort, f) }) }
	start(func() {
		if err := p.control.writeLoop(ctx.Done()); err != nil {
			p.fail(err)
		}
	})
	start(func() { p.fail(p.readControl()) })
	start(func() { p.acceptStreams(ctx) })
	start(func() { p.acceptSecondaryStreams(ctx) })
	start(func() { p.watch(ctx) })
	<-ctx.Done()
	wg.Wait()
	p.sockets.close()
	p.release()
	switch {
	case p.refusal != nil:
		return p.refusal
	case p.gone != nil:
		return p.gone
	}
	return fromQUIC(context.Cause(ctx), p.id)
}

// fail closes the path because of err. It has no effect on a closed path.
func (p *path) fail(err error) {
	p.conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
}

// closingReason returns the text that the peer gets: the error's own reason without its causes.
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
		p.session.waiting = append(p.session.waiting, p.plainStream(stream))
		p.session.announce()
		p.session.mu.Unlock()
	}
}

// acceptSecondaryStreams runs the handler for each secondary stream, in a goroutine that ends with
// the stream or the path. It limits their number itself: a stream that was canceled returns its
// QUIC credit while its last bytes are still being placed.
func (p *path) acceptSecondaryStreams(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, p.maxStreams)
	p.session.handler.setLimit(p.id, p.maxStreams)
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
			containTo(p.session.abort, func() {
				err := p.session.handler.handle(ctx.Done(), p, stream)
				outlivesIt := p == p.session.primary && errors.Is(err, ErrSourceRefuted) // see ban
				if err != nil && !outlivesIt {
					p.fail(err)
				}
			})
		})
	}
}

// rtt returns the path's smoothed round-trip time.
func (p *path) rtt() time.Duration { return p.conn.ConnectionStats().SmoothedRTT }
