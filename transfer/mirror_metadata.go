package transfer

import (
	"bytes"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"os"
	"slices"
	"strings"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file gives entries of the target what they have on the server besides content, time and
// permission bits. The order matters: a new owner clears setuid, setgid and capabilities, and a
// mode changes an ACL. So owner, mode, attributes and ACLs follow each other.

// wantedMetadata returns what a mirror requests of entries.
func (m *mirror) wantedMetadata() *transferpb.MetadataRequest {
	return &transferpb.MetadataRequest{Links: true, Owners: true, Traits: true, Xattrs: m.Xattrs, Acls: m.ACLs}
}

// keepsMore reports whether more than mode and time is kept.
func (m *mirror) keepsMore() bool {
	return !m.NoPreserve && (m.Owner || m.SpecialModes || m.Xattrs || m.ACLs)
}

// noteTop takes the server's description of the listed directory. A server that does not know the
// request sends none.
func (p *plan) noteTop(top *Entry) {
	if top != nil {
		p.links.isTold = true
		p.top = top
	}
}

// applyTop gives the target the time of the listed directory, and its mode if the mirror made
// the target or keeps more of each entry. The lock file must be gone. A refusal of
// the system is no error: the target may be another user's.
func (m *mirror) applyTop() error {
	if m.top == nil || m.NoPreserve || m.DryRun {
		return nil
	}
	d, err := disk.OpenMeta(m.root)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	switch {
	case m.keepsMore():
		var lost NotKept
		lost, err = m.apply(d, m.root, ".", *m.top)
		m.notKept.addAll(lost)
	case m.madeTarget:
		err = m.lacks.Allow(disk.OpMode, d.Chmod(".", m.top.Mode&^disk.Umask))
	}
	if err == nil {
		err = m.setTime(d, m.root, ".", *m.top)
	}
	if isRefused(err) {
		return nil
	}
	return err
}

// setTime gives an entry its time, unless it has it.
func (m *mirror) setTime(d *disk.MetaDir, h disk.TreeDir, name string, e Entry) error {
	info, err := h.Lstat(name)
	if err != nil || m.hasTime(info, e.MTime) {
		return err
	}
	return m.lacks.Allow(disk.OpTimes, d.Chtimes(name, e.MTime))
}

// applyLinkMetadata gives a symlink time, owner and attributes of its entry where the system can
// set them. there describes the link; nil if it is new.
func (m *mirror) applyLinkMetadata(h *disk.CachedDir, name string, e Entry, there fs.FileInfo) error {
	isDone := there != nil && m.hasTime(there, e.MTime) && !m.keepsMore()
	if m.NoPreserve || m.DryRun || isDone {
		return nil
	}
	d, err := disk.OpenMeta(h.TreeDir)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := h.Lstat(name)
	if err == nil {
		var lost NotKept
		_, err = m.applyOwner(d, name, info, e, &lost)
		m.applyXattrs(d, name, e, &lost)
		m.notKept.addAll(lost)
	}
	if err == nil {
		err = m.setTime(d, h, name, e)
	}
	if isRefused(err) {
		return nil
	}
	return err
}

// isRefused reports whether an error of the system means that this user, or this file system,
// cannot have some metadata.
func isRefused(err error) bool {
	return disk.IsAbsent(disk.OpOwner, err)
}

// modeOf returns the permission bits of an entry. The umask applies, unless the entry has an
// access ACL, whose mask they are, or all bits are kept.
func (m *mirror) modeOf(e Entry) fs.FileMode {
	hasACL := m.ACLs && e.metadata != nil && slices.ContainsFunc(e.metadata.xattrs, func(x xattr) bool {
		return x.name == disk.AccessACL
	})
	if m.SpecialModes || hasACL {
		return e.Mode
	}
	return e.Mode &^ disk.Umask
}

// specialOf returns the special mode bits that an entry of the given owner gets. A file is
// setuid or setgid only for its owner and group on the server. Otherwise this process would give
// away its own.
func (m *mirror) specialOf(e Entry, info fs.FileInfo, owner disk.Owner) fs.FileMode {
	if !m.SpecialModes || e.metadata == nil {
		return 0
	}
	special := e.metadata.special
	if info.IsDir() {
		return special
	}
	var same disk.Owner
	known := e.metadata.owner != nil
	if known {
		same = m.localOwner(e.metadata.owner)
	}
	if !known || same.UID != owner.UID {
		special &^= fs.ModeSetuid
	}
	if !known || same.GID != owner.GID {
		special &^= fs.ModeSetgid
	}
	return special
}

// applyMore gives the entry with a name in a directory, which need not be the name of the entry,
// owner, mode, attributes and ACL. It counts what is lost. The caller sets the time.
func (m *mirror) applyMore(h disk.TreeDir, name string, e Entry) error {
	lost, err := m.tryMore(h, name, e)
	m.notKept.addAll(lost)
	return err
}

// tryMore is applyMore, but returns what is lost.
func (m *mirror) tryMore(h disk.TreeDir, name string, e Entry) (lost NotKept, err error) {
	if !m.keepsMore() {
		return lost, nil
	}
	d, err := disk.OpenMeta(h)
	if errors.Is(err, errors.ErrUnsupported) {
		return m.allOf(e), nil
	}
	if err != nil {
		return lost, err
	}
	defer d.Close()
	return m.apply(d, h, name, e)
}

// allOf counts all that was requested of an entry.
func (m *mirror) allOf(e Entry) (n NotKept) {
	if e.metadata == nil {
		return n
	}
	if m.Owner && e.metadata.owner != nil && !m.isOwn(e.metadata.owner) {
		n.Owners++
	}
	if m.SpecialModes && e.metadata.special != 0 {
		n.SpecialModes++
	}
	for _, x := range e.metadata.xattrs {
		if disk.IsACL(x.name) {
			n.ACLs = 1
		} else {
			n.Xattrs = 1
		}
	}
	return n
}

func (m *mirror) apply(d *disk.MetaDir, h disk.TreeDir, name string, e Entry) (lost NotKept, err error) {
	info, err := h.Lstat(name)
	if err != nil {
		return lost, err
	}
	owner, err := m.applyOwner(d, name, info, e, &lost)
	if err != nil {
		return lost, err
	}
	special := m.specialOf(e, info, owner)
	if m.SpecialModes && e.metadata != nil && special != e.metadata.special {
		lost.SpecialModes++
	}
	if info, err = h.Lstat(name); err != nil { // a new owner changes the mode
		return lost, err
	}
	mode := m.modeOf(e) | special
	if info.Mode()&(fs.ModePerm|disk.SpecialMode) != mode {
		if err := m.lacks.Allow(disk.OpMode, d.Chmod(name, mode)); err != nil {
			return lost, err
		}
	}
	m.applyXattrs(d, name, e, &lost)
	return lost, nil
}

// applyOwner gives an entry its owner, and returns the owner after that.
func (m *mirror) applyOwner(
	d *disk.MetaDir, name string, info fs.FileInfo, e Entry, lost *NotKept,
) (disk.Owner, error) {
	have, ok := disk.OwnerOf(info)
	if !ok || !m.Owner || e.metadata == nil || e.metadata.owner == nil {
		return have, nil
	}
	want := m.localOwner(e.metadata.owner)
	if have == want {
		return have, nil
	}
	err := d.Chown(name, want)
	if isRefused(err) { // the group alone may be allowed
		lost.Owners++
		group := disk.Owner{UID: have.UID, GID: want.GID}
		if have == group || d.Chown(name, group) != nil {
			return have, nil
		}
		return group, nil
	}
	return want, err
}

// maySet reports whether this user may set an extended attribute.
func maySet(name string) bool { return strings.HasPrefix(name, disk.UserXattrs) || os.Geteuid() == 0 }

// isKept reports whether an extended attribute is one that the mirror keeps.
func (m *mirror) isKept(name string) bool {
	switch {
	case disk.IsACL(name):
		return m.ACLs
	case strings.HasPrefix(name, disk.SystemXattrs), name == disk.SELinuxLabel:
		return false
	}
	return m.Xattrs && maySet(name)
}

// applyXattrs gives an entry its extended attributes and ACLs, and removes others. Refused ones
// are counted. Nothing is removed if the server does not send all.
func (m *mirror) applyXattrs(d *disk.MetaDir, name string, e Entry, lost *NotKept) {
	if e.metadata == nil || !m.Xattrs && !m.ACLs {
		return
	}
	changes, err := m.xattrChanges(d, name, e)
	if err != nil {
		changes = wantedXattrs(e)
	}
	for _, c := range changes {
		switch {
		case c.value == nil && c.isRemoved:
			err = d.RemoveXattr(name, c.name)
		case !m.isKept(c.name):
			err = fs.ErrPermission
		default:
			err = d.SetXattr(name, c.name, c.value)
		}
		switch {
		case err == nil:
		case disk.IsACL(c.name):
			lost.ACLs = 1
		default:
			lost.Xattrs = 1
		}
	}
}

// An xattrChange sets or removes an extended attribute.
type xattrChange struct {
	xattr
	isRemoved bool
}

func wantedXattrs(e Entry) (changes []xattrChange) {
	for _, x := range e.metadata.xattrs {
		changes = append(changes, xattrChange{xattr: x})
	}
	return changes
}

// xattrChanges returns how the attributes of an entry in place differ from those on the server.
func (m *mirror) xattrChanges(d *disk.MetaDir, name string, e Entry) (changes []xattrChange, err error) {
	have, err := d.Xattrs(name)
	if err != nil {
		return nil, err
	}
	for _, x := range e.metadata.xattrs {
		value, err := d.Xattr(name, x.name, len(x.value))
		if err != nil || !bytes.Equal(value, x.value) {
			changes = append(changes, xattrChange{xattr: x})
		}
	}
	for _, other := range have {
		isWanted := slices.ContainsFunc(e.metadata.xattrs, func(x xattr) bool { return x.name == other })
		isUnknown := e.metadata.xattrsOmitted
		if disk.IsACL(other) {
			isUnknown = e.metadata.aclsOmitted
		}
		if !isWanted && !isUnknown && m.isKept(other) {
			changes = append(changes, xattrChange{xattr{name: other}, true})
		}
	}
	return changes, nil
}

// lacksMetadata reports whether an entry in place lacks metadata of its entry, other than its
// time, that this user may set.
func (m *mirror) lacksMetadata(h disk.TreeDir, name string, info fs.FileInfo, e Entry) bool {
	if m.NoPreserve {
		return false
	}
	if !m.keepsMore() {
		return info.Mode() != e.Mode&^disk.Umask
	}
	owner, _ := disk.OwnerOf(info)
	if m.Owner && e.metadata != nil && e.metadata.owner != nil && owner != m.localOwner(e.metadata.owner) {
		return true
	}
	if info.Mode()&(fs.ModePerm|disk.SpecialMode) != m.modeOf(e)|m.specialOf(e, info, owner) {
		return true
	}
	if e.metadata == nil || !m.Xattrs && !m.ACLs {
		return false
	}
	d, err := disk.OpenMeta(h)
	if err != nil {
		return false
	}
	defer d.Close()
	changes, err := m.xattrChanges(d, name, e)
	return err == nil && len(changes) > 0
}

// refreshMetadata gives a file in place, whose content is up to date, the metadata of its entry.
// It returns false if the file must be compared, or replaced, for that.
func (p *plan) refreshMetadata(f *mirrorFile) bool {
	h, err := p.cache.Acquire(f.dir.path)
	if err != nil {
		return false
	}
	defer p.cache.Release(h)
	switch {
	case p.DryRun, !p.lacksMetadata(h.TreeDir, f.name, f.local, f.entry):
		return true
	case disk.Links(f.local) > 1:
		f.detach = p.gains(h, f, f.local)
		return !f.detach
	}
	place := p.placeOf(f)
	file, info := place.Existing()
	if file == nil {
		return false
	}
	defer file.Close()
	want := partfile.Metadata{Mode: f.entry.Mode, MTime: f.entry.MTime}
	return p.applyToFile(h.TreeDir, place, file, info, f.entry, want) == nil
}

// applyToFile gives an open file in place the metadata of its entry. mode and time may be newer.
func (m *mirror) applyToFile(
	h disk.TreeDir, place partfile.Place, file disk.File, info fs.FileInfo, e Entry, want partfile.Metadata,
) error {
	if !m.keepsMore() {
		return place.ApplyMetadata(file, info, want)
	}
	if err := m.applyMore(h, place.Name, e); err != nil || m.hasTime(info, want.MTime) {
		return err
	}
	return m.lacks.Allow(disk.OpTimes, place.Dir.Chtimes(place.Name, want.MTime))
}
