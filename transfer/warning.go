package transfer

import (
	"fmt"

	"kwikcp/transfer/disk"
)

// OpNames is the Operation of a Warning about two names that are the same to a file system.
const OpNames disk.Operation = "tell_names_apart"

// A Warning tells of something that the target's file system, or this user, cannot do. The bytes
// are in place without it (disk.Needs, OpNames).
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

// spellingWarning returns the warning for a file that replaced one with another spelling of its
// name.
func spellingWarning(name, replaced string) Warning {
	message := fmt.Sprintf("%q is the same name as %q to this file system: that file was replaced", name, replaced)
	return Warning{OpNames, message, 1}
}
