package kwik

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"kwikcp/internal/simnet"
)

// A simEvent is an event at its time.
type simEvent struct {
	at time.Duration
	do func()
}

// run plays all events, heals the world and checks the demands.
func (w *simWorld) run() (o simOutcome) {
	for _, e := range w.events() {
		time.Sleep(time.Until(w.start.Add(e.at)))
		if w.s.cut > 0 && e.at >= w.s.cut {
			break
		}
		e.do()
	}
	if w.s.cut > 0 {
		time.Sleep(time.Until(w.start.Add(w.s.cut)))
		w.closeClient()
	} else {
		time.Sleep(time.Until(w.start.Add(w.s.faults)))
		w.heal()
	}
	for !w.over() {
		time.Sleep(20 * time.Millisecond)
		if time.Now().After(w.bound.Add(time.Minute)) {
			w.fault("streams hang: %v", w.hanging())
			break
		}
	}
	w.quiet.Store(true)
	if w.s.cut == 0 && w.s.death == simLives && len(w.faults) == 0 {
		w.usable()
	}
	w.settle()
	o.virtual = time.Since(w.start)
	w.count(&o)
	w.cancel()
	return o
}

// events returns the events of the time of the faults, in order.
func (w *simWorld) events() (all []simEvent) {
	add := func(at time.Duration, do func()) {
		if at < w.s.faults {
			all = append(all, simEvent{at, do})
		}
	}
	for _, f := range w.streams {
		add(f.at, f.open)
	}
	for _, at := range w.s.moves {
		add(at, w.move)
	}
	for _, h := range w.hosts {
		if h.plan.joins > 0 && h.villain != nil {
			add(h.plan.joins, h.villain.join)
		} else if h.plan.joins > 0 {
			add(h.plan.joins, h.begin)
		}
		for _, x := range h.plan.troubles {
			if x.at > h.plan.joins {
				add(x.at, func() { h.suffer(x.kind) })
				add(x.at+x.last, func() { h.recover(x.kind) })
			}
		}
	}
	if w.s.death != simLives {
		add(w.s.dies, func() {
			if w.s.death == simDiesSilenced {
				w.net.Silence(w.hosts[0].ip)
			} else {
				w.hosts[0].end(w.s.death == simDiesClosed)
			}
		})
	}
	slices.SortStableFunc(all, func(a, b simEvent) int { return cmp.Compare(a.at, b.at) })
	return all
}

// suffer starts a trouble.
func (h *simHost) suffer(kind simTroubleKind) {
	switch kind {
	case simSilenced:
		h.net.Silence(h.ip)
	case simCutOff:
		for _, ip := range simIPs {
			h.net.Partition(h.ip, ip)
		}
	case simPaused:
		h.pause.set(true)
	case simDetached:
		h.net.Partition(h.ip, h.hosts[0].ip)
	case simHungUp:
		if h.villain != nil {
			h.villain.hangUp()
			break
		}
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		for session := range h.server.Listener.sessions {
			session.CloseWithError(0, "for now")
		}
	case simLeft:
		if h.villain != nil {
			h.villain.leave()
			break
		}
		h.away.Store(true)
		if m := h.member.Load(); m != nil {
			m.Close()
		}
	default:
		if h.villain != nil {
			h.villain.hangUp()
		} else {
			h.end(kind == simClosed)
			h.setDown(true)
		}
	}
}

func (h *simHost) setDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// recover ends a trouble.
func (h *simHost) recover(kind simTroubleKind) {
	switch kind {
	case simSilenced:
		h.net.Heal(h.ip)
	case simCutOff:
		for _, ip := range simIPs {
			h.net.HealPartition(h.ip, ip)
		}
	case simPaused:
		h.pause.set(false)
	case simDetached:
		h.net.HealPartition(h.ip, h.hosts[0].ip)
	case simLeft:
		h.away.Store(false)
		if h.villain != nil {
			h.villain.join()
		}
	case simKilled, simClosed:
		if h.down {
			h.setDown(false)
			h.begin()
		}
	}
}

// heal ends all troubles and makes the network a good one.
func (w *simWorld) heal() {
	good := simnet.Link{Latency: 2 * time.Millisecond, Rate: 100e6}
	for i, h := range w.hosts {
		if i == 0 && w.s.death != simLives {
			continue
		}
		h.plan.link = good
		if err := w.net.SetLink(h.ip, good); err != nil {
			w.fault("%v", err)
		}
		for kind := range simTroubleKinds {
			if !h.down || !slices.ContainsFunc(h.plan.troubles, func(x simTrouble) bool { return x.kind == simGone }) {
				h.recover(kind)
			}
		}
	}
	for _, ip := range simIPs {
		w.net.SetLink(ip, good)
	}
}

// over reports whether every stream that the client knows has ended, and whether it knows all
// that it must know.
func (w *simWorld) over() bool { return len(w.hanging()) == 0 }

