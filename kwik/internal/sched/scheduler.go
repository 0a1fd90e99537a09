// Package sched decides which source delivers which extent of one aggregate stream.
//
// A [Scheduler] is a pure state machine. Events and the time arrive as method calls; decisions
// leave through [Scheduler.Actions]. The package starts no goroutine, reads no clock, takes no
// lock and opens no socket. Its owner guards a Scheduler and calls [Scheduler.Observe] and
// [Scheduler.Tick] every [TickInterval].
//
// # The rule
//
// Each byte of the stream is at all times in exactly one of three states:
//
//   - had: a source delivered it, and it is correct;
//   - free: no source has to deliver it;
//   - granted: it belongs to the remainder of exactly one exclusive grant.
//
// A grant becomes shared if its source stalls or is far too slow. The remainder of a shared grant
// is free for other sources as well, and the first source to deliver a byte wins. A remainder can
// contain bytes that are had: they belonged to an earlier grant and were in flight when the
// scheduler took that grant back.
//
// # Files
//
//   - scheduler.go: the events
//   - grant.go: the grants and their states
//   - policy.go: which source is granted which extent, and how much
//   - steal.go: how work moves from slow sources to fast ones
//   - rate.go: how rates and stalls are judged
//   - units.go: the boundaries at which a stream can be divided
package sched

import (
	"slices"
	"time"

	"kwikcp/internal/rangeset"
)

// A SourceID names a source: one path to one server.
type SourceID string

// A Source describes a source to the scheduler.
type Source struct {
	ID  SourceID
	RTT time.Duration
	// SharesLink is true for the second and every further path to one server. Such a source begins
	// with less work, because the first path uses the same link.
	SharesLink bool
	// MinExtent is the size in bytes below which an extent is not worth its cost; near the end of
	// the stream, a quarter of it. 0 means the usual size.
	MinExtent int64
	// Missing are the bytes that the source does not have, whole units.
	Missing []rangeset.Range
}

// A Scheduler decides which source delivers which extent of one aggregate stream. The zero value
// is not usable: call [New]. A Scheduler is not safe for concurrent use.
type Scheduler struct {
	units    Units
	limit    int64 // nothing at or beyond it is granted: the end of the reorder window, or of the stream
	wanted   int64 // bytes that were not had when the scheduler was made
	started  bool  // a consumer wants the bytes
	had      rangeset.Set
	free     rangeset.Set
	priority rangeset.Range // granted before the rest; whole units, or empty
	sources  []*source      // in the order in which they were added
	grants   map[uint64]*grant
	last     uint64 // ID of the newest grant

	// hedgeBudget is how many bytes may still be granted, or arrive, twice so that the stream ends
	// sooner.
	hedgeBudget int64

	// connecting is how many sources are being connected. Until reserveUntil their share is not
	// granted to others.
	connecting   int
	reserveUntil time.Time

	actions []Action // decisions that the owner has not taken yet
}

// A source is a source as the scheduler sees it.
type source struct {
	id         SourceID
	sharesLink bool
	minExtent  int64    // that of Source
	queueLimit int      // how many grants the source queues
	grants     []*grant // those with a remainder, in the order in which the source writes them
	stalled    bool
	draining   bool         // gets no further grant as long as another source can take its work
	missing    rangeset.Set // bytes that the source does not have
	rtt        time.Duration

	rate         float64   // bytes a second, smoothed; 0 while unknown
	ratedAt      time.Time // when the rate became known
	received     int64     // payload bytes that had arrived at the last sample
	sampled      time.Time // time of the last sample
	lastProgress time.Time // when bytes last arrived, or were first owed
	lastAccept   time.Time // when bytes were last accepted, or were first owed
	granted      int64     // bytes granted so far, less those taken back
	probeAt      time.Time // the earliest time of the next probe of a stalled source
	revoked      []uint64  // the newest grants that were revoked, oldest first; at most MaxRevoked
}

