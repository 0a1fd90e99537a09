package transfer

import (
	"errors"
	"slices"
	"sync"
	"time"

	"kwikcp/kwik"
)

const (
	observeInterval = 100 * time.Millisecond
	// rateSmoothing is the weight of the newest tenth of a second in a rate.
	rateSmoothing = 0.15
)

// An observer passes what happens in a transfer to its Reporter, one call at a time. While a stream is copied its own
// goroutine, started by watch, looks at the session ten times a second.
type observer struct {
	mu      sync.Mutex
	report  Reporter
	states  map[kwik.PathID]ServerState // as last reported
	servers map[kwik.PathID]*meter
	total   meter
}

// A meter smooths a rate.
type meter struct {
	bytes int64
	at    time.Time
	rate  float64 // bytes a second
}

func (m *meter) update(bytes int64, now time.Time) float64 {
	elapsed := now.Sub(m.at).Seconds()
	switch {
	case m.at.IsZero():
	case elapsed < observeInterval.Seconds()/2:
		return m.rate
	default:
		latest := float64(bytes-m.bytes) / elapsed
		if m.rate == 0 {
			m.rate = latest
		} else {
			m.rate += rateSmoothing * (latest - m.rate)
		}
	}
	m.bytes, m.at = bytes, now
	return m.rate
}

func newObserver(report Reporter) *observer {
	return &observer{report: report, states: make(map[kwik.PathID]ServerState), servers: make(map[kwik.PathID]*meter)}
}

func (o *observer) hashing(bytes, total int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Hashing(bytes, total)
}

func (o *observer) manifest(m Manifest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Manifest(m)
}

func (o *observer) badBlock(server kwik.PathID, off, length int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.BadBlock(server, off, length)
}

// watch reports on a stream until the returned function is called, which waits for the last report and returns it.
func (o *observer) watch(session *kwik.ClientSession, stream *kwik.Stream, size int64) (stop func() Progress) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		ticker := time.NewTicker(observeInterval)
		defer ticker.Stop()
		for {
			o.look(session, stream, size)
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	}()
	return func() Progress {
		close(done)
		<-ended
		return o.look(session, stream, size)
	}
}

// look takes a snapshot and reports it.
func (o *observer) look(session *kwik.ClientSession, stream *kwik.Stream, size int64) Progress {
	stats, paths := stream.Stats(), session.Paths()
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.total.at.IsZero() {
		o.total.at = now
	}
	p := Progress{Bytes: stats.Bytes, Total: size, ETA: -1}
	if p.Rate = o.total.update(stats.Bytes, now); p.Rate > 0 {
		p.ETA = time.Duration(float64(size-stats.Bytes) / p.Rate * float64(time.Second))
	}
	for _, path := range paths {
		s := o.status(path, stats, now)
		if o.states[s.ID] != s.State {
			o.states[s.ID] = s.State
			o.report.Server(s)
		}
		p.Servers = append(p.Servers, s)
	}
	o.report.Progress(p)
	return p
}

func (o *observer) status(path kwik.PathStats, stats kwik.StreamStats, now time.Time) ServerStatus {
	s := ServerStatus{ID: path.ID, Role: path.Role, Addr: path.Addr.String(), RTT: path.RTT}
	reason := path.Reason
	switch path.State {
	case kwik.PathConnecting:
		s.State = ServerConnecting
	case kwik.PathActive:
		s.State = ServerJoined
	case kwik.PathBanned:
		s.State = ServerBanned
	default:
		s.State = ServerLost
	}
	i := slices.IndexFunc(stats.Sources, func(src kwik.SourceStats) bool { return src.Path == path.ID })
	if i >= 0 {
		src := stats.Sources[i]
		s.Bytes = src.Bytes
		switch {
		case src.Gone != nil && s.State == ServerJoined:
			s.State, reason = ServerLost, src.Gone
		case src.Stalled && s.State == ServerJoined:
			s.State = ServerStalled
		}
	}
	if reason != nil && s.State != ServerJoined {
		s.Reason = short(reason)
	}
	if o.servers[s.ID] == nil {
		o.servers[s.ID] = &meter{}
	}
	s.Rate = o.servers[s.ID].update(s.Bytes, now)
	return s
}

// short returns what is worth a line about why a server is lost.
func short(err error) string {
	if e, ok := errors.AsType[*kwik.Error](err); ok && e.Reason != "" && e.Code != kwik.ErrSourceRefuted {
		return e.Reason
	}
	return plain(err).Error()
}
