package kwik

import (
	"errors"
	"time"

	"kwikcp/internal/backoff"
)

// A RecoveryPolicy decides how a client reacts to the faults of one source of an aggregate
// stream. The zero value is the safe choice. A source that breaks the protocol loses its path. A
// server whose bytes are rejected is banned for the session.
type RecoveryPolicy struct {
	// Mapping is for secondary streams of a KWIK stream that this client does not know yet.
	Mapping MappingRetryPolicy
	// Aggregation is for bytes that the verifier rejects.
	Aggregation AggregationFallbackStrategy
	// Metadata is for secondary streams whose frames break the protocol.
	Metadata MetadataRecoveryStrategy
}

// A MappingRetryPolicy bounds how long a secondary stream waits for the offer of its KWIK stream.
// Offers and data travel on different paths, so data may arrive first. Meanwhile it is not read,
// so that QUIC's flow control bounds its memory. The policy does not apply to head starts: they
// share the path of their offer, and wait as long as the path lasts.
type MappingRetryPolicy struct {
	MaxRetries int           // look-ups after the first; 0 means 9, which is 5.1 s with the default Backoff; negative means none
	Backoff    time.Duration // before the first retry, doubled for each further one, at most 1 h; 0 means 10 ms
}

func (p MappingRetryPolicy) populate() MappingRetryPolicy {
	setDefault(&p.MaxRetries, 9) // 5.1 s: on most links a lost offer has arrived again by then
	setDefault(&p.Backoff, 10*time.Millisecond)
	return p
}

// retry calls try until it succeeds, the retries are used up or done is closed. When a channel
// that news returns is closed it calls try at once; that does not count as a retry.
func (p MappingRetryPolicy) retry(done <-chan struct{}, news func() <-chan struct{}, try func() bool) bool {
	// Without jitter: a look-up concerns this process only.
	delays := backoff.Policy{Min: p.Backoff, Max: max(p.Backoff, time.Hour)}
	n := 0
	timer := time.NewTimer(delays.Delay(1))
	defer timer.Stop()
	for {
		sooner := news()
		if try() {
			return true
		}
		if n >= p.MaxRetries {
			return false
		}
		select {
		case <-done:
			return false
		case <-sooner:
		case <-timer.C:
			n++
			timer.Reset(delays.Delay(n + 1))
		}
	}
}

// An AggregationFallbackStrategy decides what happens when the verifier rejects bytes of a
// server. In each case the bytes are dropped and the primary is told.
type AggregationFallbackStrategy int

const (
	// FallbackIsolateSource bans the server for the session. The default.
	FallbackIsolateSource AggregationFallbackStrategy = iota
	// FallbackIgnoreCorrupted requests the bytes from any source and keeps this one. After the
	// third rejection the server is banned.
	FallbackIgnoreCorrupted
	// FallbackRequestRetransmission requests the bytes from the same source again. After the
	// third rejection the server is banned.
	FallbackRequestRetransmission
	// FallbackCloseStream ends the KWIK stream with the verifier's error.
	FallbackCloseStream
)

// maxRejections is the number of rejections after which a server is banned under any strategy but
// FallbackCloseStream.
const maxRejections = 3

// A MetadataRecoveryStrategy decides what happens when the frames of a secondary stream break the
// protocol.
type MetadataRecoveryStrategy int

const (
	// RecoveryClosePath closes the source's path, as docs/PROTOCOL.md requires. The default.
	RecoveryClosePath MetadataRecoveryStrategy = iota
	// RecoveryRequestResend drops the secondary stream and requests the missing bytes again.
	// After three such streams in a row the source takes no further part in the KWIK stream.
	RecoveryRequestResend
	// RecoveryUseDefaults replaces an initial offset that OPEN leaves out by the start of the
	// grant. Wrong values are handled as by RecoveryRequestResend.
	RecoveryUseDefaults
	// RecoveryCloseStream ends the KWIK stream with the violation as its error.
	RecoveryCloseStream
	// RecoveryIgnoreStream removes the source from this KWIK stream and keeps its path for others.
	RecoveryIgnoreStream
)

// A streamFault is a fault of a source that only resets its secondary stream, with the error's
// code.
type streamFault struct{ err error }

func (f streamFault) Error() string { return f.err.Error() }
func (f streamFault) Unwrap() error { return f.err }

// recover applies the strategy to a violation by a source. It returns the error with which to
// close the path, or nil. a is the stream concerned, nil if it is unknown.
func (s MetadataRecoveryStrategy) recover(err error, path PathID, a *streamAggregator) error {
	fault := violation(err, path)
	if fault == nil || a == nil || errors.Is(fault, ErrSourceRefuted) {
		return fault // AggregationFallbackStrategy handles rejected bytes
	}
	switch s {
	case RecoveryRequestResend, RecoveryUseDefaults:
		return nil // ended requests the rest again and counts the strikes
	case RecoveryCloseStream:
		a.fail(fault)
		return nil
	case RecoveryIgnoreStream:
		a.detach(path, fault)
		return nil
	}
	return fault
}
