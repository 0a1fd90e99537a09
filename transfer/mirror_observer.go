package transfer

import (
	"math"
	"slices"
	"sync"
	"time"

	"kwikcp/kwik"
)

// liveStreams counts the bytes and files of an attempt: of the streams under way, and of those
// that have ended. Its zero value is ready to use. It is the only count of bytes in place:
// streams count what they receive (kwik.StreamStats), and files that need no stream are added
// with addPresent.
type liveStreams struct {
	mu      sync.Mutex
	streams []*kwik.AggregateReader
	// past has the bytes and sources of streams that have ended, and of files that needed none.
	past  kwik.StreamStats
	total int64 // bytes of all files that the listing has named so far
	files int64 // number of these files
	done  int64 // number of these files that are in place
}

func (l *liveStreams) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams, l.past, l.total, l.files, l.done = nil, kwik.StreamStats{}, 0, 0, 0
}

// addFile counts a file of the listing.
func (l *liveStreams) addFile(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total += size
	l.files++
}

// addPresent counts bytes that are in place without a stream.
func (l *liveStreams) addPresent(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past.Bytes += size
}

// placed counts a file that was put in place, or was there.
func (l *liveStreams) placed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
}

// add begins to count a stream.
func (l *liveStreams) add(s *kwik.AggregateReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams = append(l.streams, s)
}

// remove ends the counting of a stream, whose bytes stay in the sums, and returns its last
// statistics.
func (l *liveStreams) remove(s *kwik.AggregateReader) kwik.StreamStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams = slices.DeleteFunc(l.streams, func(o *kwik.AggregateReader) bool { return o == s })
	st := s.Stats()
	l.past.Bytes += st.Bytes
	l.past.Sources = addSources(l.past.Sources, st.Sources, false)
	return st
}

// totals returns the sums.
func (l *liveStreams) totals() (st kwik.StreamStats, files, done int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st = kwik.StreamStats{
		Idle: math.MaxInt64, Bytes: l.past.Bytes, Size: l.total, Sources: slices.Clone(l.past.Sources),
	}
	for _, s := range l.streams {
		each := s.Stats()
		st.Bytes += each.Bytes
		st.Idle = min(st.Idle, each.Idle)
		st.Sources = addSources(st.Sources, each.Sources, true)
	}
	st.Bytes = min(st.Bytes, st.Size) // a file may have grown since it was listed
	return st, l.files, l.done
}

// addSources adds the bytes of a stream's sources to a sum. Only a live stream decides whether a
// source stalls or is gone.
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

// watch reports the progress of the mirror every observeInterval until stop is called. stop makes
// the last report and returns it.
func (m *mirror) watch() (stop func() Progress) {
	done, ended := make(chan struct{}), make(chan struct{})
	look := func() Progress {
		stats, files, placed := m.live.totals()
		m.observer.setFileCounts(placed, files)
		return m.observer.progress(m.session.Servers(), stats)
	}
	go func() { // stop ends it and waits for it
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
