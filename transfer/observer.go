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
	states  map[kwik.ServerID]ServerState // as last reported
	servers map[kwik.ServerID]*meter
	total   meter
	// past are the servers of earlier attempts, with what they delivered in them.
	past []ServerStatus
	seen []ServerStatus // in the newest Progress
	// unwanted bytes of the stream count neither as had nor as missing.
	unwanted int64
	// files and ofFiles are how many files of a mirror are in place, and how many there are.
	files, ofFiles int64
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
	return &observer{report: report, states: make(map[kwik.ServerID]ServerState), servers: make(map[kwik.ServerID]*meter)}
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

func (o *observer) checking(done, total int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Checking(done, total)
}

func (o *observer) resume(bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Resume(bytes)
}

// retry ends an attempt: in the next one servers have other ids.
func (o *observer) retry(r Retry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.past = o.seen
	o.states, o.servers, o.total = make(map[kwik.ServerID]ServerState), make(map[kwik.ServerID]*meter), meter{}
	o.report.Retry(r)
}

func (o *observer) badBlock(server kwik.ServerID, off, length int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.BadBlock(server, off, length)
}

// watch reports on a stream until the returned function is called, which waits for the last report and returns it.
func (o *observer) watch(session *kwik.ClientSession, stream *kwik.AggregateReader) (stop func() Progress) {
	done, ended := make(chan struct{}), make(chan struct{})
	look := func() Progress {
		stats := stream.Stats() // first: who delivered is among the paths
		return o.progress(session.Servers(), stats)
	}
	go func() { // ends with stop, which waits for it
		defer close(ended)
		ticker := time.NewTicker(observeInterval)
		defer ticker.Stop()
		for {
			look()
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
		return look()
	}
}

// outside says how many bytes of the stream are not wanted.
func (o *observer) outside(bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unwanted = bytes
}

// count says how many files of a mirror are in place.
func (o *observer) setFileCounts(files, of int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files, o.ofFiles = files, of
}

// look reports a snapshot.
func (o *observer) progress(paths []kwik.ServerStats, stats kwik.StreamStats) Progress {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	stats.Bytes -= o.unwanted
	stats.Size -= o.unwanted
	if o.total.at.IsZero() {
		o.total.at, o.total.bytes = now, stats.Bytes // what was there before has no rate
	}
	p := Progress{Bytes: stats.Bytes, Total: stats.Size, ETA: -1, Files: o.files, OfFiles: o.ofFiles}
	if p.Rate = o.total.update(stats.Bytes, now); p.Rate > 0 {
		p.ETA = time.Duration(float64(stats.Size-stats.Bytes) / p.Rate * float64(time.Second))
	}
	past := slices.Clone(o.past)
	for _, path := range paths {
		s := o.status(path, stats, now)
		if o.states[s.ID] != s.State {
			o.states[s.ID] = s.State
			o.report.Server(s)
		}
		if i := slices.IndexFunc(past, func(old ServerStatus) bool { return old.Role == s.Role && old.Addr == s.Addr }); i >= 0 {
			s.Bytes += past[i].Bytes
			past = slices.Delete(past, i, i+1)
		}
		p.Servers = append(p.Servers, s)
	}
	for _, old := range past {
		if old.Bytes > 0 {
			old.Rate = 0
			p.Servers = append(p.Servers, old)
		}
	}
	o.seen = p.Servers
	o.report.Progress(p)
	return p
}

func (o *observer) status(path kwik.ServerStats, stats kwik.StreamStats, now time.Time) ServerStatus {
	s := ServerStatus{ID: path.ID, Role: path.Role, Addr: path.Addr.String(), RTT: path.RTT}
	reason := path.Err
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
	i := slices.IndexFunc(stats.Sources, func(src kwik.SourceStats) bool { return src.Server == path.ID })
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
	if e, ok := errors.AsType[*kwik.Error](err); ok && e.Message != "" && e.Code != kwik.ErrSourceRefuted {
		return e.Message
	}
	return NetworkCause(err).Error()
}
