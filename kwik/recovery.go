package kwik

import (
	"errors"
	"time"

	"kwikcp/internal/backoff"
)

// A RecoveryPolicy says what a client does when something goes wrong with one source of an aggregate stream. The zero
// value is the safe choice: a source that breaks the protocol loses its path, and one whose bytes fail their proof is
// banned for the session.
type RecoveryPolicy struct {
	// Mapping is for secondary streams that name a KWIK stream which this client does not know (yet).
	Mapping MappingRetryPolicy
	// Aggregation is for bytes that fail their proof.
	Aggregation AggregationFallbackStrategy
	// Metadata is for secondary streams whose frames break the protocol.
	Metadata MetadataRecoveryStrategy
}

// A MappingRetryPolicy says how long a secondary stream waits for the offer of the KWIK stream that it names. Offers and
// data travel on different paths, so data may come first. Meanwhile nothing is read of it, so QUIC's flow control bounds what
// it costs. It is not for head starts, which are on their offers' own path and wait as long as that lives.
type MappingRetryPolicy struct {
	MaxRetries int           // look-ups after the first; 0 means 9, negative none
	Backoff    time.Duration // before the first retry, doubled for each further one; 0 means 10 ms
}

func (p MappingRetryPolicy) populate() MappingRetryPolicy {
	setDefault(&p.MaxRetries, 9) // 5.1 s: an offer that is lost has come again, on most links
	setDefault(&p.Backoff, 10*time.Millisecond)
	return p
}

// retry calls try until it succeeds, the retries are used up or done is closed. What news returns is closed when it is worth while to try
// again before the time, which is no retry.
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

// An AggregationFallbackStrategy says what happens when bytes of a source fail their proof. In each case they are dropped,
// count as wasted, and the primary is told.
type AggregationFallbackStrategy int

const (
	// FallbackIsolateSource bans the source for the session. The default.
	FallbackIsolateSource AggregationFallbackStrategy = iota
	// FallbackIgnoreCorrupted fetches the bytes from whoever is free and keeps the source. After the third time it is
	// isolated all the same.
	FallbackIgnoreCorrupted
	// FallbackRequestRetransmission asks the same source once more for the bytes. After the third time it is isolated.
	FallbackRequestRetransmission
	// FallbackCloseStream ends the KWIK stream with the proof's error.
	FallbackCloseStream
)

// maxRefutations is how often bytes of a source may fail their proof before it is isolated under any strategy.
const maxRefutations = 3

// A MetadataRecoveryStrategy says what happens when the frames of a secondary stream break the protocol.
type MetadataRecoveryStrategy int

const (
	// RecoveryClosePath closes the source's path, as docs/PROTOCOL.md asks. The default.
	RecoveryClosePath MetadataRecoveryStrategy = iota
	// RecoveryRequestResend drops the secondary stream and grants anew what it did not deliver; the source is done without
	// after three such streams in a row.
	RecoveryRequestResend
	// RecoveryUseDefaults takes the grant's start for an initial offset that OPEN leaves out. What is
	// there and wrong is handled as by RecoveryRequestResend.
	RecoveryUseDefaults
	// RecoveryCloseStream ends the KWIK stream with the violation as its error.
	RecoveryCloseStream
	// RecoveryIgnoreStream takes the source out of this KWIK stream and keeps its path for others.
	RecoveryIgnoreStream
)

// A streamFault is a source's fault for which its secondary stream is reset, with the error's code, and nothing else happens.
type streamFault struct{ err error }

func (f streamFault) Error() string { return f.err.Error() }
func (f streamFault) Unwrap() error { return f.err }

// recover decides what a violation by a source means: the error with which its path has to be closed, or nil. a is the
// stream concerned, nil if it is not known.
func (s MetadataRecoveryStrategy) recover(err error, path PathID, a *streamAggregator) error {
	fault := violation(err, path)
	if fault == nil || a == nil || errors.Is(fault, ErrSourceRefuted) {
		return fault // bytes that failed their proof are the other strategy's affair
	}
	switch s {
	case RecoveryRequestResend, RecoveryUseDefaults:
		return nil // the extent is interrupted; ended grants the rest anew and counts the strikes
	case RecoveryCloseStream:
		a.fail(fault)
		return nil
	case RecoveryIgnoreStream:
		a.detach(path, fault)
		return nil
	}
	return fault
}
