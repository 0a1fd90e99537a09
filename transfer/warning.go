package transfer

import "kwikcp/transfer/disk"

// A Warning tells of something that the target's file system, or this user, cannot do. The bytes
// are in place without it (disk.Needs).
type Warning struct {
	Operation disk.Operation
	Message   string // one line
	Count     int64  // how often
}

// warningsOf returns the warnings for the operations that were not possible.
func warningsOf(lacks *disk.Lacks) (all []Warning) {
	for _, l := range lacks.Told() {
		all = append(all, Warning{l.Op, l.String(), l.Count})
	}
	return all
}
