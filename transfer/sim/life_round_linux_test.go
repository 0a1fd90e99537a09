package sim

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// A lifeRound is one round of a mirror, and the tree before and after.
type lifeRound struct {
	start, end    time.Time
	before, after map[string]version
	safe          map[string]version // the tree that a power cut before the round would have left
	report        *lifeReport
	result        transfer.MirrorResult
	err           error
	isQuick       bool
	isKilled      bool // the process died
	isCut         bool // the machine did
	isMoved       bool // another directory is in the place of the root, or none
	isMade        bool // there was no root
	isAway        bool // the mirror's own directory is not in its place
	isClean       bool // nothing was in trouble
	wasEdited     bool
}

var errDied = errors.New("the process died")

// round runs one round and checks it. If rough is set, more may fail while it runs.
func (m *lifeMirror) round(rough bool) *lifeRound {
	if rough && m.dies && m.process != nil && m.dice.OneIn(10) {
		m.die(m.process.mount, m.dice.Half())
		m.process.stop(false)
		m.process = nil
		return nil
	}
	if len(m.disk.tree()) > maxMirrored {
		m.tidy()
	}
	if isServing := m.start(); m.serves && !isServing {
		return nil
	}
	mount := (*simMount)(nil)
	served := (*disk.FollowedDir)(nil)
	o := m.options
	if m.serves {
		mount, served = m.process.mount, m.process.served
		m.memory.Prepare(&o, m.process.files.Suspects())
	} else {
		mount = m.disk.mount()
		o.Quick = m.quick
	}
	o.MirrorSource, o.OpenTree = m.source(), m.open(mount, served)
	if m.isOver > 3 { // the operator looks, and agrees
		o.MaxDelete, _ = transfer.ParseDeleteLimit("100%")
	}
	m.rounds++
	x := &lifeRound{start: time.Now(), isQuick: o.Quick, report: newLifeReport(m)}
	x.before, x.safe = m.trees()
	root := m.root()
	isCalm := m.isCalm(x.start)
	ctx, cancel := context.WithCancelCause(m.ctx)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	if rough {
		isCalm = !m.roughen(x, mount, cancel, ended, &wg) && isCalm
	}
	m.trace("mirror %d: round %d, quick %t", m.index, m.rounds, o.Quick)
	x.result, x.err = transfer.Mirror(ctx, o, x.report)
	x.end = time.Now()
	close(ended)
	wg.Wait()
	cancel(nil)
	m.trace("mirror %d: %v, %+v", m.index, x.err, x.result)
	x.after, _ = m.trees()
	x.isMoved, x.isMade = m.root() != root || root == nil, root == nil
	m.disk.mu.Lock()
	x.isAway = x.isMoved || root != m.home
	m.disk.mu.Unlock()
	x.isClean = isCalm && m.isCalm(x.start)
	m.hist.mu.Lock()
	x.wasEdited = m.hist.last.After(x.start.Add(-5 * time.Second))
	m.hist.mu.Unlock()
	m.check(x, mount)
	if _, isTooMany := errors.AsType[*transfer.DeleteLimitError](x.err); isTooMany {
		m.isOver++
	} else if x.err == nil {
		m.isOver = 0
	}
	if x.isKilled {
		if m.serves {
			m.process.stop(false)
			m.process = nil
		}
		return x
	}
	if m.serves {
		if m.memory.Learn(x.err) {
			for p := range o.Recheck {
				if !m.memory.HasFailed(p) {
					m.process.files.Trust(p)
				}
			}
		}
	}
	return x
}

// maxMirrored is the number of entries from which on the operator empties a mirror that keeps
// what the primary no longer has.
const maxMirrored = 400

// tidy puts an empty directory in the place of the target.
func (m *lifeMirror) tidy() {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.disk.shown == m.disk.top {
		m.disk.top = m.disk.newDir(1)
		m.disk.shown = m.disk.top
		m.foreign = nil
		m.trace("mirror %d: the operator puts an empty directory in its place", m.index)
	}
}

// root returns the directory that is in the place of the target.
func (m *lifeMirror) root() *simNode {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.disk.shown
}

// trees returns the target's tree, and what a power cut would leave of it.
func (m *lifeMirror) trees() (now, safe map[string]version) {
	now = m.disk.tree()
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return now, treeOf(m.disk.shown, true)
}

// isCalm reports whether nothing is in trouble, or was after a moment or shortly before.
func (m *lifeMirror) isCalm(since time.Time) bool {
	m.lifeWorld.mu.Lock()
	defer m.lifeWorld.mu.Unlock()
	at := since.Add(-5 * time.Minute)
	return !m.lifeWorld.trouble.since(at) && !m.diskTrouble.since(at)
}

