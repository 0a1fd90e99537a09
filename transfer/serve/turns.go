package serve

import (
	"net/netip"
	"slices"
)

const (
	// turnBytes is the number of bytes after which a job leaves its slot to a client that has
	// fewer slots.
	turnBytes = 8 << 20
	// maxHeld bounds the memory of the jobs that have begun and are not finished, in bytes. Beyond
	// it, and beyond a quarter of it for one prefix, no further job begins.
	maxHeld = 64 << 20
)

// A turns decides which jobs use a number of slots. Each job is wanted by one or more clients. A
// free slot goes to the prefix that has the fewest slots, and among equals to the one that was
// served longest ago. Within the prefix it goes to a session by the same rule, and within the
// session to the oldest job.
//
// It has no lock, no clock and no goroutine; its user has them.
type turns struct {
	slots    int
	maxHeld  int64
	running  int   // jobs that have a slot
	held     int64 // memory of the jobs that have begun, in bytes
	stopping int   // running jobs that must leave their slots to others
	clock    uint64
	prefixes []*turnPrefix // that have sessions
	sessions map[client]*turnSession
}

// A turn is a job of a turns. The user sets begin and memory.
type turn struct {
	begin  func() // the user calls it when the job has got a slot
	memory int64  // bytes, once the job has begun; see turns.grow

	clients   map[*turnSession]int // claims of each client that wants the job
	prefixes  map[*turnPrefix]int  // clients in each prefix
	isRunning bool
	hasBegun  bool
	stopping  bool
}

// A turnPrefix holds the sessions of one prefix that want jobs.
type turnPrefix struct {
	prefix   netip.Prefix
	sessions []*turnSession
	running  int    // jobs of its sessions that have a slot
	held     int64  // memory of its sessions' jobs that have begun, in bytes
	served   uint64 // clock of the last change of its slots
}

// A turnSession holds the jobs that one session wants, in the order of its first claims.
type turnSession struct {
	client  client
	prefix  *turnPrefix
	jobs    []*turn
	running int    // jobs that have a slot
	served  uint64 // clock of the last change of its slots
}

func newTurns(slots int) *turns {
	return &turns{slots: slots, maxHeld: maxHeld, sessions: make(map[client]*turnSession)}
}

// want adds a client's claim to a job.
func (t *turns) want(j *turn, c client) {
	if j.clients == nil {
		j.clients, j.prefixes = make(map[*turnSession]int), make(map[*turnPrefix]int)
	}
	s := t.session(c)
	if j.clients[s]++; j.clients[s] > 1 {
		return
	}
	s.jobs = append(s.jobs, j)
	if j.prefixes[s.prefix]++; j.prefixes[s.prefix] == 1 {
		j.countPrefix(s.prefix, 1)
	}
	if j.isRunning {
		s.running++
	}
}

// unwant removes a client's claim to a job. A job without claims has no further turn.
func (t *turns) unwant(j *turn, c client) {
	s := t.sessions[c]
	if j.clients[s]--; j.clients[s] > 0 {
		return
	}
	t.leave(j, s)
	t.forget(j)
}

// remove removes a job that has no slot, and all claims to it.
func (t *turns) remove(j *turn) {
	for s := range j.clients {
		t.leave(j, s)
	}
	t.forget(j)
}

