package kwik

import "time"

// A SecondaryStreamConfig configures how a client receives secondary streams. The zero value
// means the defaults. Values outside a range are clipped to it.
type SecondaryStreamConfig struct {
	// MaxStreamsPerPath is the number of secondary streams that a server may have open at once on
	// one path: QUIC's limit of incoming unidirectional streams. Further ones wait at the server.
	// Each stream may make the client hold BufferSize bytes, or one unit if that is more. So all
	// paths of a session together have only 8 times as many, and 4 for each path: with many paths,
	// later ones have fewer. 0 means 32; the range is 1 to 256.
	MaxStreamsPerPath int

	// StreamTimeout bounds the silence of a secondary stream whose source owes bytes, while the
	// client is ready to receive them. Then the client resets the stream and requests the missing
	// bytes again. A source that pushes may be silent. The check may be late by a quarter of the
	// time-out. 0 means 10 s; the range is 100 ms to 1 h.
	StreamTimeout time.Duration

	// MetadataTimeout bounds the wait for the frame that opens a secondary stream. It also bounds
	// the wait for the end of the stream after the frame that closes it. The time counts while
	// the client is ready to receive them. A source that misses it breaks the protocol. 0 means
	// 30 s, which is QUIC's default idle time-out; the range is 100 ms to 1 h.
	MetadataTimeout time.Duration

	// BufferSize is the number of bytes of one stream that the client holds before it verifies
	// and places them. It is rounded to whole units, and is one unit if a unit is larger. 0 means
	// 256 KiB; the range is 64 KiB to 1 MiB.
	BufferSize int

	// AggregationBatchSize is the number of bytes of consecutive short DATA frames of one stream
	// that the client verifies and places at once. Only frames of at most half of it that have
	// arrived already form a batch. Longer frames are handled one by one, without a copy. 0 means
	// 256 KiB; negative means no batches; the range is 4 KiB to BufferSize.
	AggregationBatchSize int
}

const (
	defaultSecondaryStreams = 32
	minSecondaryTimeout     = 100 * time.Millisecond
	maxSecondaryTimeout     = time.Hour
)

// populate returns a copy in which every field has its effective value.
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
