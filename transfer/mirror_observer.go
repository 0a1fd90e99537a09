package transfer

import (
	"slices"
	"sync"
	"time"

	"kwikcp/kwik"
)

// liveStreams is how far a mirror is: the batches that flow now, and those that are over. Its zero value is ready.
type liveStreams struct {
	mu      sync.Mutex
	streams []*kwik.AggregateReader
	// past has the bytes and sources of streams that are over, and of files that needed none.
	past kwik.StreamStats
	// total is the bytes of all files that are to be there, as far as the listing is known, and files and done how many there are and are in
	// place.
	total       int64
	files, done int64
}

func (l *liveStreams) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams, l.past, l.total, l.files, l.done = nil, kwik.StreamStats{}, 0, 0, 0
}

// plan counts a file that is to be there.
func (l *liveStreams) addFile(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total += size
	l.files++
}

// had counts the bytes of a file for which nothing flows.
func (l *liveStreams) addPresent(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past.Bytes += size
}

// placed counts a file that is in place.
func (l *liveStreams) placed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
}

func (l *liveStreams) add(s *kwik.AggregateReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams = append(l.streams, s)
}

// end takes a stream out that is over, and returns its last statistics.
func (l *liveStreams) remove(s *kwik.AggregateReader) kwik.StreamStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams = slices.DeleteFunc(l.streams, func(o *kwik.AggregateReader) bool { return o == s })
	st := s.Stats()
	l.past.Bytes += st.Bytes
	l.past.Sources = addSources(l.past.Sources, st.Sources, false)
	return st
}

// look returns the sums.
func (l *liveStreams) totals() (st kwik.StreamStats, files, done int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st = kwik.StreamStats{Bytes: l.past.Bytes, Size: l.total, Sources: slices.Clone(l.past.Sources)}
	for _, s := range l.streams {
		each := s.Stats()
		st.Bytes += each.Bytes
		st.Sources = addSources(st.Sources, each.Sources, true)
	}
	st.Bytes = min(st.Bytes, st.Size) // the listing may be older than what is fetched
	return st, l.files, l.done
}

// addSources adds what sources did for one stream. Whether one stalls or is gone is what it is in a stream that flows.
func addSources(sum, each []kwik.SourceStats, live bool) []kwik.SourceStats {
	for _, s := range each {
		if !live {
			s.Stalled, s.Gone = false, nil
		}
		i := slices.IndexFunc(sum, func(o kwik.SourceStats) bool { return o.Server == s.Server })
		if i < 0 {
			sum = append(sum, s)
			continue
		}
		sum[i].Bytes += s.Bytes
		sum[i].Stalled = s.Stalled
		sum[i].Gone = s.Gone
	}
	return sum
}

// watch reports on the mirror ten times a second until the returned function is called, which waits for the last report and returns it.
func (m *mirror) watch() (stop func() Progress) {
	done, ended := make(chan struct{}), make(chan struct{})
	look := func() Progress {
		stats, files, placed := m.live.totals()
		m.observer.setFileCounts(placed, files)
		return m.observer.progress(m.session.Servers(), stats)
	}
	go func() { // ends with stop, which waits for it
		defer close(ended)
		ticker := time.NewTicker(observeInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				look()
			}
		}
	}()
	return func() Progress {
		close(done)
		<-ended
		return look()
	}
}
