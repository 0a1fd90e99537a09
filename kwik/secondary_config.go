package kwik

import "time"

// A SecondaryStreamConfig says how secondary streams are received and, where it says so, sent. The zero value means the
// defaults; values outside a range are clipped to it.
type SecondaryStreamConfig struct {
	// MaxStreamsPerPath is how many secondary streams a server may have open at once on one path: QUIC's limit of
	// incoming unidirectional streams. More wait at the server. Each may make the client hold BufferSize bytes, or one unit if
	// that is more, before its payload has come. 0 means 32; the range is 1 to 256. Clients only.
	MaxStreamsPerPath int

	// StreamTimeout is for how long nothing may arrive on the secondary stream of a source that was granted bytes, while this
	// side takes what comes. Then the client resets the stream, counts its extent as interrupted, and grants what is missing
	// anew. A source that pushes owes nothing and may be silent. It is checked four times in that time, so a stream is given up
	// a quarter of it late at most. 0 means 10 s; the range is 100 ms to an hour. Clients only.
	StreamTimeout time.Duration

	// MetadataTimeout bounds the wait for the frame that opens a secondary stream, from when the stream is there and while this side takes
	// what comes, and for the stream's end after the frame that closes it. A source that does not open its stream in time breaks the
	// protocol. 0 means 30 s, as long as QUIC lets a connection be silent; the range is 100 ms to an hour. Clients only.
	MetadataTimeout time.Duration

	// BufferSize is the payload, in bytes, that a server puts into one DATA frame and that a client holds of one stream before it
	// proves and places it; both take whole units, and one unit if a single one is larger. 0 means 256 KiB; the range is
	// 64 KiB to 1 MiB.
	BufferSize int

	// AggregationBatchSize is how many bytes of consecutive short DATA frames of one stream a client proves and places at once:
	// frames of at most half of it, which have all arrived already; nothing waits for more to come. Longer frames are taken one
	// by one, without a copy. 0 means 256 KiB; negative means that each frame is taken by itself; the range is 4 KiB to
	// BufferSize. Clients only.
	AggregationBatchSize int
}

const (
	defaultSecondaryStreams = 32
	minSecondaryTimeout     = 100 * time.Millisecond
	maxSecondaryTimeout     = time.Hour
)

// populate gives every field its effective value.
func (c SecondaryStreamConfig) populate() SecondaryStreamConfig {
	setDefault(&c.MaxStreamsPerPath, defaultSecondaryStreams)
	c.MaxStreamsPerPath = clip(c.MaxStreamsPerPath, 1, 256)
	setDefault(&c.StreamTimeout, 10*time.Second)
	c.StreamTimeout = clip(c.StreamTimeout, minSecondaryTimeout, maxSecondaryTimeout)
	setDefault(&c.MetadataTimeout, 30*time.Second)
	c.MetadataTimeout = clip(c.MetadataTimeout, minSecondaryTimeout, maxSecondaryTimeout)
	c.BufferSize = populateBufferSize(c.BufferSize)
	setDefault(&c.AggregationBatchSize, dataFrameSize)
	if c.AggregationBatchSize > 0 {
		c.AggregationBatchSize = clip(c.AggregationBatchSize, 4<<10, c.BufferSize)
	}
	return c
}

// populateBufferSize returns the effective BufferSize of a client or a server.
func populateBufferSize(n int) int {
	setDefault(&n, dataFrameSize)
	return clip(n, 64<<10, maxDataPayload)
}

func clip[T int | time.Duration](v, least, most T) T { return max(least, min(v, most)) }
