package transfer

import (
	"fmt"
	"io"
	"kwikcp/transfer/disk"
)

// A MirrorPair announces on this machine, from one call of [Mirror] to the next, which directory is
// mirrored into which. A mirror in the other direction finds it and is refused. The zero value is
// ready to use. It is for one mirror at a time, and closed after the last one.
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

// pairName returns the name of the mirror of a source into a target.
func pairName(source, target disk.PlaceID) string { return fmt.Sprintf("mirror-%x-%x", source, target) }

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
