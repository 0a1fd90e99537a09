package transfer

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// setXattr sets an extended attribute. It reports whether the file system has such attributes.
func setXattr(t *testing.T, at, name, value string) bool {
	t.Helper()
	err := unix.Lsetxattr(at, name, []byte(value), 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
		t.Fatal(name, err)
	}
	return err == nil
}

// An aclOf is an access ACL in the encoding of Linux in which one further user may read and write.
func aclOf(uid uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 6, uid}, {4, 4, ^uint32(0)}, {16, 6, ^uint32(0)}, {32, 4, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// loseMore gives entries of a tree attributes, an ACL and owners as far as the system allows it,
// and returns how many.
func loseMore(t *testing.T, root string) (xattrs, acls, owners int64) {
	put(t, root, "more/xattr", "x")
	put(t, root, "more/acl", "y")
	put(t, root, "more/owner", "z")
	if setXattr(t, filepath.Join(root, "more/xattr"), "user.test", "value") {
		xattrs = 1
	}
	if setXattr(t, filepath.Join(root, "more/acl"), "system.posix_acl_access", aclOf(12345)) {
		acls = 1
	}
	if os.Lchown(filepath.Join(root, "more/owner"), 12345, 54321) == nil {
		owners = 1
	}
	return xattrs, acls, owners
}
