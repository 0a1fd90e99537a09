// Package kwik is a multi-server transport on QUIC: a client opens one session, to a primary, and reads streams whose
// bytes come from the primary and any number of secondaries at once. The application sees one session and one stream; which
// servers take part, join, stall, lie or die is handled here.
//
// # Use
//
// [Dial] and [Listen] have quic-go's shape, and plain streams behave as quic-go's do, so a program written for quic-go moves
// over by changing the package there. What is new is the aggregate stream: the primary opens one with
// [ServerSession.OpenAggregateStream], saying how long it is and, in a descriptor of the application's own, what it is; every
// server hands the descriptor to its [ServerConfig].OpenContent; the client reads the [Stream] in order or with CopyTo as bytes
// come. Secondaries make themselves known to the primary with [Listener.Join]. An aggregate stream may also be pushed
// ([AggregateStreamSpec].Pushed): then servers write their parts when they like, through [SecondaryStream]s.
//
// The package knows nothing of files. It proves nothing by itself either: [AggregateOffer.Open] takes the function that does.
//
// # The data's way
//
//	Dial -> ClientSession -> path -> secondaryStreamHandler -> streamAggregator -> Stream.Read, Stream.CopyTo
//	                          |            (frames)             (proof, place)
//	                          '-- control stream <- grants <- scheduler
//
// A path is one QUIC connection to one server. The client's scheduler grants extents to sources over the control streams; a
// source answers each grant with one secondary stream (a QUIC unidirectional stream); the handler parses its frames
// (metadataProtocol) and keeps the mapping (streamMappingManager); the aggregator has the bytes proved, asks the
// offsetManager which of them are new, puts them in their place and tells the scheduler. On a server an attachment reads the
// content and writes the secondary streams.
//
// # Rules for everything in here
//
// A public stream exists on the primary's path only (isolation.go decides). A call that waits takes a context, or has a
// deadline on its stream. Closing a session or a listener waits until nothing of it is left.
//
// Errors are those of quic-go, or an [*Error] with an [ErrorCode]; the wire is described in docs/PROTOCOL.md.
//
// # What is missing
//
// Unidirectional plain streams and datagrams (unidirectional QUIC streams are taken), 0-RTT, several connections
// to one server, draining.
package kwik
