package kwik

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// This file finds out what is behind the silence of a server on which the client waits: a source
// that owes bytes, or an answer on a plain stream. QUIC alone would take up to 30 s to notice.
//
//   - A server that lives acknowledges a Probe frame. It may be slow, and stays in use.
//   - A server that was restarted does not know the connection. It answers the packet with a
//     stateless reset, which ends the path at once, and the keeper dials again. QUIC's own probes
//     are too short for a reset.
//   - If nothing listens at the port, the server's system refuses packets where it can (ICMP). The
//     path ends. The server counts as gone after goneTime, in which it may be restarted.
//   - Anything else is an outage of the network, which may pass.

const (
	watchInterval = 500 * time.Millisecond
	// silentTime is the silence after which a path is probed, and the time between two probes.
	silentTime = time.Second
	// answeringTime is the silence after which a server does not answer. Probes are answered sooner.
	answeringTime = 3 * time.Second
	// refusedTime is the silence after which the client asks whether the port is closed, and the
	// time between two such questions.
	refusedTime = 2 * time.Second
	// goneTime is how long the port of a server must be closed until the server is gone. It is
	// enough for a restart.
	goneTime = 3 * time.Second
	// probePadding makes the packet of a Probe longer than a stateless reset, 42 bytes.
	probePadding = 64
)

// errRefused means that nothing listens at the port of a server, as its system reports.
var errRefused = fmt.Errorf("the port is closed: %w", syscall.ECONNREFUSED)

// refused records the end of a connection or of a dial, and whether the system of the server
// refused packets.
func (r *pathRecord) refused(err error, now time.Time) {
	switch {
	case !errors.Is(err, syscall.ECONNREFUSED):
		r.refusedSince = time.Time{}
	case r.refusedSince.IsZero():
		r.refusedSince = now
	}
}

// isGone reports whether the server is certainly gone.
func (r *pathRecord) isGone(now time.Time) bool {
	return !r.refusedSince.IsZero() && now.Sub(r.refusedSince) >= goneTime
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
}

// observe records how many packets have arrived. It decides what is due now: a Probe frame, and the
// question whether the port is closed.
func (w *silence) observe(received uint64, isWaitedFor bool, now time.Time) (probe, ask bool) {
	if received != w.received || !isWaitedFor || w.probed.IsZero() {
		*w = silence{received: received, probed: now, asked: now}
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

// silence returns how long no packet has arrived, to half a second.
func (p *path) silence() time.Duration { return time.Since(time.Unix(0, p.heardAt.Load())) }

// IsAnswering reports whether a packet of the primary has just arrived. A primary whose answer is
// awaited is probed, so it answers while it can be reached.
func (s *ClientSession) IsAnswering() bool {
	return s.public.Err() == nil && s.primary.silence() < answeringTime
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
