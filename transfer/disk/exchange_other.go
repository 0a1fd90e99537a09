//go:build !linux

package disk

import "errors"

func exchange(osDir, string, string) error { return errors.ErrUnsupported }
