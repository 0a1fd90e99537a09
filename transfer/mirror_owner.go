package transfer

import (
	"kwikcp/transfer/disk"
	"os"
	"os/user"
	"strconv"
	"sync"
)

// maxOwners bounds the names of users and groups that a mirror remembers, each.
const maxOwners = 4096

// An ownerMap finds the local numbers of the owners of a listing. It is safe for concurrent use.
type ownerMap struct {
	mu            sync.Mutex
	users, groups map[string]uint32 // by name; missing for a name that was not looked up
}

// isOwn reports whether a new file of this process has the owner of an entry.
func (m *mirror) isOwn(o *entryOwner) bool {
	return m.localOwner(o) == disk.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// localOwner returns the owner here that an entry's owner stands for, which is the one of the same
// name. If there is none, or with NumericIDs, it is the one of the same number.
func (m *mirror) localOwner(o *entryOwner) disk.Owner {
	if m.NumericIDs {
		return o.Owner
	}
	m.owners.mu.Lock()
	defer m.owners.mu.Unlock()
	return disk.Owner{
		UID: localID(&m.owners.users, o.user, o.UID, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}),
		GID: localID(&m.owners.groups, o.group, o.GID, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}),
	}
}

// localID returns the number of a name, or number if the name is not known here.
func localID(known *map[string]uint32, name string, number uint32, lookUp func(string) (string, error)) uint32 {
	if name == "" {
		return number
	}
	if id, ok := (*known)[name]; ok {
		return id
	}
	text, err := lookUp(name)
	if err != nil {
		return number
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return number
	}
	if *known == nil {
		*known = make(map[string]uint32)
	}
	if len(*known) < maxOwners {
		(*known)[name] = uint32(id)
	}
	return uint32(id)
}
