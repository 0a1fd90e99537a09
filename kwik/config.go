package kwik

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/sysmem"
	"kwikcp/internal/udp"
)

// ALPN protocol names (docs/PROTOCOL.md section 2). Dial and Listen set them: the caller's
// tls.Config need not.
const (
	protocolClient = "kwik/1"
	protocolJoin   = "kwik-join/1"
)

// A Config holds the settings that clients and servers share. The zero value means the defaults.
// Negative times are errors of Dial and Listen.
type Config struct {
	// QUIC configures the connections. Zero fields, and nil, mean the defaults. The handshake
	// time-out is 5 seconds, the idle time-out 30 seconds, and the keep-alive period 10 seconds. A
	// server sends its clients no keep-alives. The receive windows of a client grow to 12 MiB a
	// path, within its WindowLimit. Clients send requests only. So the windows of a server grow to
	// 128 KiB for a stream and to 256 KiB for a connection. KWIK sets
	// MaxIncomingStreams, MaxIncomingUniStreams and Allow0RTT itself.
	QUIC *quic.Config

	// RateLimit bounds the rate: a client's payload of aggregate streams over all its servers, a
	// server's over all its clients. Nil means no limit. A client with a limit opens one
	// connection to each server, unless ClientConfig.ConnectionsPerServer says otherwise.
	RateLimit *RateLimit

	// Family restricts the addresses to which a client, or a secondary that joins, connects. The
	// zero value means both families.
	Family AddressFamily

	// LocalAddresses returns the addresses of this host, besides loopback. A client uses them to
	// decide which addresses a primary may name, a primary to decide which secondaries are on its
	// own host. Nil asks the system.
	LocalAddresses func() []netip.Addr

	// HelloTimeout bounds the wait for the first frame of a connection, and for each frame of a
	// join. 0 means 10 s. On a client's first path, a later deadline of Dial's context replaces
	// this default, and that of the handshake.
	HelloTimeout time.Duration

	now      func() time.Time // the wall clock that dates tickets; nil means time.Now
	lookupIP lookupFunc       // resolves host names for DialAddr and Join; nil means the system's resolver
	// defaultHandshake and defaultHello are set with the defaults of the two time-outs.
	defaultHandshake, defaultHello bool
}

// A ClientConfig holds the settings of a client. Nil and the zero value mean the defaults.
// Negative values are errors of Dial, unless a field says otherwise.
type ClientConfig struct {
	Config

	// ListenPacket opens the socket of a path to a server at remote. The session closes it. Nil
	// means a UDP socket of the system at any port. Dial uses the caller's socket for the primary
	// instead.
	ListenPacket func(ctx context.Context, remote netip.AddrPort) (net.PacketConn, error)

	// ConnectionsPerServer is the number of paths to each server, at most 16; more counts as 16.
	// 0 means one, and up to four while packet loss, and not the link, limits a path.
	ConnectionsPerServer int

	// Credential is presented to the primary's ServerConfig.Authorize; at most 1,024 bytes. It is
	// sent in Hello on the session's first path, after the caller's TLS configuration has accepted
	// the server, and to no other server. Nil presents nothing.
	Credential []byte

	// Inspect collects more for [ClientSession.Connection]: the servers' statements about
	// themselves, and the outcome of ECN validation.
	Inspect bool

	// ReorderWindow bounds the bytes of one stream that Read holds beyond the reader's position.
	// 0 means 32 MiB; values below 2 MiB count as 2 MiB. CopyTo needs no window.
	ReorderWindow int64

	// WindowLimit bounds the receive windows of all paths together, in bytes: how much the servers
	// may send that is not read yet. With many paths each has less than Config.QUIC says. 0 means
	// 128 MiB; values below 48 MiB count as 48 MiB.
	WindowLimit int64

	// SourceTimeout bounds how long an aggregate stream waits while bytes are requested and none
	// arrive, although a server answers; then it fails with ErrAggregationTimeout. 0 means 10 s.
	SourceTimeout time.Duration

	// OutageTimeout is SourceTimeout while no packet of any server arrives either. Servers are
	// connected again meanwhile. 0, and less than SourceTimeout, mean SourceTimeout.
	OutageTimeout time.Duration

	// ReorderTimeout bounds how long the reader of a pushed stream waits for the bytes of a hole.
	// 0 means 30 s.
	ReorderTimeout time.Duration

	// ConflictResolution decides which bytes count if two servers push different ones to the same
	// place. The zero value means the first.
	ConflictResolution ConflictResolutionStrategy

	// SecondaryStreams configures how the streams that carry aggregate streams are received.
	SecondaryStreams SecondaryStreamConfig

	// Recovery decides how the client reacts to the faults of one server. The zero value is the
	// safe choice.
	Recovery RecoveryPolicy

	// askPort asks until ctx ends whether the system of a server refuses packets to its port. Nil
	// asks it, unless the caller opens the sockets.
	askPort func(ctx context.Context, server netip.AddrPort) (isRefused bool)
}

