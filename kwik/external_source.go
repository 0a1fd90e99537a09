package kwik

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"kwikcp/internal/backoff"
)

// An ExternalSource delivers bytes of aggregate streams by other means than KWIK, such as
// requests to a web server. To a stream it is a source like a server. It is granted extents, and
// its bytes are proved. Other sources take over what it does not deliver. It is banned if it
// sends wrong bytes. It may serve streams of several sessions, also at the same time. It is safe
// for concurrent use.
type ExternalSource struct {
	config ExternalConfig

	mu     sync.Mutex
	state  PathState
	err    error // why it is closed or banned
	rtt    time.Duration
	minRTT time.Duration
	width  int // number of fetches at a time that was last found to be fastest
}

// An ExternalConfig describes an [ExternalSource]. Zero fields mean the defaults.
type ExternalConfig struct {
	// ID names the source among the servers of a session. It begins with ExternalPrefix, so that
	// no primary can give it to a server.
	ID ServerID
	// Fetches is the number of fetches of one stream at a time, at most 16. 0 means four at
	// first, then as many as are fastest.
	Fetches int
	// MinExtent is the size in bytes below which a fetch is not worth its cost; near the end of a
	// stream, a quarter of it. 0 means 4 MiB.
	MinExtent int64
	// SilenceTimeout bounds the time in which a fetch must deliver its next bytes. 0 means 15 s.
	SilenceTimeout time.Duration
}

// ExternalPrefix begins the ServerID of each external source, and of no server.
const ExternalPrefix = "web:"

const (
	firstFetches           = 4
	maxFetches             = 16
	defaultExternalExtent  = 4 << 20
	defaultExternalSilence = 15 * time.Second
)

// NewExternalSource returns a source that serves no stream yet.
func NewExternalSource(c ExternalConfig) (*ExternalSource, error) {
	switch {
	case !c.ID.isWellFormed() || !c.ID.isExternal():
		return nil, fmt.Errorf("kwik: %q cannot name an external source", string(c.ID))
	case c.Fetches < 0 || c.Fetches > maxFetches || c.MinExtent < 0 || c.SilenceTimeout < 0:
		return nil, errors.New("kwik: a setting of an external source is out of range")
	}
	setDefault(&c.MinExtent, defaultExternalExtent)
	setDefault(&c.SilenceTimeout, defaultExternalSilence)
	width := c.Fetches
	if width == 0 {
		width = firstFetches
	}
	return &ExternalSource{config: c, width: width}, nil
}

// A FetchFunc returns a reader of the bytes [start, end) of a stream. The reader is closed after
// that many bytes, or earlier. The context ends when its bytes are not wanted any more. An error
// counts as temporary unless it is, or wraps, a [*FetchError]; so does an error of the reader.
type FetchFunc func(ctx context.Context, start, end int64) (io.ReadCloser, error)

// A FetchError tells how an ExternalSource that failed is to be used further.
type FetchError struct {
	Err error
	// Permanent ends the use of the source for the stream.
	Permanent bool
	// RetryAfter is how long the source asks to be left alone; at most a minute counts.
	RetryAfter time.Duration
}

func (e *FetchError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FetchError) Unwrap() error { return e.Err }

const (
	// minFetchDelay and maxFetchDelay bound the delay after a fetch that failed.
	minFetchDelay = time.Second
	maxFetchDelay = 30 * time.Second
	// maxRetryAfter bounds FetchError.RetryAfter.
	maxRetryAfter = time.Minute
)

// delayAfter returns the delay before the next fetch after so many failures in a row.
func delayAfter(err error, failures int, random func() float64) time.Duration {
	delay := backoff.Policy{Min: minFetchDelay, Max: maxFetchDelay, Random: random}.Delay(failures)
	if e, ok := errors.AsType[*FetchError](err); ok {
		delay = max(delay, min(e.RetryAfter, maxRetryAfter))
	}
	return delay
}

func isPermanent(err error) bool {
	e, ok := errors.AsType[*FetchError](err)
	return ok && e.Permanent
}

// Stats returns a snapshot of the source. Its State is PathConnecting before the first answer.
func (e *ExternalSource) Stats() ServerStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ServerStats{
		ID: e.config.ID, Role: ServerRoleExternal, State: e.state, Err: e.err, RTT: e.rtt, MinRTT: e.minRTT,
	}
}

// Ban ends the use of the source in streams to which it is attached later.
func (e *ExternalSource) Ban(cause error) { e.set(PathBanned, cause) }

// set records a state. A banned source stays banned.
func (e *ExternalSource) set(state PathState, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != PathBanned {
		e.state, e.err = state, err
	}
}

// banned returns why the source is banned, nil if it is not.
func (e *ExternalSource) banned() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == PathBanned {
		return e.err
	}
	return nil
}

// answered records that the first byte of a fetch arrived after a time.
func (e *ExternalSource) answered(after time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != PathBanned {
		e.state, e.err = PathActive, nil
	}
	if e.rtt == 0 {
		e.rtt, e.minRTT = after, after
	}
	e.rtt += (after - e.rtt) / 8 // as in RFC 9002, section 5.3
	e.minRTT = min(e.minRTT, after)
}

// firstExternalRTT is assumed before the first answer.
const firstExternalRTT = 100 * time.Millisecond

// roundTrip returns the time that a fetch takes to its first byte.
func (e *ExternalSource) roundTrip() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rtt == 0 {
		return firstExternalRTT
	}
	return e.rtt
}

// trials returns the trials of a new stream. They begin with the width that an earlier stream
// found.
func (e *ExternalSource) trials() widthTrials {
	e.mu.Lock()
	defer e.mu.Unlock()
	limit := maxFetches
	if e.config.Fetches > 0 {
		limit = e.config.Fetches
	}
	return widthTrials{width: e.width, limit: limit}
}

// found records the width that is fastest.
func (e *ExternalSource) found(width int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.width = width
}