// die kills a process, or cuts the power of its machine.
func (m *lifeMirror) die(mount *simMount, isCut bool) {
	m.kills++
	mount.kill()
	if isCut {
		m.cuts++
		m.disk.crash(m.dice.Rand)
	}
	m.trace("mirror %d: its process is killed, power cut %t", m.index, isCut)
}

// roughen lets something fail during a round. It reports whether anything does.
func (m *lifeMirror) roughen(
	x *lifeRound, mount *simMount, cancel context.CancelCauseFunc, ended chan struct{}, wg *sync.WaitGroup,
) (does bool) {
	r := m.dice
	after := func(d time.Duration, do func()) {
		wg.Go(func() {
			select {
			case <-time.After(d):
				do()
			case <-ended:
			}
		})
	}
	if m.dies && r.OneIn(6) {
		does = true
		isCut := r.Half()
		after(r.Duration(10*time.Millisecond, 10*time.Second), func() {
			x.isKilled, x.isCut = true, isCut
			m.die(mount, isCut)
			cancel(errDied)
		})
	}
	if m.mirrorPlan.badDisk && r.OneIn(4) {
		does = true
		f := randomFault(r, allOps)
		f.skip = int(r.Log(1, 3000))
		if f.ops != nil {
			f.skip = int(r.Log(1, 100))
		}
		if r.Half() {
			f.err = []syscall.Errno{syscall.EIO, syscall.ENOSPC}[r.IntN(2)]
		}
		if f.only = r.IntN(4); f.only > 0 {
			f.fails = nil
		}
		m.disk.mu.Lock()
		isFree := m.disk.fault == nil
		if isFree {
			m.disk.fault = f
			m.trace("mirror %d: %v", m.index, f)
		}
		m.disk.mu.Unlock()
		wg.Go(func() {
			<-ended
			m.disk.mu.Lock()
			defer m.disk.mu.Unlock()
			if m.disk.fault == f {
				m.disk.fault = nil
			}
		})
	}
	if m.badNet && r.OneIn(8) {
		does = true
		lasts := r.Duration(10*time.Millisecond, time.Minute)
		after(r.Duration(time.Millisecond, 3*time.Second), func() {
			m.net.Partition(lifeAddr(1).Addr(), clientOf(m.index))
			select {
			case <-time.After(lasts):
			case <-ended:
			}
			m.net.HealPartition(lifeAddr(1).Addr(), clientOf(m.index))
		})
	}
	if r.OneIn(3) {
		own := m.lifeWorld.dice(1000 + uint64(m.rounds)<<8 + uint64(m.index))
		wg.Go(func() { m.rush(own, ended) })
	}
	return does
}

// converge checks that two rounds make the mirror equal.
func (m *lifeMirror) converge() {
	m.disk.mu.Lock()
	if m.disk.shown != m.disk.top || m.disk.fault != nil || m.disk.room >= 0 || m.disk.isDead {
		m.fault("the disk of mirror %d is not well at the end", m.index)
	}
	m.disk.mu.Unlock()
	var last *lifeRound
	for range 2 {
		last = m.round(false)
		time.Sleep(time.Minute)
	}
	if last == nil {
		m.fault("mirror %d does not run in the end", m.index)
		return
	}
	if m.process != nil && errors.Is(last.err, disk.ErrUnmounted) {
		// It was started while the disk was away, so its root is on that of the mount point.
		m.trace("mirror %d: its operator starts it again", m.index)
		m.process.stop(true)
		m.process = nil
		m.round(false)
		last = m.round(false)
	}
	if _, tooMany := errors.AsType[*transfer.DeleteLimitError](last.err); tooMany {
		m.trace("mirror %d: the limit is lifted", m.index)
		m.options.MaxDelete, _ = transfer.ParseDeleteLimit("100%")
		m.limit = "100%"
		m.round(false)
		last = m.round(false)
	}
	_, isPartial := errors.AsType[*transfer.MirrorError](last.err)
	switch {
	case last.err == nil:
	case isPartial && (!m.options.Delete || m.foreign != nil): // entries in the way of others stay
	case isPartial && m.backup && m.mirrorPlan.enforces && m.otherDevice: // files that it may not read stay
	default:
		m.fault("mirror %d fails in the end: %v", m.index, last.err)
	}
	if last.err == nil {
		m.checkLinks(last)
	}
}
