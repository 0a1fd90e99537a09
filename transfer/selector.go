package transfer

import (
	"kwikcp/transfer/disk"
	"slices"
)

// A selector selects entries of a listing by a Filter and a PathList as rsync does. Patterns
// exclude the paths of the list and what is below them, but not the directories above them. It is
// used by one goroutine.
type selector struct {
	filter Filter
	list   *PathList
	around []selectedDir       // around the last entry; the first is the top
	seen   map[string]struct{} // the paths of the list that were listed
	// leftOut has the directories above paths of the list whose entries are ignored, because
	// their failure was reported.
	leftOut map[string]struct{}
}

// A selectedDir is a directory of a listing.
type selectedDir struct {
	entry Entry
	// isWhole is set if everything in it is selected that the filter includes.
	isWhole bool
	// isPending is set if it is only above paths of the list, none of which was selected so far.
	isPending bool
}

// A selection is a selector's decision about an entry.
type selection int

const (
	// selectionNone is of an entry that is left out.
	selectionNone selection = iota
	// selectionPending is of an entry that counts only with a later one below it.
	selectionPending
	// selectionAbove is of a directory above a path of the list. Other entries in it are not
	// selected.
	selectionAbove
	// selectionWhole is of an entry that is selected with everything below it that the filter
	// includes.
	selectionWhole
)

func newSelector(filter Filter, list *PathList) selector {
	top := selectedDir{isWhole: list.covers("")}
	return selector{
		filter: filter, list: list, around: []selectedDir{top},
		seen: make(map[string]struct{}), leftOut: make(map[string]struct{}),
	}
}

// next decides about the next entry of a listing. above are pending directories around it that are
// selectionAbove now, the outermost first.
func (s *selector) next(e Entry) (above []Entry, decision selection) {
	for len(s.around) > 1 && !isBelow(e.Path, s.around[len(s.around)-1].entry.Path) {
		s.around = s.around[:len(s.around)-1]
	}
	parent := s.around[len(s.around)-1]
	isDir := e.Type == EntryDir
	isNamed := s.list.names(e.Path)
	if isNamed {
		s.seen[e.Path] = struct{}{}
	}
	switch {
	case (isNamed || parent.isWhole) && s.filter.Wants(e.Path, isDir):
		decision = selectionWhole
	case isDir && s.list.isAbove(e.Path):
		s.around = append(s.around, selectedDir{entry: e, isPending: true})
		return nil, selectionPending
	case parent.isPending:
		return nil, selectionPending
	default:
		return nil, selectionNone
	}
	for i := range s.around {
		if d := &s.around[i]; d.isPending {
			d.isPending = false
			above = append(above, d.entry)
		}
	}
	if isDir {
		s.around = append(s.around, selectedDir{entry: e, isWhole: true})
	}
	return above, decision
}

// leaveOut notes an entry whose failure was reported.
func (s *selector) leaveOut(e Entry) {
	if e.Type == EntryDir && s.list.isAbove(e.Path) {
		s.leftOut[e.Path] = struct{}{}
	}
}

// missing returns the paths of the list that a complete listing does not have, sorted. Those below
// a directory that was left out are none of them.
func (s *selector) missing() (paths []string) {
	if s.list == nil {
		return nil
	}
	for path := range s.list.selected {
		_, found := s.seen[path]
		for at := path; at != "" && !found; {
			at = disk.Parent(at)
			_, found = s.leftOut[at]
		}
		if path != "" && !found {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}
