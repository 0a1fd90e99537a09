package wire

import (
	"regexp"
	"time"
)

const (
	// MaxBatchFiles bounds the files of one batch.
	MaxBatchFiles = 2048
	// MaxBatchPaths bounds the paths of one batch when they are written out, in bytes.
	MaxBatchPaths = 1 << 20
	// MaxBatchTrees bounds the chaining values of the files of a batch after the first, in bytes.
	MaxBatchTrees = 8 << 20
	// MaxLinkTarget bounds the target of a link that is listed, in bytes.
	MaxLinkTarget = 4096
	// HashingInterval is how often a client that waits for a tree hears how far it is.
	HashingInterval = 500 * time.Millisecond
)

var temporaryName = regexp.MustCompile(`^\.kwikcp-[0-9a-z-]+\.(part|new)$`)

// IsTemporary reports whether a name is one that kwikcp gives to files of transfers that have not ended. They are neither listed nor mirrored.
func IsTemporary(name string) bool { return temporaryName.MatchString(name) }
