package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"path/filepath"
	"slices"
	"strings"
)

// This file recognises mirrors that would copy a directory into itself. The server tells which
// directory of its machine it lists (disk.PlaceID), which is of use on the same machine only.

// A LoopError reports that the source and the target of a mirror depend on each other. Nothing was
// deleted. Nothing was written either, unless one of them is a volume of a container, which is
// noticed when it is reached.
type LoopError struct {
	Loop Loop
	// Server is the host and port of the server.
	Server string
	// Target is the target of the mirror.
	Target string
}

// A Loop is how the source and the target of a mirror depend on each other.
type Loop int

// The loops.
const (
	LoopSame    Loop = iota // the source is the target
	LoopInside              // the target is inside the source: each mirror would copy the copy
	LoopAround              // the source is inside the target
	LoopTwoWays             // other mirrors keep the source a copy of the target
)

func (e *LoopError) Error() string {
	switch e.Loop {
	case LoopInside:
		const format = "%q is inside the directory that %s serves, so that each mirror would copy the copy"
		return fmt.Sprintf(format, e.Target, e.Server)
	case LoopAround:
		return fmt.Sprintf("the directory that %s serves is inside %q", e.Server, e.Target)
	case LoopTwoWays:
		return fmt.Sprintf("the directory that %s serves is a mirror of %q: each of the two would overwrite the other",
			e.Server, e.Target)
	}
	return fmt.Sprintf("%q is the directory that %s serves", e.Target, e.Server)
}

var errPlaces = errors.New("places that are none")

// placesOf reads the places of a listing.
func placesOf(raw [][]byte) (places []disk.PlaceID, err error) {
	for _, b := range raw {
		if len(b) != len(disk.PlaceID{}) {
			return nil, errPlaces
		}
		places = append(places, disk.PlaceID(b))
	}
	return places, nil
}

// checkLoop returns an error if the mirror would be a loop. Otherwise it announces the mirror to
// those in the other direction.
func (m *mirror) checkLoop(p page) error {
	if m.root == nil {
		return nil
	}
	ours := disk.Places(m.root)
	if len(ours) == 0 || len(p.places) == 0 {
		return nil
	}
	m.source = &p.places[0]
	loop := LoopSame
	levels := slices.Index(ours, p.places[0])
	switch {
	case levels == 0:
	case levels > 0 && m.excludesTarget(levels):
		return nil
	case levels > 0:
		loop = LoopInside
	case slices.Contains(p.places, ours[0]):
		loop = LoopAround
	case (m.Delete || !m.Update) && isMirrorOf(p.places[0], ours[0], disk.Announced(pairPrefix)):
		loop = LoopTwoWays
	default:
		if !m.DryRun {
			m.Pair.announce(p.places[0], ours[0])
		}
		return nil
	}
	return m.loopError(loop)
}

func (m *mirror) loopError(loop Loop) error {
	return &Error{Kind: KindLoop, Op: m.op(), Err: &LoopError{Loop: loop, Server: m.url.Host, Target: m.Target}}
}

// isSource reports whether a directory of the target is the source. One of them may be a volume of
// a container, so that the server does not see this name. The attempt ends then.
func (m *mirror) isSource(info fs.FileInfo) bool {
	if m.source == nil {
		return false
	}
	id, ok := disk.PlaceOf(info)
	if !ok || id != *m.source {
		return false
	}
	m.endWith(m.loopError(LoopAround))
	return true
}

// askAboutTarget lets the server tell if the target is inside the source.
func (m *mirror) askAboutTarget() {
	if ours := disk.Places(m.root); len(ours) > 0 {
		m.target = ours[0][:]
	}
}

// excludesTarget reports whether the filter excludes the target, which is the given number of
// levels below the source.
func (m *mirror) excludesTarget(levels int) bool {
	all, err := disk.Ancestors(m.Target)
	if err != nil || len(all) <= levels {
		return false
	}
	below, err := filepath.Rel(all[levels].Path, all[0].Path)
	if err != nil {
		return false
	}
	path := ""
	for name := range strings.SplitSeq(filepath.ToSlash(below), "/") {
		if path = disk.JoinPath(path, name); !m.Filter.Wants(path, true) {
			return true
		}
	}
	return false
}
