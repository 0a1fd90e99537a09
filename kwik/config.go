package kwik

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/udp"
)

// ALPN protocol names (docs/PROTOCOL.md section 2). Dial and Listen set them: the caller's tls.Config need not.
const (
	ProtocolClient = "kwik/1"
	ProtocolJoin   = "kwik-join/1"
)

// A Config holds what a client or a server may set. The zero value, and nil, mean the defaults.
type Config struct {
	// QUIC is the configuration of the connections underneath. Zero fields, and nil, mean KWIK's defaults: a
	// handshake time-out of 5 s, an idle time-out of 30 s, a keep-alive every 10 s, and receive windows on the client
	// that grow to 12 MiB a path. The limits of incoming streams are KWIK's own and cannot be set.
	QUIC *quic.Config

	// Now is the wall clock, for the dates of tickets. Nil means time.Now.
	Now func() time.Time

	// RateLimit bounds what aggregate streams take up of the network: on a client over all servers, on a server over all clients. Nil
	// means no limit. A client that has one opens one connection to each server, unless ConnectionsPerServer says otherwise.
	RateLimit *RateLimit

	// ---- clients

	// ListenPacket makes the socket of the path to a secondary, which the session closes. Nil means a UDP socket of
	// the system at any port.
	ListenPacket func(ctx context.Context, remote netip.AddrPort) (net.PacketConn, error)

	// Family restricts a client to addresses of one family, the primary's and those that it names of secondaries.
	Family AddressFamily

	// LookupIP finds the addresses of a host for DialAddr. Nil means the system's resolver.
	LookupIP LookupFunc

	// ConnectionsPerServer is how many paths the client has to each server, 16 at most. 0 means one, and up to four while a path is
	// limited by loss and not by its link.
	ConnectionsPerServer int

	// Inspect asks servers what they say of themselves, and watches what QUIC finds out, for [ClientSession.Connection].
	Inspect bool

	// ReorderWindow bounds what Read holds of a stream beyond the reader's position, in bytes. 0 means 32 MiB;
	// less than 2 MiB means 2 MiB. CopyTo needs no window.
	ReorderWindow int64

	// SourceTimeout is how long an aggregate stream waits, when nothing comes though something is asked for, until it fails.
	// 0 means 10 s.
	SourceTimeout time.Duration

	// ReorderTimeout bounds how long the reader of a pushed stream waits for the bytes of a hole. 0 means 30 s.
	ReorderTimeout time.Duration

	// ConflictResolution says which bytes count when two servers push different ones to the same place.
	ConflictResolution ConflictResolutionStrategy

	// SecondaryStreams says how the streams that carry aggregate streams are received and, on servers, sent.
	SecondaryStreams SecondaryStreamConfig

	// Recovery says what happens when something goes wrong with one source. The zero value is the safe choice.
	Recovery RecoveryPolicy

	// ---- servers

	// Software is what clients that inspect the server are told that it runs, at most 64 bytes. May be empty.
	Software string

	// Role is what the listener is: the primary (zero) or a secondary.
	Role ServerRole

	// OpenContent opens the content that a descriptor names, for the aggregate streams of clients. It is the same
	// kind of function for both roles. Nil means that the server has no content: every attachment is refused.
	OpenContent OpenContentFunc

	// JoinToken is the secret that secondaries prove to know when they join. On a primary, empty means that only
	// peers on the same machine may join. On a secondary it is set in [JoinConfig].
	JoinToken []byte

	// LocalAddresses returns the machine's own addresses, besides loopback, for the rules of joining. Nil asks the system.
	LocalAddresses func() []netip.Addr

	// OnMembership is called on a primary when a secondary has joined (reason nil) or has gone. It must not block.
	OnMembership func(id PathID, addr netip.AddrPort, reason error)

	// OnBlame is called on a primary when a client says that bytes of a path failed their proof. It must not block. The
	// client may be wrong or lie. May be nil.
	OnBlame func(s *ServerSession, path PathID, offset int64, reason string)

	// Verify lets a primary find out whether a secondary serves right bytes when a client could not prove some. Nil means that clients'
	// complaints go to OnBlame and nowhere else. It may be called by several goroutines at once.
	Verify VerifyFunc

	// OnSuspension is called on a primary when a secondary is not offered to clients any more, because it could not prove to Verify what a
	// client blamed it for, and, with nil, when it has proved that. It must not block. May be nil.
	OnSuspension func(id PathID, reason error)

	// StatelessResetKey lets a client notice within a round trip that a server was restarted, if the server keeps the
	// key. Nil means none.
	StatelessResetKey *quic.StatelessResetKey

	// Limits on what strangers can make a server hold; 0 means the default in parentheses.
	MaxSessions   int // clients at once (1024)
	MaxHandshakes int // connections that have not said Hello yet (256)
	MaxMembers    int // secondaries (64)
	// HelloTimeout bounds the wait for the first frame of a connection, on either side: Hello, Welcome, JoinRequest and what
	// follows that; and on a listener how long a handshake may be silent (10 s).
	HelloTimeout time.Duration
}

