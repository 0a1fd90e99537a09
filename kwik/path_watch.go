package kwik

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// This file finds out what is behind the silence of a server on which the client waits. It waits
// for a source that owes bytes, or for an answer on a plain stream. QUIC alone would take up to 30
// s to notice.
//
//   - A server that lives acknowledges a Probe frame. It may be slow, and stays in use.
//   - A server that was restarted does not know the connection. It answers the packet with a
//     stateless reset, which ends the path at once, and the keeper dials again. QUIC's own probes
//     are too short for a reset.
//   - If nothing listens at the port, the server's system refuses packets where it can (ICMP). The
//     path ends. The server counts as gone after goneTime, in which it may be restarted. So does one
//     that closed its connections without an error and does not answer the next dial.
//   - Anything else is an outage of the network, which may pass.
//
// transfer/stall.go has the table of all of them.

const (
	watchInterval = 500 * time.Millisecond
	// silentTime is the silence after which a path is probed, and the time between two probes.
	silentTime = time.Second
	// answeringTime is the silence after which a server does not answer. Probes are answered
	// sooner.
	answeringTime = 3 * time.Second
	// refusedTime is the silence after which the client asks whether the port is closed, and the
	// time between two such questions.
	refusedTime = 2 * time.Second
	// goneTime is how long the port of a server must be closed until the server is gone. It is
	// enough for a restart.
	goneTime = 3 * time.Second
	// longestExcuse bounds how long a server that can be reached again may deliver nothing. QUIC's
	// idle time-out bounds the silence before.
	longestExcuse = 30 * time.Second
	// probePadding makes the packet of a Probe longer than a stateless reset, 42 bytes.
	probePadding = 64
)

// errRefused means that nothing listens at the port of a server, as its system reports.
var errRefused = fmt.Errorf("the port is closed: %w", syscall.ECONNREFUSED)

// ended records the end of a connection or of a dial. Only an answer of the server, or a connection
// that begins, refutes what is known of its end.
func (r *pathRecord) ended(err error, now time.Time) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		if r.refusedSince.IsZero() {
			r.refusedSince = now
		}
	case saidGoodbye(err):
		r.closedAt, r.refusedSince = now, time.Time{}
	case isUnanswered(err):
		if !r.closedAt.IsZero() && r.refusedSince.IsZero() && now.Sub(r.closedAt) >= goneTime {
			r.refusedSince = r.closedAt
		}
	default:
		r.answered()
	}
}

// answered records that the server of a path lives.
func (r *pathRecord) answered() { r.closedAt, r.refusedSince = time.Time{}, time.Time{} }

// isGone reports whether the server is certainly gone.
func (r *pathRecord) isGone(now time.Time) bool {
	return !r.refusedSince.IsZero() && now.Sub(r.refusedSince) >= goneTime
}

// saidGoodbye reports whether the server closed a connection without an error: it ends.
func saidGoodbye(err error) bool {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	return ok && e.Remote && e.ErrorCode == ApplicationErrorCode(NoError) && !IsIdleClose(err)
}

// isUnanswered reports whether a dial ended because no packet arrived.
func isUnanswered(err error) bool {
	_, noHandshake := errors.AsType[*quic.HandshakeTimeoutError](err)
	_, isSilent := errors.AsType[*quic.IdleTimeoutError](err)
	return noHandshake || isSilent || errors.Is(err, errUnanswered) || errors.Is(err, context.DeadlineExceeded)
}

// plainStream returns a plain stream of the path.
func (p *path) plainStream(stream *quic.Stream) *Stream {
	return &Stream{quic: stream, path: p.id, reading: &p.reading, carried: &p.carried}
}

// isWaitedFor reports whether the client waits for something on a path.
func (s *ClientSession) isWaitedFor(p *path) bool {
	if p.reading.Load() > 0 {
		return true
	}
	s.mu.Lock()
	var streams []*streamAggregator // an aggregator's lock is taken before the session's
	for _, open := range s.streams {
		if !open.released && open.attached[p.id] == p {
			streams = append(streams, open.agg)
		}
	}
	s.mu.Unlock()
	for _, a := range streams {
		if a.isStalled(p.id) {
			return true
		}
	}
	return false
}

// isStalled reports whether a path is a source that owes bytes and sends none.
func (a *streamAggregator) isStalled(id PathID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[id]
	return s != nil && !s.gone && s.stalled
}

// A silence measures how long no packet has arrived on a path on which the client waits. The zero
// value is ready.
type silence struct {
	received      uint64    // packets
	probed, asked time.Time // when the last Probe and the last question were due; zero before the start
	since         time.Time // when the silence began
}

// observe records how many packets have arrived. It decides what is due now: a Probe frame, and the
// question whether the port is closed.
func (w *silence) observe(received uint64, isWaitedFor bool, now time.Time) (probe, ask bool) {
	if received != w.received || !isWaitedFor || w.probed.IsZero() {
		*w = silence{received: received, probed: now, asked: now, since: now}
		return false, false
	}
	if now.Sub(w.probed) >= silentTime {
		w.probed, probe = now, true
	}
	if now.Sub(w.asked) >= refusedTime {
		w.asked, ask = now, true
	}
	return probe, ask
}

// excuse returns how long a server may deliver nothing, although it answers, if a packet arrives
// now that ends the silence. QUIC doubles the time between two retransmissions, so the next one of
// the server may be due after as long again.
func (w *silence) excuse(now time.Time) time.Duration {
	outage := now.Sub(w.since)
	if isOutage := !w.since.IsZero() && outage >= answeringTime; !isOutage { // or an answer to a Probe
		return 0
	}
	return min(outage+silentTime, longestExcuse)
}

// isAnswering reports whether a packet of the server has just arrived, and it has no excuse to
// deliver nothing. The times are those of ticks of watch.
func (p *path) isAnswering(now time.Time) bool {
	heard, excused := time.Unix(0, p.heardAt.Load()), time.Unix(0, p.excusedUntil.Load())
	return now.Sub(heard) < answeringTime && !now.Before(excused)
}

// IsAnswering reports whether the primary can be reached, for long enough to repeat what was lost
// before. A primary whose answer is awaited is probed, so it answers while it can be reached.
func (s *ClientSession) IsAnswering() bool {
	return s.public.Err() == nil && s.primary.isAnswering(time.Now())
}

// watch probes the server while the path is silent, until the path ends.
func (p *path) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var w silence
	m := mover{path: p}
	defer m.wait()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			stats, isWaitedFor := p.conn.ConnectionStats(), p.session.isWaitedFor(p)
			received := stats.PacketsReceived
			if received != w.received {
				p.heardAt.Store(now.UnixNano())
				if excuse := w.excuse(now); excuse > 0 && isWaitedFor {
					p.excusedUntil.Store(now.Add(excuse).UnixNano())
				}
			}
			m.observe(ctx, stats, isWaitedFor, now)
			probe, ask := w.observe(received, isWaitedFor, now)
			if probe {
				p.probe()
			}
			if ask && p.isRefused(ctx) {
				p.gone = errRefused
				p.fail(nil)
				return
			}
		}
	}
}

// isRefused asks for a second whether the system of the server refuses packets.
func (p *path) isRefused(ctx context.Context) bool {
	ask := p.session.config.askPort
	if ask == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return ask(ctx, p.addr)
}
