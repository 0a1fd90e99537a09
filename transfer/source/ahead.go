package source

import "time"

// This file decides how far a reader of an object is to be ahead of its reads. It has no clock:
// callers pass the time.

const (
	// maxPositions bounds the places of an object at which one reader reads in order. A client may
	// request several ranges at once.
	maxPositions = 4
	// firstDepth is the number of blocks that are read ahead first, and maxDepth the most.
	firstDepth, maxDepth = 2, 16
	// sequentialRun is the number of blocks read in order from which on more of them are expected.
	sequentialRun = 2
	// moreFetches is how many fetches more than the depth are measured, because two say little.
	moreFetches = 2
	// worthwhile is the least factor by which twice the depth must raise the rate.
	worthwhile = 1.1
	// settledFor is the number of blocks after which a greater depth is tried again.
	settledFor = 128
)

// A depth is the number of blocks that are read ahead at a position. It doubles while reads wait
// for bytes, as long as that raises the rate. The rate is the depth divided by the time that the
// fetch of a block takes, since so many fetches are under way. Where requests share a line, twice
// as many take twice the time.
type depth struct {
	blocks int // 0 while nothing is read ahead

	before  float64       // blocks a second at half of this depth; 0 if it was not measured
	since   time.Time     // when this depth was set
	burst   int           // fetches that began at once then, and are not counted yet
	fetches int           // that began later, and ended
	took    time.Duration // all of these together
	waited  bool          // a read since, for its bytes
	settled int           // blocks to read before a greater depth is tried; 0 if it may be
}

// start begins to read ahead.
func (d *depth) start(now time.Time) {
	if d.blocks == 0 {
		*d = depth{blocks: firstDepth, burst: firstDepth, since: now}
	}
}

// pass records that a block was reached. waited is whether its bytes were not there yet.
func (d *depth) pass(waited bool, now time.Time) {
	d.settled = max(d.settled-1, 0)
	d.waited = d.waited || waited
	if d.blocks == 0 || d.fetches < d.blocks+moreFetches {
		return
	}
	// With the block that is read there is one more fetch under way.
	rate := float64((d.blocks+1)*d.fetches) / max(d.took.Seconds(), 1e-9)
	switch {
	case d.before > 0 && rate < d.before*worthwhile:
		*d = depth{blocks: d.blocks / 2, since: now, settled: settledFor}
	case d.waited && d.settled == 0 && d.blocks < maxDepth:
		*d = depth{blocks: 2 * d.blocks, burst: d.blocks, before: rate, since: now}
	default:
		*d = depth{blocks: d.blocks, since: now, settled: d.settled}
	}
}

// measure records how long the fetch of a block took that was read to its end. Those of the burst
// tell nothing: where requests share a line, the first of them wait for fewer others than all later
// ones.
func (d *depth) measure(b *block) {
	switch isOfDepth := b.state == blockComplete && !b.began.Before(d.since); {
	case !isOfDepth:
	case d.burst > 0:
		d.burst--
	default:
		d.fetches++
		d.took += b.took
	}
}

// A position is a place at which a reader reads an object in order.
type position struct {
	current *block // from which it read last; held
	index   int64  // of that block
	run     int    // blocks that were read in order
	until   int64  // the block before which the announced bytes end; 0 if none are announced
	depth   depth
	window  []*block // those after current in order, held ahead
}

// A reader is an open object. It belongs to one table.
type reader struct {
	table     *blockTable
	object    objectKey
	count     int64       // blocks of the object
	positions []*position // the most recently used last
	ahead     int         // blocks of all windows
	used      time.Time   // the last read
}

// prepare ends the holds that a read from a block makes superfluous, so that there is room for the
// block. It returns the blocks whose fetches are to end.
func (r *reader) prepare(index int64) (abandoned []*block) {
	i := r.find(index)
	if i < 0 {
		return r.makePosition()
	}
	p := r.positions[i]
	if p.current != nil && p.current.key.index != index {
		p.depth.measure(p.current)
		if r.table.unhold(p.current, false) {
			abandoned = append(abandoned, p.current)
		}
		p.current = nil
	}
	for len(p.window) > 0 && p.window[0].key.index < index {
		abandoned = append(abandoned, r.leaveFirst(p)...)
	}
	return abandoned
}