// next gives a free slot to a job and returns the job; nil if no slot is free, or no job may have
// one.
func (t *turns) next() *turn {
	if t.running == t.slots {
		return nil
	}
	var best *turnSession
	for s := range t.waiting {
		if best == nil || s.precedes(best) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	j := t.first(best)
	t.setSlot(j, true)
	if !j.hasBegun {
		j.hasBegun = true
		t.hold(j, j.memory)
	}
	return j
}

// grow adds to the memory of a job that has begun, in bytes.
func (t *turns) grow(j *turn, n int64) {
	j.memory += n
	t.hold(j, n)
}

// hold counts memory of a job that has begun.
func (t *turns) hold(j *turn, n int64) {
	t.held += n
	for p := range j.prefixes {
		p.held += n
	}
}

// ended takes the slot of a job. The job waits for its next turn if a client wants it.
func (t *turns) ended(j *turn) {
	if j.stopping {
		j.stopping = false
		t.stopping--
	}
	t.setSlot(j, false)
	t.forget(j)
}

// mustLeave reports whether a running job must leave its slot, after it has hashed n bytes in this
// turn. One job at a time must leave its slot to another.
func (t *turns) mustLeave(j *turn, n int64) bool {
	if j.stopping || len(j.clients) == 0 {
		return true
	}
	if n < turnBytes || t.stopping > 0 || !t.isBeaten(j) {
		return false
	}
	j.stopping = true
	t.stopping++
	return true
}

// isBeaten reports whether a client waits that has fewer slots than every client of a job.
// Clients of different prefixes are compared by the slots of their prefixes.
func (t *turns) isBeaten(j *turn) bool {
	const none = int(^uint(0) >> 1)
	fewest := none                      // slots of a prefix that waits
	inside := make(map[*turnPrefix]int) // slots of a session that waits, by prefix
	for s := range t.waiting {
		fewest = min(fewest, s.prefix.running)
		if n, ok := inside[s.prefix]; !ok || s.running < n {
			inside[s.prefix] = s.running
		}
	}
	for s := range j.clients {
		n, ok := inside[s.prefix]
		if fewest >= s.prefix.running && (!ok || n >= s.running) {
			return false
		}
	}
	return fewest != none
}

// waiting yields the sessions that have a job that may use a free slot.
func (t *turns) waiting(yield func(*turnSession) bool) {
	for _, p := range t.prefixes {
		for _, s := range p.sessions {
			if t.first(s) != nil && !yield(s) {
				return
			}
		}
	}
}

// first returns the job that a session's next turn is for; nil if it has none that may begin.
func (t *turns) first(s *turnSession) *turn {
	for _, j := range s.jobs {
		if j.isRunning {
			continue
		}
		if j.hasBegun || t.mayBegin(j, s.prefix) {
			return j
		}
		return nil
	}
	return nil
}

// mayBegin reports whether there is memory for another job of a prefix. A prefix
// without one has it as soon as the whole does.
func (t *turns) mayBegin(j *turn, p *turnPrefix) bool {
	fitsPrefix := p.held == 0 || p.held+j.memory <= t.maxHeld/4
	return fitsPrefix && (t.held == 0 || t.held+j.memory <= t.maxHeld)
}

// precedes reports whether the next turn is that of s rather than that of o.
func (s *turnSession) precedes(o *turnSession) bool {
	p, q := s.prefix, o.prefix
	switch {
	case p.running != q.running:
		return p.running < q.running
	case p != q:
		return p.served < q.served
	case s.running != o.running:
		return s.running < o.running
	}
	return s.served < o.served
}

// setSlot gives a slot to a job or takes it.
func (t *turns) setSlot(j *turn, has bool) {
	change := 1
	if !has {
		change = -1
	}
	j.isRunning = has
	t.running += change
	t.clock++
	for s := range j.clients {
		s.running += change
		s.served = t.clock
	}
	for p := range j.prefixes {
		p.running += change
		p.served = t.clock
	}
}

// countPrefix adds a job to the numbers of a prefix, or removes it.
func (j *turn) countPrefix(p *turnPrefix, change int) {
	if j.isRunning {
		p.running += change
	}
	if j.hasBegun {
		p.held += int64(change) * j.memory
	}
}

// leave removes a client from a job.
func (t *turns) leave(j *turn, s *turnSession) {
	delete(j.clients, s)
	if j.isRunning {
		s.running--
	}
	p := s.prefix
	if j.prefixes[p]--; j.prefixes[p] == 0 {
		delete(j.prefixes, p)
		j.countPrefix(p, -1)
	}
	s.jobs = remove(s.jobs, j)
	if len(s.jobs) > 0 {
		return
	}
	delete(t.sessions, s.client)
	if p.sessions = remove(p.sessions, s); len(p.sessions) == 0 {
		t.prefixes = remove(t.prefixes, p)
	}
}

// forget ends the count of a job's memory, if it has neither clients nor a slot.
func (t *turns) forget(j *turn) {
	if len(j.clients) == 0 && !j.isRunning && j.hasBegun {
		j.hasBegun = false
		t.held -= j.memory
	}
}

// session returns the session of a client. A session that wants its first job counts as served
// now, so that those that wait already precede it.
func (t *turns) session(c client) *turnSession {
	if s := t.sessions[c]; s != nil {
		return s
	}
	i := slices.IndexFunc(t.prefixes, func(p *turnPrefix) bool { return p.prefix == c.prefix })
	if i < 0 {
		i = len(t.prefixes)
		t.prefixes = append(t.prefixes, &turnPrefix{prefix: c.prefix, served: t.clock})
	}
	s := &turnSession{client: c, prefix: t.prefixes[i], served: t.clock}
	s.prefix.sessions = append(s.prefix.sessions, s)
	t.sessions[c] = s
	return s
}

// remove returns a slice without its first element that equals v.
func remove[T comparable](all []T, v T) []T {
	i := slices.Index(all, v)
	return slices.Delete(all, i, i+1)
}
