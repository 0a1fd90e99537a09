package serve

import (
	"crypto/rand"
	"encoding/binary"
	"io/fs"
	"os/user"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"

	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file is what a listing tells of entries if the client requests it.

// linkKey makes the numbers of files with several names meaningless outside of a session. They
// tell neither inodes nor devices.
var linkKey = func() (key [32]byte) {
	rand.Read(key[:])
	return key
}()

// maxOwnerNames bounds the names of users and groups that a listing remembers, each.
const maxOwnerNames = 4096

// A metadataReader reads the metadata of entries for one listing. One goroutine uses it.
type metadataReader struct {
	want    *transferpb.MetadataRequest
	links   *blake3.Hasher
	users   map[uint32][]byte // names
	groups  map[uint32][]byte
	dir     *disk.MetaDir // the directory at dirPath; nil if none could be opened
	dirPath string
	isOpen  bool // dirPath is valid
}

// newMetadataReader returns nil if nothing is wanted.
func newMetadataReader(want *transferpb.MetadataRequest, session *kwik.ServerSession) *metadataReader {
	if want == nil {
		return nil
	}
	r := &metadataReader{want: want, users: make(map[uint32][]byte), groups: make(map[uint32][]byte)}
	r.links, _ = blake3.NewKeyed(linkKey[:]) // fails only for another length
	id := session.ID()
	r.links.Write(id[:])
	return r
}

func (r *metadataReader) close() {
	if r != nil && r.dir != nil {
		r.dir.Close()
		r.dir = nil
	}
}

// describe adds the metadata of an entry. d is the directory at path dir, and name an entry of it
// that info describes.
func (r *metadataReader) describe(e *transferpb.Entry, dir string, d source.Dir, name string, info fs.FileInfo) {
	if r == nil {
		return
	}
	if r.want.GetLinks() && !info.IsDir() && disk.Links(info) > 1 {
		e.Link = r.linkOf(info)
	}
	m := &transferpb.Metadata{}
	if owner, ok := disk.OwnerOf(info); ok && r.want.GetOwners() {
		m.Owner = r.ownerOf(owner)
	}
	if r.want.GetTraits() {
		m.SpecialMode = specialModeOf(info.Mode())
		m.Special = specialOf(info)
	}
	if r.want.GetTraits() || r.want.GetXattrs() || r.want.GetAcls() {
		r.addXattrs(m, dir, d, name)
	}
	if proto.Size(m) > 0 {
		e.Metadata = m
	}
}

// linkOf returns the number of a file with several names.
func (r *metadataReader) linkOf(info fs.FileInfo) uint64 {
	v := disk.VersionOf(info)
	if !v.IsIdentified() {
		return 0
	}
	h := r.links.Clone()
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], v.Device)
	binary.LittleEndian.PutUint64(id[8:], v.Inode)
	h.Write(id[:])
	var sum [32]byte
	return max(1, binary.LittleEndian.Uint64(h.Sum(sum[:0])))
}

func (r *metadataReader) ownerOf(o disk.Owner) *transferpb.Owner {
	return &transferpb.Owner{
		Uid: o.UID, Gid: o.GID,
		User: nameOf(r.users, o.UID, func(id string) (string, error) {
			u, err := user.LookupId(id)
			if err != nil {
				return "", err
			}
			return u.Username, nil
		}),
		Group: nameOf(r.groups, o.GID, func(id string) (string, error) {
			g, err := user.LookupGroupId(id)
			if err != nil {
				return "", err
			}
			return g.Name, nil
		}),
	}
}

// nameOf returns the name of a user or group, empty if there is none. It remembers the names that
// it looked up.
func nameOf(known map[uint32][]byte, id uint32, lookUp func(id string) (string, error)) []byte {
	if name, ok := known[id]; ok {
		return name
	}
	name, err := lookUp(strconv.FormatUint(uint64(id), 10))
	if err != nil || len(name) > wire.MaxOwnerName {
		name = ""
	}
	if len(known) < maxOwnerNames {
		known[id] = []byte(name)
	}
	return []byte(name)
}

// specialModeOf returns the SpecialMode of a mode as Metadata has it.
func specialModeOf(mode fs.FileMode) (special uint32) {
	for _, bit := range wire.SpecialModes {
		if mode&bit.Mode != 0 {
			special |= bit.Bit
		}
	}
	return special
}

// specialOf describes a device, FIFO or socket; nil for anything else.
func specialOf(info fs.FileInfo) *transferpb.Special {
	kind, ok := wire.SpecialKinds[info.Mode().Type()]
	if !ok {
		return nil
	}
	s := &transferpb.Special{Kind: kind}
	if number, ok := disk.DeviceNumber(info); ok && info.Mode()&fs.ModeDevice != 0 {
		s.Major, s.Minor = number.Major, number.Minor
	}
	return s
}

// addXattrs adds the extended attributes and ACLs that are wanted and fit. It notes whether there
// are others. An entry whose attributes cannot be read has others.
func (r *metadataReader) addXattrs(m *transferpb.Metadata, dir string, d source.Dir, name string) {
	at := r.open(dir, d)
	if at == nil {
		return
	}
	names, err := at.Xattrs(name)
	if err != nil {
		m.XattrsOmitted = true
		return
	}
	left := wire.MaxXattrs
	for _, xattr := range names {
		isACL, wanted := disk.IsACL(xattr), r.want.GetXattrs()
		if isACL {
			wanted = r.want.GetAcls()
		} else if isOfSystem(xattr) {
			continue
		}
		if wanted && len(m.Xattrs) < wire.MaxXattrsListed && len(xattr) < left {
			value, err := at.Xattr(name, xattr, left-len(xattr))
			if err == nil {
				m.Xattrs = append(m.Xattrs, &transferpb.Xattr{Name: []byte(xattr), Value: value})
				left -= len(xattr) + len(value)
				continue
			}
		}
		m.AclsOmitted = m.AclsOmitted || isACL
		m.XattrsOmitted = m.XattrsOmitted || !isACL
	}
}

// isOfSystem reports whether an attribute belongs to the file system or to the policy of the
// machine, and not to the file.
func isOfSystem(xattr string) bool {
	return strings.HasPrefix(xattr, disk.SystemXattrs) || xattr == disk.SELinuxLabel
}

// open returns the directory at a path; nil if the system cannot open it for metadata.
func (r *metadataReader) open(path string, d source.Dir) *disk.MetaDir {
	if r.isOpen && r.dirPath == path {
		return r.dir
	}
	r.close()
	if local, ok := source.LocalDir(d); ok {
		r.dir, _ = disk.OpenMeta(local)
	}
	r.dirPath, r.isOpen = path, true
	return r.dir
}

// describeTop describes the listed directory itself, if the client wants that.
func (l *lister) describeTop() {
	if !l.metadata.wantsTop() || !l.allowed.allows(l.base) {
		return
	}
	d, err := l.cache.Acquire("")
	if err != nil {
		return
	}
	defer l.cache.Release(d)
	info, err := d.Dir.Lstat(l.ctx, ".")
	if err != nil {
		return
	}
	l.message.Directory = entryOf("", info)
	l.metadata.describe(l.message.Directory, "", d.Dir, ".", info)
	l.bytes += proto.Size(l.message.Directory) + 4
}

func (r *metadataReader) wantsTop() bool { return r != nil && r.want.GetTraits() }