// An Action is a decision that the owner sends to a source.
type Action struct {
	Kind   ActionKind
	Source SourceID
	Grant  uint64
	// Start and End are the extent of an ActionGrant. End is the new end of the grant of an
	// ActionShorten.
	Start, End int64
}

// An ActionKind is the kind of an [Action].
type ActionKind int

const (
	ActionGrant   ActionKind = iota // the source writes [Start, End)
	ActionShorten                   // the grant now ends at End
	ActionRevoke                    // the source writes nothing more under the grant
)

// New returns a scheduler for a stream of which nothing is had. Nothing at or beyond limit is
// granted.
func New(u Units, limit int64) *Scheduler {
	s := &Scheduler{units: u, limit: limit, wanted: u.total, hedgeBudget: HedgeBudget(u)}
	s.grants = make(map[uint64]*grant)
	s.free.Add(0, u.total)
	return s
}

// Actions returns the decisions since the last call, in order.
func (s *Scheduler) Actions() []Action {
	actions := s.actions
	s.actions = nil
	return actions
}

// Start begins to grant: a consumer wants the bytes now.
func (s *Scheduler) Start(now time.Time) {
	s.started = true
	for _, src := range s.sources {
		src.lastProgress, src.lastAccept, src.sampled = now, now, now
	}
	s.schedule(now)
}

// MarkHad records that the client had [start, end) before the transfer. It must be called before
// [Scheduler.Start].
func (s *Scheduler) MarkHad(start, end int64) {
	s.wanted -= s.had.Add(start, end)
	s.free.Sub(start, end)
}

// SetPriority makes [start, end), whole units, the extent that is granted before all others. It
// must be called before [Scheduler.Start].
func (s *Scheduler) SetPriority(start, end int64) {
	s.priority = rangeset.Range{Start: start, End: end}
}

// Expect records that n sources are being connected. Until the given time a small stream keeps
// their share for them.
func (s *Scheduler) Expect(n int, until, now time.Time) {
	s.connecting, s.reserveUntil = n, until
	s.schedule(now)
}

// AddSource adds a source. A source that is present already is left as it is.
func (s *Scheduler) AddSource(src Source, now time.Time) {
	if s.source(src.ID) != nil {
		return
	}
	for id, g := range s.grants { // of an earlier connection of this source
		if g.source.id == src.ID {
			delete(s.grants, id)
		}
	}
	added := &source{
		id: src.ID, sharesLink: src.SharesLink, queueLimit: DefaultQueueLimit, rtt: src.RTT,
		minExtent:    src.MinExtent,
		lastProgress: now, sampled: now,
	}
	for _, r := range src.Missing {
		added.missing.Add(r.Start, r.End)
	}
	s.sources = append(s.sources, added)
	s.schedule(now)
}

// AddHeadStart adds a source that writes [0, end) without waiting for a grant. It must precede
// every other event. The grant has ID 1, and the source is not told of it.
func (s *Scheduler) AddHeadStart(src Source, end int64, now time.Time) {
	s.AddSource(src, now)
	s.grant(s.source(src.ID), 0, end, now)
	s.actions = nil
}

// RemoveSource removes a source that failed, left or was banned. Its grants are revoked and remain
// known, because bytes that were in flight are no protocol violation.
func (s *Scheduler) RemoveSource(id SourceID, now time.Time) {
	src := s.source(id)
	if src == nil {
		return
	}
	s.sources = slices.DeleteFunc(s.sources, func(other *source) bool { return other == src })
	for len(src.grants) > 0 {
		s.revoke(src.lastGrant())
	}
	s.schedule(now)
}

// Drain records that a source will leave. It finishes the grant that it is writing. The grants
// that wait behind that one are revoked, unless no other source can take them.
func (s *Scheduler) Drain(id SourceID, now time.Time) {
	src := s.source(id)
	if src == nil {
		return
	}
	src.draining = true
	if s.isReplaceable(src) {
		s.revokeQueued(src)
	}
	s.schedule(now)
}

