package disk

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// TestNeeds checks that the table has each operation once, with a reason. No essential operation
// may fail, and no error that means lost bytes is allowed.
func TestNeeds(t *testing.T) {
	seen := make(map[Operation]bool)
	for _, n := range Needs {
		if seen[n.Op] || n.Does == "" || n.Without == "" {
			t.Errorf("the row %+v", n)
		}
		seen[n.Op] = true
		for _, absent := range append([]error{syscall.EPERM, syscall.EACCES, syscall.ENOTSUP, syscall.EOPNOTSUPP,
			syscall.ENOSYS, syscall.EINVAL, syscall.ENOTTY, errors.ErrUnsupported}, n.Absent...) {
			var lacks Lacks
			err := lacks.Allow(n.Op, &fs.PathError{Op: "op", Path: "p", Err: absent})
			isTold := len(lacks.Told()) == 1
			if (err != nil) != n.Essential || isTold != (n.Told && !n.Essential) {
				t.Errorf("%s, %v: %v, told %t", n.Op, absent, err, isTold)
			}
		}
		losses := []error{syscall.EIO, syscall.ENOSPC, ErrQuota, fs.ErrNotExist, fs.ErrClosed, syscall.EINTR}
		for _, lost := range losses {
			var none *Lacks
			if none.Allow(n.Op, lost) == nil {
				t.Errorf("%s, %v: allowed", n.Op, lost)
			}
		}
	}
}
