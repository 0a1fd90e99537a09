package kwik

import (
	"errors"
	"slices"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik/internal/sched"
)

// This file attaches external sources to an aggregate stream, and decides how many fetches of
// each run at a time. external_path.go runs one of them.

// An attachedExternal is an external source of one stream. The aggregator's lock guards it.
type attachedExternal struct {
	*ExternalSource
	fetch   FetchFunc
	missing []rangeset.Range // not fetched from the source
	// paths are those that run: one for each fetch at a time.
	paths    []*externalPath
	trials   widthTrials
	failures int   // of fetches, in a row
	err      error // why it will not serve the stream any more
}

// errPushedExternal refuses an external source of a stream that needs no grants.
var errPushedExternal = errors.New("kwik: the servers of a pushed stream choose its bytes: it has no external sources")

// AddExternal adds an external source. fetch fetches bytes of this stream, for several goroutines
// at a time, but none of missing: whole units, in at most 8,192 ranges. A source that was banned
// before adds nothing. AddExternal may be called at any time before Close, once for each source.
func (r *AggregateReader) AddExternal(source *ExternalSource, fetch FetchFunc, missing ...Range) error {
	return r.agg.addExternal(source, fetch, missing)
}

func (a *streamAggregator) addExternal(source *ExternalSource, fetch FetchFunc, missing []Range) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pushed:
		return errPushedExternal
	case a.err != nil:
		return a.err
	}
	if err := a.checkWhole(missing); err != nil {
		return err
	}
	if source.banned() != nil {
		return nil
	}
	x := &attachedExternal{ExternalSource: source, fetch: fetch, trials: source.trials()}
	for _, r := range missing {
		x.missing = append(x.missing, rangeset.Range(r))
	}
	a.externals = append(a.externals, x)
	if a.mode != consumerNone && !a.released {
		a.widen(x)
	}
	return nil
}

// startExternals begins to use the external sources. Called with the lock held, after the demand.
func (a *streamAggregator) startExternals() {
	for _, x := range a.externals {
		a.widen(x)
	}
}

// widen starts paths until there are as many as the trials want. Called with the lock held.
func (a *streamAggregator) widen(x *attachedExternal) {
	for n := 1; len(x.paths) < x.trials.width; n++ {
		id := x.config.ID.path(n)
		isTaken := slices.ContainsFunc(x.paths, func(p *externalPath) bool { return p.id == id })
		if s := a.sources[id]; isTaken || s != nil && !s.gone { // it may be about to leave
			continue
		}
		p := &externalPath{a: a, x: x, id: id, wake: make(chan struct{}, 1)}
		x.paths = append(x.paths, p)
		a.wg.Go(func() { containTo(a.panicked, p.run) })
	}
}

// narrow lets paths leave until there are as many as the trials want. The last ones leave after
// what they are fetching. Called with the lock held.
func (a *streamAggregator) narrow(x *attachedExternal, now time.Time) {
	for len(x.paths) > x.trials.width {
		p := x.paths[len(x.paths)-1]
		x.paths = x.paths[:len(x.paths)-1]
		p.leaves = true
		a.sched.Drain(sched.SourceID(p.id), now)
	}
}

// observeExternals passes the time to the trials of the external sources. Called with the lock
// held.
func (a *streamAggregator) observeExternals(now time.Time) {
	for _, x := range a.externals {
		if x.err != nil || x.config.Fetches > 0 || a.pace.isLimited() {
			continue
		}
		if !a.isBusy(x) {
			x.trials.samples, x.trials.trial = nil, nil // the rate of idle paths tells nothing
			continue
		}
		received := int64(0)
		for id, s := range a.sources {
			if id.server() == x.config.ID {
				received += s.received.Load()
			}
		}
		before := x.trials.width
		x.trials.observe(received, x.roundTrip(), func() bool { return true }, now)
		switch {
		case x.trials.width > before:
			a.widen(x)
		case x.trials.width < before:
			a.narrow(x, now)
		}
		if x.trials.trial == nil {
			x.found(x.trials.width)
		}
	}
}

// isBusy reports whether every path of a source has a fetch to do.
func (a *streamAggregator) isBusy(x *attachedExternal) bool {
	return !slices.ContainsFunc(x.paths, func(p *externalPath) bool { return !p.isBusy() })
}

// externalPath returns the path of an external source, nil if id is that of a server's path.
func (a *streamAggregator) externalPath(id PathID) *externalPath {
	if s := a.sources[id]; s != nil {
		return s.external
	}
	return nil
}

// awaitsExternal reports whether an external source will be tried again. Called with the lock
// held.
func (a *streamAggregator) awaitsExternal() bool {
	return slices.ContainsFunc(a.externals, func(x *attachedExternal) bool { return x.err == nil && len(x.paths) > 0 })
}

// attachExternal makes a path a source. It returns nil if the path is not wanted any more.
func (a *streamAggregator) attachExternal(p *externalPath) *source {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil || a.released || p.leaves || p.x.err != nil {
		return nil
	}
	s := &source{id: p.id, external: p, rtt: p.x.roundTrip}
	described := schedSource(p.id, p.x.roundTrip())
	described.MinExtent, described.Missing = p.x.config.MinExtent, p.x.missing
	a.addSource(s, described)
	return s
}

// failed records that a fetch of a path failed, and returns how many did in a row. again is false
// if the path must end. Then the source does not serve the stream any more, or it serves fewer
// fetches at a time.
func (a *streamAggregator) failed(p *externalPath, err error) (failures int, again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := p.x
	switch {
	case p.leaves || x.err != nil || a.err != nil:
		return 0, false
	case isPermanent(err):
		x.set(PathClosed, err)
		a.removeExternal(x, err)
		return 0, false
	}
	othersWork := slices.ContainsFunc(x.paths, func(other *externalPath) bool { return other != p && other.delivers })
	if othersWork {
		x.paths = slices.DeleteFunc(x.paths, func(other *externalPath) bool { return other == p })
		x.trials.width, x.trials.trial = len(x.paths), nil
		x.trials.pauseTrials(time.Now())
		return 0, false
	}
	p.delivers = false
	x.failures++
	x.set(PathClosed, err)
	return x.failures, true
}

// delivered records that bytes of a path were accepted. Called with the lock held.
func (p *externalPath) delivered() { p.delivers, p.x.failures = true, 0 }

// banExternal ends the use of the source of a path in this stream and in later ones.
func (a *streamAggregator) banExternal(p *externalPath, cause error) {
	p.x.Ban(cause)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removeExternal(p.x, cause)
}

// removeExternal removes all paths of an external source from the stream. Called with the lock
// held.
func (a *streamAggregator) removeExternal(x *attachedExternal, reason error) {
	x.err, x.paths = reason, nil
	now := time.Now()
	for id, s := range a.sources {
		if id.server() == x.config.ID && !s.gone {
			a.remove(s, reason, now)
		}
	}
	a.dispatch()
}