// isReplaceable reports whether a source drains and another source can take its work.
func (s *Scheduler) isReplaceable(src *source) bool {
	return src.draining && slices.ContainsFunc(s.sources, func(other *source) bool {
		return !other.draining && !other.stalled && other.missing.Len() == 0
	})
}

// MarkMissing records that a source does not have [start, end), whole units, and returns in how
// many pieces its missing bytes are. Grants of the source that reach into the extent are revoked.
// Without such a source it returns 0.
func (s *Scheduler) MarkMissing(id SourceID, start, end int64, now time.Time) (pieces int) {
	src := s.source(id)
	if src == nil {
		return 0
	}
	src.missing.Add(start, end)
	for g := src.holds(start, end); g != nil; g = src.holds(start, end) {
		s.revoke(g)
	}
	s.schedule(now)
	return src.missing.Len()
}

// SetQueueLimit records how many grants a source queues, at least 1 and at most [MaxGrantsQueued].
func (s *Scheduler) SetQueueLimit(id SourceID, limit int, now time.Time) {
	if src := s.source(id); src != nil {
		src.queueLimit = max(1, min(limit, MaxGrantsQueued))
		s.schedule(now)
	}
}

// InitLimit sets the limit before [Scheduler.Start], up or down. It is cut to whole units.
func (s *Scheduler) InitLimit(limit int64) { s.limit = s.units.Floor(limit) }

// SetLimit raises the limit at and beyond which nothing is granted. It is cut to whole units; a
// lower limit than before has no effect.
func (s *Scheduler) SetLimit(limit int64, now time.Time) {
	if limit = s.units.Floor(limit); limit > s.limit {
		s.limit = limit
		s.schedule(now)
	}
}

// Observe records how many payload bytes a source has delivered since it was added, verified or
// not, and its path's round-trip time. Rates and stalls are judged by these figures.
func (s *Scheduler) Observe(id SourceID, received int64, rtt time.Duration, now time.Time) {
	if src := s.source(id); src != nil {
		src.rtt = rtt
		src.sample(received, now)
	}
}

// ResetStallTimer restarts the stall timer of a source that this side holds up. Its silence is no
// stall.
func (s *Scheduler) ResetStallTimer(id SourceID, now time.Time) {
	if src := s.source(id); src != nil {
		src.lastProgress, src.lastAccept = now, now
	}
}

// Tick lets time pass: it finds stalled sources and grants work to idle ones.
func (s *Scheduler) Tick(now time.Time) {
	for _, src := range s.sources {
		if src.isSilent(now) {
			s.stall(src)
		}
	}
	s.schedule(now)
}

// Accept records that bytes up to end arrived under a grant. The bytes of fresh are correct and
// were not had before; all others of this delivery were. Fresh bytes count even if the grant is
// unknown.
func (s *Scheduler) Accept(id uint64, end int64, fresh []rangeset.Range, now time.Time) {
	for _, r := range fresh {
		s.had.Add(r.Start, r.End)
		s.free.Sub(r.Start, r.End)
	}
	if g := s.grants[id]; g != nil {
		s.hedgeBudget -= g.addLate(end)
		s.advance(g, end)
		g.source.lastProgress, g.source.lastAccept = now, now
	}
	if s.anyShared() {
		s.revokeNeedless()
	}
	s.schedule(now)
}

// Reject records that the bytes [start, end) arrived under a grant and are wrong. They are free
// again; with retry they are granted to the same source once more.
func (s *Scheduler) Reject(id uint64, start, end int64, retry bool, now time.Time) {
	g := s.grants[id]
	if g != nil {
		s.advance(g, end)
	}
	s.freeMissing(start, end)
	if g != nil && retry && s.isPresent(g.source) {
		s.grantFree(g.source, start, end, now)
	}
	s.schedule(now)
}

