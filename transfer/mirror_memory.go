package transfer

import (
	"errors"
	"maps"
)

// A MirrorMemory is what a program that mirrors a tree again and again knows from the mirrors
// before. With it a mirror is Quick as soon as that is safe. The zero value knows nothing, so that
// everything is compared. For each mirror the program calls Prepare, then Mirror with a reporter
// that calls Note for each entry, then Learn. It does so in one goroutine at a time.
type MirrorMemory struct {
	// isQuick is set once a mirror has compared everything except for the entries in recheck.
	isQuick bool
	recheck map[string]bool
	// failed has the entries that failed since Prepare, one more than maxRecheck at most.
	failed   map[string]bool
	hasYoung bool // since Prepare
}

// maxRecheck bounds the entries that are remembered. After a mirror in which more fail, the next
// one compares everything.
const maxRecheck = 10_000

// Prepare sets Quick and Recheck of the next mirror. suspects are paths of further entries to
// compare.
func (m *MirrorMemory) Prepare(o *MirrorOptions, suspects []string) {
	m.failed, m.hasYoung = nil, false
	o.Quick, o.Recheck = m.isQuick, maps.Clone(m.recheck)
	if o.Recheck == nil {
		o.Recheck = make(map[string]bool)
	}
	for _, path := range suspects {
		o.Recheck[path] = true
	}
}

// Note takes the outcome of an entry.
func (m *MirrorMemory) Note(f FileReport) {
	m.hasYoung = m.hasYoung || errors.Is(f.Err, ErrYoung)
	if f.Action != FileFailed || len(m.failed) > maxRecheck {
		return
	}
	if m.failed == nil {
		m.failed = make(map[string]bool)
	}
	m.failed[f.Path] = true
}

// Learn takes the error of the mirror. It reports whether the mirror visited all entries. Those
// that did not fail are then in place, or were left out on purpose.
func (m *MirrorMemory) Learn(err error) (isComplete bool) {
	_, isPartial := errors.AsType[*MirrorError](err)
	_, isTooMany := errors.AsType[*DeleteLimitError](err)
	isComplete = err == nil || isPartial || isTooMany
	switch {
	case isComplete:
		m.isQuick, m.recheck = true, maps.Clone(m.failed)
	case m.isQuick: // it did not reach all entries
		all := maps.Clone(m.recheck)
		if all == nil {
			all = make(map[string]bool)
		}
		maps.Copy(all, m.failed)
		m.recheck = all
	}
	if len(m.recheck) > maxRecheck {
		m.isQuick, m.recheck = false, nil
	}
	return isComplete
}

// HasFailed reports whether an entry failed in the last mirror, or too many did to know them.
func (m *MirrorMemory) HasFailed(path string) bool {
	return m.failed[path] || len(m.failed) > maxRecheck
}

// HasYoung reports whether the last mirror left files that were younger than MirrorOptions.MinAge.
func (m *MirrorMemory) HasYoung() bool { return m.hasYoung }