// A ServerConfig holds the settings of a listener. Nil and the zero value mean the defaults,
// which make a primary without content. Negative values are errors of Listen, unless a field says
// otherwise.
type ServerConfig struct {
	Config

	// Role is the listener's role. The zero value means primary.
	Role ServerRole

	// OpenContent opens the content that a descriptor names, for the aggregate streams of
	// clients. Both roles use it. Nil means that the server has no content: it refuses to serve
	// any pulled stream.
	OpenContent OpenContentFunc

	// BufferSize is the largest payload of a DATA frame in bytes, rounded to whole units; one unit
	// if a single one is larger. 0 means 256 KiB, or less with a RateLimit; other values are
	// clipped to the range from 64 KiB to 1 MiB.
	BufferSize int

	// Software names the server's software to clients that inspect it. At most 64 bytes are sent.
	// May be empty.
	Software string

	// Access names how this server restricts access, to clients that inspect it. At most 64 bytes
	// are sent. May be empty.
	Access string

	// Authorize decides whether to accept a client's session. It is called on a primary, once per
	// session, before Welcome. Further paths of the session, here and to secondaries, need a
	// ticket instead. An error refuses the session: an [*Error] with its code and message, which
	// the client receives, any other error with ErrAccessRefused and without its text. Authorize
	// must not block, and must be safe for concurrent use. Nil accepts every client.
	Authorize func(AuthorizeRequest) (Authorization, error)

	// StatelessResetKey lets clients notice within a round trip that the server was restarted,
	// provided that it keeps the key. Nil means none.
	StatelessResetKey *quic.StatelessResetKey

	// TicketKey is the key of a primary's own tickets, with which clients open further connections
	// to it and return after a restart. Nil derives it from the private key of the certificate,
	// which is not enough if the certificate changes while the listener runs.
	TicketKey *[32]byte

	// JoinToken is the secret of which secondaries prove knowledge when they join this primary, at
	// least MinJoinToken bytes. Empty means that only secondaries on the same host may join. A
	// secondary sets its token in [JoinConfig].
	JoinToken []byte

	// OnJoinFailure is called on a primary when an attempt to join fails. Attempts beyond the
	// limits for the address are refused without a call. The error may contain text of the peer.
	// It must not block. May be nil.
	OnJoinFailure func(addr netip.AddrPort, err error)

	// OnMembership is called on a primary when a secondary has joined (err is nil) or has left.
	// It must not block. May be nil.
	OnMembership func(id ServerID, addr netip.AddrPort, err error)

	// OnReject is called on a primary when a client reports that it rejected bytes of a server.
	// The client may be wrong or lie; message is its text. OnReject must not block. May be nil.
	OnReject func(s *ServerSession, server ServerID, offset int64, message string)

	// Recheck is called on a primary when a client reports that it rejected bytes of the primary
	// itself. They are [start, end) of the content that a descriptor names. The client may
	// be wrong or lie, so the application should compare its content with what it told clients
	// about it. Recheck must not block. Nil means that such reports go to OnReject only.
	Recheck func(descriptor []byte, size, start, end int64)

	// Verify lets a primary check whether a secondary serves the right bytes after a client
	// rejected some. It must be safe for concurrent use. Nil means that reports of clients go to
	// OnReject and have no other effect.
	Verify VerifyFunc

	// ChallengeDescriptor returns the descriptor with which a secondary is challenged for bytes
	// that a client rejected, given that of the stream. So an application can name the version of
	// the content if it did not know the version when it opened the stream. It must not block, and
	// must be safe for concurrent use. Nil means the descriptor of the stream.
	ChallengeDescriptor func(descriptor []byte) []byte

	// OnSuspension is called on a primary when it suspends a secondary. A secondary is suspended
	// if it cannot prove to Verify the bytes that a client rejected. Once it has proved them,
	// OnSuspension is called with a nil error. Clients are not told of suspended secondaries.
	// OnSuspension must not block. May be nil.
	OnSuspension func(id ServerID, err error)

	// OnUnreachable is called on a primary when a client reports that it cannot reach a secondary,
	// at most once a minute for each. The client may be wrong or lie; reason is its text. Its
	// network is offered the secondary less for a while. OnUnreachable must not block. May be nil.
	OnUnreachable func(id ServerID, addr netip.AddrPort, client netip.Prefix, reason string)

	// OnPanic is called when a function of the application, or this package, panicked. The process
	// lives. A panic in a client's session or in a membership ends that. client is the peer's
	// address; nil if the panic was in no session. It must not block. Nil logs to slog.Default.
	// [Listener.Panics] counts the panics.
	OnPanic func(client net.Addr, err *PanicError)

	// MaxSessions is the maximum number of connections of clients. 0 means 1,024.
	MaxSessions int

	// MaxSessionsPerAddress is the maximum number of connections of clients from one IPv4 address
	// or IPv6 /64. 0 means a quarter of MaxSessions, rounded up.
	MaxSessionsPerAddress int

	// SessionIdleTimeout is the time after which a session without a stream is closed; see
	// [IsIdleClose]. A plain stream counts while the server may still write on it, an aggregate
	// stream from its offer or attachment to its release. 0 means 1 minute. A session without a
	// stream for 2 s may be closed earlier if another needs its place.
	SessionIdleTimeout time.Duration

	// TokenKey encrypts the tokens with which clients prove that their addresses are theirs, when
	// many handshakes are in progress. Nil means a random key.
	TokenKey *quic.TokenGeneratorKey

	// OnRefusal is called when connections, joins or sessions were refused because a limit was
	// reached, or were closed for others. It is called at most once a minute for each reason.
	// count is how many since the last call, and from is the address of the last. It must not
	// block. May be nil.
	OnRefusal func(from netip.Prefix, reason string, count int)

	// MemoryLimit bounds the memory that the server holds for its clients, in bytes: buffers,
	// attached streams, queued control frames, and what [ServerSession.Reserve] charges. QUIC's own
	// memory, about 100 KiB for an idle connection, is not part of it. Each session is
	// guaranteed a floor: 1,152 KiB, or its part of half of the limit if that is less. No session
	// has more than an eighth of the limit, or its floor. 0 means a quarter of the memory that the
	// process may use, from 64 MiB to 4 GiB. Values below 16 MiB count as 16 MiB.
	MemoryLimit int64

	// MaxContents is the maximum number of contents that are open at once for aggregate streams.
	// While few are left, those that no client waits for are closed, and opened again when they are
	// needed. 0 means 2,048.
	MaxContents int

	maxHandshakes        int // connections that have not sent Hello yet; 0 means 512
	maxMembers           int // secondaries of a primary; 0 means 64
	maxMembersPerAddress int // 0 means a quarter of maxMembers, rounded up
}

