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
	// rateSmoothing is the weight of the newest interval in a rate.
	rateSmoothing = 0.15
)

// An observer passes the events of a transfer to its Reporter, one call at a time. While a stream
// is copied, a goroutine that watch starts reports progress every observeInterval.
//
// Bytes are counted by the streams (kwik.StreamStats), not here. The observer only adds the
// counts of earlier attempts.
type observer struct {
	mu      sync.Mutex // guards the rest, and is held while the Reporter runs
	report  Reporter
	states  map[kwik.ServerID]ServerState // as last reported
	servers map[kwik.ServerID]*meter
	total   meter
	// past are the servers of earlier attempts, with the bytes that they delivered then.
	past []ServerStatus
	seen []ServerStatus // in the latest Progress
	// unwanted is the number of bytes of the stream outside the range to fetch. They count
	// neither as fetched nor as missing.
	unwanted int64
	// files is the number of files of a mirror that are in place, ofFiles that of all known files.
	files, ofFiles int64
	stall          *stallWatch // nil without one
	web            *webSet     // nil without web mirrors
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

// newObserver returns an observer for report. With nil it reports nothing.
func newObserver(report Reporter) *observer {
	if report == nil {
		report = NoReport{}
	}
	o := &observer{report: report}
	o.reset()
	return o
}

// reset forgets the servers and rates of an attempt. It must be called with the lock held, or
// before the observer is used.
func (o *observer) reset() {
	o.states, o.servers, o.total = make(map[kwik.ServerID]ServerState), make(map[kwik.ServerID]*meter), meter{}
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

// retry ends an attempt. In the next one the servers have other IDs.
func (o *observer) retry(r Retry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.past = o.seen
	o.reset()
	o.report.Retry(r)
}

func (o *observer) waiting(w Waiting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Waiting(w)
}

func (o *observer) badBlock(server kwik.ServerID, off, length int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.BadBlock(server, off, length)
}

// server reports a server that no stream has any more.
func (o *observer) server(s ServerStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report.Server(s)
}

// useWeb includes web mirrors in the servers.
func (o *observer) useWeb(web *webSet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.web = web
}

// withWeb adds the web mirrors of a stream to the servers. It must be called with the lock held.
func (o *observer) withWeb(
	servers []kwik.ServerStats, sources []kwik.SourceStats,
) (all []kwik.ServerStats, hosts map[kwik.ServerID]string) {
	if o.web == nil {
		return servers, nil
	}
	used, hosts := o.web.stats()
	for _, st := range used {
		if slices.ContainsFunc(sources, func(src kwik.SourceStats) bool { return src.Server == st.ID }) {
			servers = append(servers, st)
		}
	}
	return servers, hosts
}

// watch reports the progress of a stream until stop is called. stop makes the last report and
// returns it.
func (o *observer) watch(
	servers func() []kwik.ServerStats, stream *kwik.AggregateReader,
) (stop func() Progress) {
	done, ended := make(chan struct{}), make(chan struct{})
	waited := o.stall.wait()
	look := func() Progress {
		stats := stream.Stats() // first, so that each of its sources is among the servers
		return o.progress(servers(), stats)
	}
	go func() { // stop ends it and waits for it
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
		waited()
		return look()
	}
}

// outside sets the number of bytes of the stream that are outside the range to fetch.
func (o *observer) outside(bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unwanted = bytes
}

// setFileCounts sets how many files of a mirror are in place, and how many are known.
func (o *observer) setFileCounts(files, of int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files, o.ofFiles = files, of
}

// progress reports a snapshot and returns it. Servers of earlier attempts that are gone are
// included with their bytes.
func (o *observer) progress(servers []kwik.ServerStats, stats kwik.StreamStats) Progress {
	now := time.Now()
	if o.stall != nil && stats.Idle == 0 {
		o.stall.progress(stats.Bytes)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	stats.Bytes = max(stats.Bytes-o.unwanted, 0) // they count as in place once the copy has begun
	stats.Size -= o.unwanted
	if o.total.at.IsZero() {
		o.total.at, o.total.bytes = now, stats.Bytes // local bytes do not count in the rate
	}
	p := Progress{Bytes: stats.Bytes, Total: stats.Size, ETA: -1, Files: o.files, OfFiles: o.ofFiles}
	if p.Rate = o.total.update(stats.Bytes, now); p.Rate > 0 {
		p.ETA = time.Duration(float64(stats.Size-stats.Bytes) / p.Rate * float64(time.Second))
	}
	past := slices.Clone(o.past)
	servers, hosts := o.withWeb(servers, stats.Sources)
	for _, server := range servers {
		s := o.status(server, stats, now)
		if host := hosts[s.ID]; host != "" {
			s.Addr = host
		}
		if o.states[s.ID] != s.State {
			o.states[s.ID] = s.State
			o.report.Server(s)
		}
		same := func(old ServerStatus) bool { return old.Role == s.Role && old.Addr == s.Addr }
		if i := slices.IndexFunc(past, same); i >= 0 {
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

// status returns the status of a server. Its state in the stream counts while its connection is
// active.
func (o *observer) status(server kwik.ServerStats, stats kwik.StreamStats, now time.Time) ServerStatus {
	s := ServerStatus{ID: server.ID, Role: server.Role, Addr: server.Addr.String(), RTT: server.RTT}
	reason := server.Err
	isResting := server.State == kwik.PathClosed && kwik.IsIdleClose(server.Err) // until the next stream
	switch {
	case server.State == kwik.PathConnecting:
		s.State = ServerConnecting
	case server.State == kwik.PathActive, isResting:
		s.State = ServerJoined
	case server.State == kwik.PathBanned:
		s.State = ServerBanned
	default:
		s.State = ServerLost
	}
	i := slices.IndexFunc(stats.Sources, func(src kwik.SourceStats) bool { return src.Server == server.ID })
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

// short returns the cause of a lost server in one line.
func short(err error) string {
	if e, ok := errors.AsType[*kwik.Error](err); ok && e.Message != "" && e.Code != kwik.ErrSourceRefuted {
		return e.Message
	}
	return NetworkCause(err).Error()
}