// Limits of docs/PROTOCOL.md section 11 that are not configurable.
const (
	maxDescriptor           = 64 << 10
	maxStreamsPerSession    = 128
	maxSecondaryPaths       = 64
	maxPlainStreams         = 100
	maxStraySecondaryStream = 4 // bidirectional streams that a secondary may open to see them reset
	maxPathIDLength         = 64
	maxAddresses            = 8 // of one secondary
)

const (
	minReorderWindow     = 2 << 20
	defaultReorderWindow = 32 << 20
)

// populate returns a copy of c in which every field has its effective value.
func (c *Config) populate() *Config {
	p := Config{}
	if c != nil {
		p = *c
	}
	if p.QUIC == nil {
		p.QUIC = &quic.Config{}
	}
	p.QUIC = p.QUIC.Clone()
	setDefault(&p.QUIC.HandshakeIdleTimeout, 5*time.Second)
	setDefault(&p.QUIC.MaxIdleTimeout, 30*time.Second)
	setDefault(&p.QUIC.KeepAlivePeriod, 10*time.Second)
	p.QUIC.Allow0RTT = false
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.ListenPacket == nil {
		p.ListenPacket = listenUDP
	}
	if p.LookupIP == nil {
		p.LookupIP = net.DefaultResolver.LookupNetIP
	}
	if p.LocalAddresses == nil {
		p.LocalAddresses = systemAddresses
	}
	if p.OnMembership == nil {
		p.OnMembership = func(PathID, netip.AddrPort, error) {}
	}
	p.ConnectionsPerServer = clip(p.ConnectionsPerServer, 0, MaxConnectionsPerServer)
	if p.OnSuspension == nil {
		p.OnSuspension = func(PathID, error) {}
	}
	setDefault(&p.ReorderWindow, defaultReorderWindow)
	p.ReorderWindow = max(p.ReorderWindow, minReorderWindow)
	setDefault(&p.SourceTimeout, 10*time.Second)
	setDefault(&p.ReorderTimeout, 30*time.Second)
	if p.RateLimit != nil {
		setDefault(&p.ConnectionsPerServer, 1) // more would not make it faster
		setDefault(&p.SecondaryStreams.BufferSize, p.RateLimit.bufferSize())
	}
	p.SecondaryStreams = p.SecondaryStreams.populate()
	p.Recovery.Mapping = p.Recovery.Mapping.populate()
	setDefault(&p.MaxSessions, 1024)
	setDefault(&p.MaxHandshakes, 256)
	setDefault(&p.MaxMembers, 64)
	setDefault(&p.HelloTimeout, 10*time.Second)
	return &p
}

// clientQUIC returns the QUIC configuration of a path to a server of the given role. The isolation rule's stream limits
// are set here: unidirectional streams come from every server, bidirectional ones from the primary; a
// secondary may open a few, only to see them reset.
func (c *Config) clientQUIC(role ServerRole) *quic.Config {
	q := c.QUIC.Clone()
	if c.RateLimit != nil {
		// The connection's window is what bounds the bytes that have come and were not taken. It grows by itself with the round-trip
		// time. A stream's window must not, for it would take the connection's along.
		setDefault(&q.InitialConnectionReceiveWindow, c.RateLimit.window())
		setDefault(&q.MaxStreamReceiveWindow, 4<<20)
	}
	setDefault(&q.InitialStreamReceiveWindow, 4<<20)
	setDefault(&q.MaxStreamReceiveWindow, 8<<20)
	setDefault(&q.InitialConnectionReceiveWindow, 8<<20)
	setDefault(&q.MaxConnectionReceiveWindow, 12<<20)
	q.MaxIncomingUniStreams = int64(c.SecondaryStreams.MaxStreamsPerPath)
	q.MaxIncomingStreams = maxPlainStreams
	if role == ServerRoleSecondary {
		q.MaxIncomingStreams = maxStraySecondaryStream
	}
	if c.Inspect {
		watchECN(q)
	}
	return q
}

// serverQUIC returns the QUIC configuration of a listener: clients open no unidirectional streams.
func (c *Config) serverQUIC() *quic.Config {
	q := c.QUIC.Clone()
	setDefault(&q.HandshakeIdleTimeout, c.HelloTimeout)
	q.MaxIncomingStreams = maxPlainStreams
	q.MaxIncomingUniStreams = -1
	return q
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func listenUDP(_ context.Context, remote netip.AddrPort) (net.PacketConn, error) {
	network := "udp4"
	if remote.Addr().Is6() {
		network = "udp6"
	}
	return udp.Listen(network, nil)
}

// systemAddresses returns the addresses of the machine's interfaces.
func systemAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}