// Limits of docs/PROTOCOL.md section 11 that are not configurable.
const (
	maxDescriptor           = 64 << 10
	maxStreamsPerSession    = 128
	maxSecondaryPaths       = 64
	maxPlainStreams         = 100
	maxStraySecondaryStream = 4 // bidirectional streams that a secondary may open to see them reset
	maxServerIDLength       = 64
	maxAddresses            = 8 // of one secondary
	maxCredential           = 1 << 10
)

const (
	defaultSessions   = 1024
	defaultHandshakes = 512
	defaultMembers    = 64
)

const (
	minReorderWindow     = 2 << 20
	defaultReorderWindow = 32 << 20
)

// Clone returns a copy that may be changed without an effect on the original.
func (c *ClientConfig) Clone() *ClientConfig {
	clone := *c
	clone.Config = c.Config.clone()
	clone.Credential = slices.Clone(c.Credential)
	return &clone
}

func (c *ServerConfig) clone() *ServerConfig {
	clone := *c
	clone.Config = c.Config.clone()
	return &clone
}

func (c *Config) clone() Config {
	clone := *c
	if c.QUIC != nil {
		clone.QUIC = c.QUIC.Clone()
	}
	return clone
}

// effective returns a copy of c in which every field has its effective value. If a value is not
// allowed, the error names its field. c may be nil.
func (c *ClientConfig) effective() (*ClientConfig, error) {
	if c == nil {
		c = &ClientConfig{}
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c.populate(), nil
}

// effective is ClientConfig.effective of a listener.
func (c *ServerConfig) effective() (*ServerConfig, error) {
	if c == nil {
		c = &ServerConfig{}
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c.populate(), nil
}

// A setting is a field of a configuration with the least and the greatest value that is allowed.
type setting struct {
	name        string
	value       int64
	least, most int64
}

const unbounded = 1<<63 - 1

func (c *ClientConfig) validate() error {
	r := c.Recovery
	return checkSettings("ClientConfig", append(c.Config.settings(),
		setting{"ConnectionsPerServer", int64(c.ConnectionsPerServer), 0, unbounded},
		setting{"Credential length", int64(len(c.Credential)), 0, maxCredential},
		setting{"ReorderWindow", c.ReorderWindow, 0, unbounded},
		setting{"WindowLimit", c.WindowLimit, 0, unbounded},
		setting{"SourceTimeout", int64(c.SourceTimeout), 0, unbounded},
		setting{"OutageTimeout", int64(c.OutageTimeout), 0, unbounded},
		setting{"ReorderTimeout", int64(c.ReorderTimeout), 0, unbounded},
		setting{"ConflictResolution", int64(c.ConflictResolution), 0, int64(ConflictResolutionReject)},
		setting{"Recovery.Mapping.Backoff", int64(r.Mapping.Backoff), 0, unbounded},
		setting{"Recovery.Aggregation", int64(r.Aggregation), 0, int64(FallbackCloseStream)},
		setting{"Recovery.Metadata", int64(r.Metadata), 0, int64(RecoveryIgnoreStream)},
	))
}

func (c *ServerConfig) validate() error {
	if err := checkToken(c.JoinToken); err != nil {
		return err
	}
	return checkSettings("ServerConfig", append(c.Config.settings(),
		setting{"Role", int64(c.Role), 0, int64(ServerRoleSecondary)},
		setting{"BufferSize", int64(c.BufferSize), 0, unbounded},
		setting{"MaxSessions", int64(c.MaxSessions), 0, unbounded},
		setting{"MaxSessionsPerAddress", int64(c.MaxSessionsPerAddress), 0, unbounded},
		setting{"SessionIdleTimeout", int64(c.SessionIdleTimeout), 0, unbounded},
		setting{"MemoryLimit", c.MemoryLimit, 0, unbounded},
		setting{"MaxContents", int64(c.MaxContents), 0, unbounded},
	))
}

func (c *Config) settings() []setting {
	return []setting{
		{"Family", int64(c.Family), 0, int64(IPv6)},
		{"HelloTimeout", int64(c.HelloTimeout), 0, unbounded},
	}
}

func checkSettings(config string, all []setting) error {
	for _, s := range all {
		switch {
		case s.value < s.least:
			return fmt.Errorf("kwik: %s.%s is %d, less than %d", config, s.name, s.value, s.least)
		case s.value > s.most:
			return fmt.Errorf("kwik: %s.%s is %d, more than %d", config, s.name, s.value, s.most)
		}
	}
	return nil
}

// populate returns a copy of c with the defaults filled in.
func (c *ClientConfig) populate() *ClientConfig {
	p := c.Clone()
	p.Config.populate()
	if p.ListenPacket == nil {
		p.ListenPacket = listenUDP
		if p.askPort == nil {
			p.askPort = udp.IsRefused
		}
	}
	p.ConnectionsPerServer = min(p.ConnectionsPerServer, MaxConnectionsPerServer)
	setDefault(&p.ReorderWindow, defaultReorderWindow)
	p.ReorderWindow = max(p.ReorderWindow, minReorderWindow)
	setDefault(&p.WindowLimit, defaultWindowLimit)
	p.WindowLimit = max(p.WindowLimit, minWindowLimit)
	setDefault(&p.SourceTimeout, 10*time.Second)
	p.OutageTimeout = max(p.OutageTimeout, p.SourceTimeout)
	setDefault(&p.ReorderTimeout, 30*time.Second)
	if p.RateLimit != nil {
		setDefault(&p.ConnectionsPerServer, 1) // more would not make it faster
		setDefault(&p.SecondaryStreams.BufferSize, p.RateLimit.bufferSize())
	}
	p.SecondaryStreams = p.SecondaryStreams.populate()
	p.Recovery.Mapping = p.Recovery.Mapping.populate()
	return p
}

// populate returns a copy of c with the defaults filled in.
func (c *ServerConfig) populate() *ServerConfig {
	p := c.clone()
	p.Config.populate()
	if p.OnPanic == nil {
		p.OnPanic = logPanic
	}
	if p.OnMembership == nil {
		p.OnMembership = func(ServerID, netip.AddrPort, error) {}
	}
	if p.OnJoinFailure == nil {
		p.OnJoinFailure = func(netip.AddrPort, error) {}
	}
	if p.OnReject == nil {
		p.OnReject = func(*ServerSession, ServerID, int64, string) {}
	}
	if p.ChallengeDescriptor == nil {
		p.ChallengeDescriptor = func(descriptor []byte) []byte { return descriptor }
	}
	if p.Recheck == nil {
		p.Recheck = func([]byte, int64, int64, int64) {}
	}
	if p.OnSuspension == nil {
		p.OnSuspension = func(ServerID, error) {}
	}
	if p.OnUnreachable == nil {
		p.OnUnreachable = func(ServerID, netip.AddrPort, netip.Prefix, string) {}
	}
	if p.OnRefusal == nil {
		p.OnRefusal = func(netip.Prefix, string, int) {}
	}
	p.containCallbacks()
	if p.RateLimit != nil {
		setDefault(&p.BufferSize, p.RateLimit.bufferSize())
	}
	p.BufferSize = populateBufferSize(p.BufferSize)
	setDefault(&p.MaxSessions, defaultSessions)
	if p.MemoryLimit == 0 {
		p.MemoryLimit = defaultMemoryLimit(sysmem.Limit())
	}
	setDefault(&p.MaxContents, 2048)
	p.MemoryLimit = max(p.MemoryLimit, minMemoryLimit)
	setDefault(&p.maxHandshakes, defaultHandshakes)
	setDefault(&p.maxMembers, defaultMembers)
	setDefault(&p.MaxSessionsPerAddress, shareOf(p.MaxSessions))
	setDefault(&p.maxMembersPerAddress, shareOf(p.maxMembers))
	setDefault(&p.SessionIdleTimeout, time.Minute)
	return p
}

// populate fills the defaults in.
func (c *Config) populate() {
	if c.QUIC == nil {
		c.QUIC = &quic.Config{}
	}
	c.defaultHandshake, c.defaultHello = c.QUIC.HandshakeIdleTimeout == 0, c.HelloTimeout == 0
	setDefault(&c.QUIC.HandshakeIdleTimeout, 5*time.Second)
	setDefault(&c.QUIC.MaxIdleTimeout, 30*time.Second)
	setDefault(&c.QUIC.KeepAlivePeriod, 10*time.Second)
	setDefault(&c.QUIC.InitialPacketSize, smallPacket)
	c.QUIC.Allow0RTT = false // a ticket could be replayed
	if c.now == nil {
		c.now = time.Now
	}
	if c.lookupIP == nil {
		c.lookupIP = net.DefaultResolver.LookupNetIP
	}
	if c.LocalAddresses == nil {
		c.LocalAddresses = systemAddresses
	}
	setDefault(&c.HelloTimeout, 10*time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
