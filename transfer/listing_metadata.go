package transfer

import (
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"strings"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// An entryMetadata is what a listing has of an entry if a mirror requests it. The server's word is
// all that speaks for it.
type entryMetadata struct {
	owner         *entryOwner // nil if the server does not tell it
	special       fs.FileMode // within disk.SpecialMode
	xattrs        []xattr     // also ACLs
	xattrsOmitted bool
	aclsOmitted   bool
	kind          fs.FileMode // type bits of a device, FIFO or socket; 0 for anything else
	device        disk.Device
}

type entryOwner struct {
	disk.Owner
	user, group string // empty if the server knows no name
}

type xattr struct {
	name  string
	value []byte
}

// bytes returns the memory of the metadata beyond its fixed part.
func (m *entryMetadata) bytes() (n int) {
	if m == nil {
		return 0
	}
	n = entryBytes
	for _, x := range m.xattrs {
		n += entryBytes/2 + len(x.name) + len(x.value)
	}
	return n
}

// readMetadata checks the metadata of an entry.
func readMetadata(raw *transferpb.Metadata) (*entryMetadata, error) {
	if raw == nil {
		return nil, nil
	}
	m := &entryMetadata{xattrsOmitted: raw.GetXattrsOmitted(), aclsOmitted: raw.GetAclsOmitted()}
	if o := raw.GetOwner(); o != nil {
		if len(o.GetUser()) > wire.MaxOwnerName || len(o.GetGroup()) > wire.MaxOwnerName {
			return nil, fmt.Errorf("a name of an owner of more than %d bytes", wire.MaxOwnerName)
		}
		m.owner = &entryOwner{disk.Owner{UID: o.GetUid(), GID: o.GetGid()}, string(o.GetUser()), string(o.GetGroup())}
	}
	for _, bit := range wire.SpecialModes {
		if raw.GetSpecialMode()&bit.Bit != 0 {
			m.special |= bit.Mode
		}
	}
	if s := raw.GetSpecial(); s != nil {
		for mode, kind := range wire.SpecialKinds {
			if kind == s.GetKind() {
				m.kind, m.device = mode, disk.Device{Major: s.GetMajor(), Minor: s.GetMinor()}
			}
		}
	}
	return m, m.readXattrs(raw.GetXattrs())
}

// maxXattrName bounds the name of an extended attribute in bytes, as Linux does.
const maxXattrName = 255

func (m *entryMetadata) readXattrs(raw []*transferpb.Xattr) error {
	if len(raw) > wire.MaxXattrsListed {
		return fmt.Errorf("more than %d extended attributes", wire.MaxXattrsListed)
	}
	size, last := 0, ""
	for _, x := range raw {
		name := string(x.GetName())
		isPossible := name > last && len(name) <= maxXattrName && !strings.ContainsRune(name, 0)
		isAllowed := !strings.HasPrefix(name, disk.SystemXattrs) || disk.IsACL(name)
		if !isPossible || !isAllowed {
			return fmt.Errorf("an extended attribute %q", name)
		}
		if size += len(name) + len(x.GetValue()); size > wire.MaxXattrs {
			return fmt.Errorf("more than %d bytes of extended attributes", wire.MaxXattrs)
		}
		last = name
		m.xattrs = append(m.xattrs, xattr{name, x.GetValue()})
	}
	return nil
}
