package transfer

import (
	"fmt"
	"io"
	"kwikcp/transfer/disk"
	"strings"
)

// A MirrorPair announces on this machine, from one call of [Mirror] to the next, which directory is
// mirrored into which. A mirror in the other direction, or one that closes a ring, finds it and is
// refused. The zero value is ready to use. It is for one mirror at a time, and closed after the
// last one.
type MirrorPair struct {
	name      string // that is announced; empty for none
	announced io.Closer
}

// Close ends the announcement.
func (p *MirrorPair) Close() {
	if p.announced != nil {
		p.announced.Close()
	}
	*p = MirrorPair{}
}

const pairPrefix = "mirror-"

// pairName returns the name of the mirror of a source into a target.
func pairName(source, target disk.PlaceID) string {
	return fmt.Sprintf("%s%x-%x", pairPrefix, source, target)
}

// isMirrorOf reports whether the announced mirrors keep a place a copy of another one, directly or
// through other places. It takes the pairs of [disk.Announced].
func isMirrorOf(copied, of disk.PlaceID, pairs []string) bool {
	targets := make(map[string][]string) // by source
	for _, name := range pairs {
		source, target, found := strings.Cut(strings.TrimPrefix(name, pairPrefix), "-")
		if found {
			targets[source] = append(targets[source], target)
		}
	}
	want := fmt.Sprintf("%x", copied)
	seen := make(map[string]bool)
	for next := []string{fmt.Sprintf("%x", of)}; len(next) > 0; next = next[1:] {
		for _, target := range targets[next[0]] {
			if target == want {
				return true
			}
			if !seen[target] {
				seen[target] = true
				next = append(next, target)
			}
		}
	}
	return false
}

// announce announces a pair instead of the one before. An error is no failure: a mirror in the
// other direction is not recognised. A second mirror of the same pair has no announcement.
func (p *MirrorPair) announce(source, target disk.PlaceID) {
	name := pairName(source, target)
	if p.announced != nil && p.name == name {
		return
	}
	p.Close()
	if c, err := disk.Announce(name); err == nil {
		p.name, p.announced = name, c
	}
}
