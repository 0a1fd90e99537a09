package wire

import (
	"regexp"
	"time"
)

const (
	// MaxBatchFiles bounds the files of one batch.
	MaxBatchFiles = 2048
	// MaxBatchPaths bounds the paths of one batch, in bytes before they are encoded as
	// differences.
	MaxBatchPaths = 1 << 20
	// MaxBatchTrees bounds the chaining values of the files of a batch, in bytes. The first file
	// does not count.
	MaxBatchTrees = 8 << 20
	// MaxLinkTarget bounds the target of a listed symbolic link, in bytes.
	MaxLinkTarget = 4096
	// HashingInterval is the interval at which a server reports the progress of hashing to a
	// waiting client.
	HashingInterval = 500 * time.Millisecond
)

var temporaryName = regexp.MustCompile(`^\.kwikcp-[0-9a-z-]+\.(part|new)$`)

// IsTemporary reports whether a name is one of those that kwikcp gives to files of unfinished
// transfers. They are neither listed nor mirrored.
func IsTemporary(name string) bool { return temporaryName.MatchString(name) }

const (
	// MaxXattrs bounds the extended attributes of a listed entry: the bytes of their names and
	// values, so that an entry fits into a message.
	MaxXattrs = 32 << 10
	// MaxXattrsListed bounds their number.
	MaxXattrsListed = 128
	// MaxOwnerName bounds the name of a listed user or group, in bytes.
	MaxOwnerName = 256
)