// Adopt records that a source of a pushed stream writes from start on without a grant. It returns
// the ID under which [Scheduler.Accept] and [Scheduler.CloseGrant] know these bytes, and false if
// there is no such source. The bytes remain free for other sources.
func (s *Scheduler) Adopt(id SourceID, start int64) (grantID uint64, ok bool) {
	src := s.source(id)
	if src == nil {
		return 0, false
	}
	g := s.newGrant(src, start, s.units.total)
	g.shared = true
	return g.id, true
}

// CloseGrant records that the secondary stream of a grant has ended. Bytes that it still owed are
// free again; CloseGrant returns how many these are. The grant is then unknown.
func (s *Scheduler) CloseGrant(id uint64, now time.Time) (undelivered int64) {
	g := s.grants[id]
	if g == nil {
		return 0
	}
	delete(s.grants, id)
	if g.isQueued() && g.remainder() > 0 {
		undelivered = g.remainder()
		s.unqueue(g)
		s.freeRemainder(g)
	}
	s.schedule(now)
	return undelivered
}

// Extent returns what a grant of a source allows: its start, its end, and the end with which it
// was granted. It returns false if the scheduler does not know the grant, or if the grant belongs
// to another source.
func (s *Scheduler) Extent(id SourceID, grantID uint64) (start, end, granted int64, ok bool) {
	g := s.grants[grantID]
	if g == nil || g.source.id != id {
		return 0, 0, 0, false
	}
	return g.start, g.end, g.granted, true
}

// Has reports whether every byte of [start, end) is had.
func (s *Scheduler) Has(start, end int64) bool { return s.had.ContainsRange(start, end) }

// Had returns how many bytes are had.
func (s *Scheduler) Had() int64 { return s.had.Total() }

// Done reports whether every byte of the stream is had.
func (s *Scheduler) Done() bool { return s.had.Total() == s.units.total }

// Wanting reports whether a consumer waits for bytes below the limit.
func (s *Scheduler) Wanting() bool { return s.started && !s.had.ContainsRange(0, s.limit) }

// Deliverable reports whether any source has any of the bytes below the limit that are not had.
func (s *Scheduler) Deliverable() bool {
	return slices.ContainsFunc(s.sources, s.canHelp)
}

// canHelp reports whether a source has any of the bytes below the limit that are not had. A source
// that has the whole stream always can.
func (s *Scheduler) canHelp(src *source) bool {
	if src.missing.Len() == 0 {
		return true
	}
	for at := int64(0); at < s.limit; {
		r, ok := s.had.NextMissing(at, s.limit)
		if !ok {
			return false
		}
		if !src.missing.ContainsRange(r.Start, r.End) {
			return true
		}
		at = r.End
	}
	return false
}

// Drained returns the draining sources that have finished and are not needed any more. The owner
// removes them.
func (s *Scheduler) Drained() (ids []SourceID) {
	for _, src := range s.sources {
		if len(src.grants) == 0 && s.isReplaceable(src) {
			ids = append(ids, src.id)
		}
	}
	return ids
}

// Stalled reports whether a source is stalled: it owes bytes, and none arrived for too long.
func (s *Scheduler) Stalled(id SourceID) bool {
	src := s.source(id)
	return src != nil && src.stalled
}

// Sources returns how many sources there are, and how many of them are not stalled.
func (s *Scheduler) Sources() (all, live int) {
	for _, src := range s.sources {
		if !src.stalled {
			live++
		}
	}
	return len(s.sources), live
}

// source returns the source of an ID, nil if there is none.
func (s *Scheduler) source(id SourceID) *source {
	for _, src := range s.sources {
		if src.id == id {
			return src
		}
	}
	return nil
}

// isPresent reports whether src has not been removed since it was added.
func (s *Scheduler) isPresent(src *source) bool { return s.source(src.id) == src }
