//go:build !linux

package disk

import (
	"errors"
	"io"
)

// Announce returns an error: the system has no names that end with their process.
func Announce(string) (io.Closer, error) { return nil, errors.ErrUnsupported }

// Announced returns no names.
func Announced(string) []string { return nil }