// makePosition leaves a position if one more would be too many. It also leaves one that was not
// read from since the object was opened: the first read is elsewhere. It returns the blocks whose
// fetches are to end.
func (r *reader) makePosition() (abandoned []*block) {
	if len(r.positions) == 0 {
		return nil
	}
	oldest := r.positions[0]
	isUnread := oldest.run == 0 && oldest.until == 0
	if !isUnread && len(r.positions) < maxPositions {
		return nil
	}
	r.positions = r.positions[1:]
	return r.leave(oldest)
}

// reach records a read from a block, which the caller has pinned after prepare. It returns the
// position. waited is whether the bytes were not there yet.
func (r *reader) reach(b *block, waited bool, now time.Time) *position {
	r.used = now
	i := r.find(b.key.index)
	if i < 0 {
		i = len(r.positions)
		r.positions = append(r.positions, &position{index: b.key.index})
	}
	p := r.positions[i]
	r.positions = append(append(r.positions[:i:i], r.positions[i+1:]...), p)
	isNew := p.run == 0 || p.index != b.key.index
	if p.current != b {
		r.table.hold(b, false)
		if p.current != nil {
			r.table.unhold(p.current, false) // the cache dropped it, and has it again
		}
		if len(p.window) > 0 && p.window[0].key.index == b.key.index {
			r.leaveFirst(p)
		}
		p.current, p.index = b, b.key.index
	}
	if isNew {
		p.run++
		if p.run >= sequentialRun || p.index < p.until {
			p.depth.start(now)
		}
		p.depth.pass(waited, now)
	}
	return p
}

// open holds the first block for the first read.
func (r *reader) open(b *block, now time.Time) {
	r.used = now
	r.table.hold(b, false)
	r.positions = append(r.positions, &position{current: b})
}

// find returns the position that a read from a block continues, -1 if none does.
func (r *reader) find(index int64) int {
	for i, p := range r.positions {
		if index == p.index || index == p.index+1 {
			return i
		}
	}
	return -1
}

// announce records that the bytes of the blocks [first, end) will be read.
func (r *reader) announce(first, end int64, now time.Time) (p *position, abandoned []*block) {
	end = min(end, r.count)
	for _, p := range r.positions {
		if p.index <= first && first <= max(p.until, p.index+1) {
			p.until = max(p.until, end)
			p.depth.start(now)
			return p, nil
		}
	}
	abandoned = r.makePosition()
	p = &position{index: first - 1, until: end}
	p.depth.start(now)
	r.positions = append(r.positions, p)
	return p, abandoned
}

// next returns the number of the block to read ahead next at a position.
func (r *reader) next(p *position) (index int64, ok bool) {
	readers := r.table.readersAhead
	if r.ahead == 0 {
		readers++
	}
	share := max(r.table.maxAhead()/r.table.blockSize/int64(readers), 1) // blocks, at all positions
	index = p.index + 1 + int64(len(p.window))
	end := r.count
	if p.index < p.until {
		end = p.until // reads may end there
	}
	return index, len(p.window) < p.depth.blocks && int64(r.ahead) < share && index < end
}

// extend adds the next block to the window of a position.
func (r *reader) extend(p *position, b *block) {
	r.table.hold(b, true)
	p.window = append(p.window, b)
	if r.ahead++; r.ahead == 1 {
		r.table.readersAhead++
	}
}

// leaveFirst ends the hold of the first block of a window. It returns the block if its fetch is to
// end.
func (r *reader) leaveFirst(p *position) (abandoned []*block) {
	b := p.window[0]
	p.window = p.window[1:]
	if r.ahead--; r.ahead == 0 {
		r.table.readersAhead--
	}
	if r.table.unhold(b, true) {
		abandoned = append(abandoned, b)
	}
	return abandoned
}

// leave ends the holds of a position. It returns the blocks whose fetches are to end.
func (r *reader) leave(p *position) (abandoned []*block) {
	if p.current != nil && r.table.unhold(p.current, false) {
		abandoned = append(abandoned, p.current)
	}
	p.current = nil
	for len(p.window) > 0 {
		abandoned = append(abandoned, r.leaveFirst(p)...)
	}
	return abandoned
}

// close ends all holds.
func (r *reader) close() (abandoned []*block) {
	for _, p := range r.positions {
		abandoned = append(abandoned, r.leave(p)...)
	}
	r.positions = nil
	return abandoned
}
