//go:build !linux

package disk

import (
	"errors"
	"io/fs"
	"time"
)

// A MetaDir is a directory that is open for the metadata of its entries. There are none on this
// system.
type MetaDir struct{}

// ErrXattrTooLarge is returned for an extended attribute whose value exceeds the caller's limit.
var ErrXattrTooLarge = errors.New("the extended attribute is too large")

// OpenMeta returns errors.ErrUnsupported.
func OpenMeta(TreeDir) (*MetaDir, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*MetaDir) Close() error { return nil }

// Xattrs returns errors.ErrUnsupported.
func (*MetaDir) Xattrs(string) ([]string, error) { return nil, errors.ErrUnsupported }

// Xattr returns errors.ErrUnsupported.
func (*MetaDir) Xattr(string, string, int) ([]byte, error) { return nil, errors.ErrUnsupported }

// SetXattr returns errors.ErrUnsupported.
func (*MetaDir) SetXattr(string, string, []byte) error { return errors.ErrUnsupported }

// RemoveXattr returns errors.ErrUnsupported.
func (*MetaDir) RemoveXattr(string, string) error { return errors.ErrUnsupported }

// Chown returns errors.ErrUnsupported.
func (*MetaDir) Chown(string, Owner) error { return errors.ErrUnsupported }

// Chmod returns errors.ErrUnsupported.
func (*MetaDir) Chmod(string, fs.FileMode) error { return errors.ErrUnsupported }

// Chtimes returns errors.ErrUnsupported.
func (*MetaDir) Chtimes(string, time.Time) error { return errors.ErrUnsupported }

// MakeSpecial returns errors.ErrUnsupported.
func (*MetaDir) MakeSpecial(string, fs.FileMode, Device) error { return errors.ErrUnsupported }
