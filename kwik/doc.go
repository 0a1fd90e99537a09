// Package kwik is a multi-server transport over QUIC. A client opens one session, to a primary
// server. The bytes of a stream arrive from the primary and any number of secondary servers at
// once. The application sees one session and one stream. The package handles the servers: which
// of them take part, join, stall, send wrong bytes or fail.
//
// # Use
//
// [Dial] and [Listen] have the shape of quic-go's functions, and a [Stream] behaves as quic-go's
// does. A program written for quic-go changes the package there.
//
// The aggregate stream is new. The primary opens one with [ServerSession.OpenAggregateStream]; it
// states the size, and describes the content in a descriptor of the application's own. The client
// accepts it with [ClientSession.AcceptAggregate] or [ClientSession.AcceptNextAggregate], and
// opens it with a function that verifies its bytes. It reads from the [AggregateReader]: with
// Read in order, or with CopyTo as bytes arrive. Every server passes the descriptor to its
// [ServerConfig].OpenContent. A secondary registers with the primary by [Listener.Join].
//
// The servers of a pushed stream ([AggregateStreamSpec].Pushed) write their parts when they like,
// each through a [SecondaryStream].
//
// The package knows nothing of files. It verifies nothing by itself either: see
// [AggregateOffer.Open].
//
// # Errors
//
// A caller may meet these errors, all of them to be recognised by errors.Is and errors.As:
//
//   - [*Error], with an [ErrorCode] and the path, stream and offset concerned: KWIK's own errors of either side.
//   - quic-go's: *quic.TransportError, *quic.ApplicationError with a code that is not KWIK's, *quic.StreamError
//     likewise, *quic.IdleTimeoutError, *quic.HandshakeTimeoutError, *quic.StatelessResetError,
//     *quic.VersionNegotiationError.
//   - net.ErrClosed, after this side has closed the session, stream or listener.
//   - The error or cause of the context that a call was given, and os.ErrDeadlineExceeded after a deadline.
//   - The application's: those of a [ProofFunc], of the io.WriterAt of CopyTo, of [ClientConfig].ListenPacket.
//   - Errors without a type, which name the mistake of the caller: a configuration that is not allowed, Read after CopyTo.
//
// [AggregateReader.Read] and Stream.Read return io.EOF at the end.
//
// # The way of the data
//
//	Dial -> ClientSession -> path -> secondaryStreamHandler -> streamAggregator -> AggregateReader
//	                          |            (frames)            (verify, place)
//	                          '-- control stream <- grants <- scheduler
//
// A path is one QUIC connection to one server. The client's scheduler grants extents to sources
// over the control streams. A source answers each grant with one secondary stream, a QUIC
// unidirectional stream. The handler parses its frames (metadataProtocol) and keeps the mapping
// (streamMappingManager). The aggregator has the bytes verified, asks the offsetManager which of
// them are new, places them and tells the scheduler. On a server an attachment reads the content
// and writes the secondary streams.
//
// # Rules
//
// Public streams exist on the primary's path only (isolation.go). A call that blocks takes a
// context, or its stream has a deadline. Closing a session or a listener waits until all its
// goroutines have ended. All types are safe for concurrent use, except for SecondaryStream.
// docs/PROTOCOL.md describes the wire.
//
// # Limits
//
// There are no unidirectional plain streams, no datagrams and no 0-RTT.
package kwik
