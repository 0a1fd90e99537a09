//go:build !linux

package disk

import (
	"errors"
	"io"
)

// Announce returns an error: the system has no names that end with their process.
func Announce(string) (io.Closer, error) { return nil, errors.ErrUnsupported }

// IsAnnounced reports whether a program has announced a name.
func IsAnnounced(string) bool { return false }
