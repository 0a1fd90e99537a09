package sched

import (
	"cmp"
	"slices"
)

// A GrantState is a snapshot of a grant.
type GrantState struct {
	ID      uint64
	Source  SourceID
	Start   int64 // of the extent
	Pos     int64 // bytes before it were accepted
	End     int64 // end of what the source may still write
	Granted int64 // end of the extent as it was granted
	Queued  bool  // the source is expected to write it
}

// Grants returns a snapshot of every known grant, by ID. Those that have ended are known until
// their secondary streams end. Tests of the owner check their number, and use it to forge grants.
func (s *Scheduler) Grants() []GrantState {
	grants := make([]GrantState, 0, len(s.grants))
	for _, g := range s.grants {
		grants = append(grants, GrantState{
			ID: g.id, Source: g.source.id, Start: g.start, Pos: g.pos, End: g.end,
			Granted: g.granted, Queued: g.isQueued(),
		})
	}
	slices.SortFunc(grants, func(a, b GrantState) int { return cmp.Compare(a.ID, b.ID) })
	return grants
}

// Shorten takes back the tail of a grant from end on, which must be a unit boundary inside its
// remainder, and frees it. The scheduler does so when it steals; tests of the owner need it at a
// given offset.
func (s *Scheduler) Shorten(id uint64, end int64) {
	if g := s.grants[id]; g != nil {
		s.shorten(g, end)
	}
}