// hanging returns the streams that have not ended.
func (w *simWorld) hanging() (left []int) {
	for _, f := range w.streams {
		due := f.accepted.Load() || (w.s.death == simLives && w.s.cut == 0)
		if f.kind < simPulled {
			due = f.accepted.Load()
		}
		if due && !f.isOver() {
			left = append(left, f.index)
		}
	}
	return left
}

// usable checks that the session still works: new streams of each kind succeed.
func (w *simWorld) usable() {
	if err := context.Cause(w.client.Context()); err != nil {
		w.fault("the session has ended: %v", err)
		return
	}
	w.bound = time.Now().Add(simPatience)
	for kind := range simKinds {
		st := simStream{kind: kind, size: 100_000, alignment: 4096, proof: true, ordered: true}
		if kind == simPushed {
			st.pieces = []simPiece{{server: 0, end: st.size}}
		}
		f := newSimFlow(w, len(w.streams), st)
		w.mu.Lock()
		w.streams = append(w.streams, f)
		w.mu.Unlock()
		f.open()
	}
	for end := time.Now().Add(time.Minute); !w.over(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.fault("new streams hang: %v", w.hanging())
			return
		}
	}
}

// settle checks that nothing is left of streams that have ended while the session lives, and
// nothing of the session after it is closed.
func (w *simWorld) settle() {
	demand := func(most time.Duration, what func() string) {
		for end := time.Now().Add(most); what() != ""; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				w.fault("left in the end: %s", what())
				return
			}
		}
	}
	if w.s.cut == 0 && w.s.death == simLives {
		demand(time.Minute, w.strangers)
	}
	if w.s.cut == 0 {
		demand(2*simDoom, func() string {
			if n := w.doomed.Load(); n > 0 {
				return fmt.Sprintf("%d broken rules for which no path was closed", n)
			}
			return ""
		})
	}
	if w.s.cut == 0 {
		// A server that the client could not reach notices that by its idle time-out, 30 s.
		demand(time.Minute, w.leftOfStreams)
		w.blamed()
		w.closeClient()
	}
	demand(time.Minute, w.leftOfSessions)
}

// strangers returns the secondaries that only the client or only the primary knows.
func (w *simWorld) strangers() string {
	known := make(map[ServerID]bool) // false: suspended, so the primary does not announce it
	for _, m := range w.primary.memberList() {
		known[m.ID] = !m.Suspended
	}
	for _, p := range w.client.Servers() {
		if _, member := known[p.ID]; p.Role == ServerRoleSecondary && p.State == PathActive && !member {
			return fmt.Sprintf("%s, which has been withdrawn", p.ID)
		}
		delete(known, p.ID)
	}
	maps.DeleteFunc(known, func(_ ServerID, offered bool) bool { return !offered })
	if len(known) > 0 {
		return fmt.Sprintf("%v, of which the client does not know", known)
	}
	return ""
}

// closeClient closes the session, which waits for all of it, but for no peer.
func (w *simWorld) closeClient() {
	begun := time.Now()
	w.client.CloseWithError(0, "")
	if took := time.Since(begun); took > time.Second {
		w.fault("closing the session takes %v", took)
	}
}

// leftOfStreams describes the remains of streams that have ended.
func (w *simWorld) leftOfStreams() string {
	if n := w.client.Stats().AggregateStreams; n > 0 && w.s.death == simLives {
		return fmt.Sprintf("%d aggregate streams at the client", n)
	}
	if st := w.client.Stats().SecondaryStreams; st.ActiveStreams > 0 || len(w.client.Mappings()) > 0 {
		return fmt.Sprintf("%+v, %d mappings at the client", st, len(w.client.Mappings()))
	}
	for _, session := range w.sessions() {
		session.mu.Lock()
		offers, attached, pushed := len(session.offers), len(session.attached), len(session.pushed)
		session.mu.Unlock()
		if attached+pushed > 0 || (offers > 0 && w.s.death == simLives) {
			return fmt.Sprintf("%d offers, %d attachments, %d pushed streams at %v", offers, attached, pushed, session.LocalAddr())
		}
	}
	if n := blocksHeld.Load(); n > 0 && worlds.Load() == 1 {
		return fmt.Sprintf("%d blocks, %d pushing", n, w.pushing.Load())
	}
	return ""
}

// leftOfSessions names the servers that still have the client's session.
func (w *simWorld) leftOfSessions() string {
	for _, session := range w.sessions() {
		return fmt.Sprintf("a session at %v", session.LocalAddr())
	}
	return ""
}

// sessions returns the sessions of the honest servers that run.
func (w *simWorld) sessions() (all []*ServerSession) {
	w.mu.Lock()
	var servers []*testServer
	for i, h := range w.hosts {
		if h.server != nil && !h.down && (i > 0 || w.s.death == simLives) {
			servers = append(servers, h.server)
		}
	}
	w.mu.Unlock()
	for _, server := range servers {
		server.mu.Lock()
		for session := range server.Listener.sessions {
			all = append(all, session)
		}
		server.mu.Unlock()
	}
	return all
}
