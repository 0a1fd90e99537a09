package disk

import "io/fs"

// This file is what a file has besides content, time and permission bits. Where the system has no
// calls for it, they return errors.ErrUnsupported.

// An Owner is the owner and the group of a file, by number.
type Owner struct{ UID, GID uint32 }

// The names of extended attributes. ACLs are attributes as well.
const (
	UserXattrs   = "user."   // the prefix of those that a file's owner may set
	SystemXattrs = "system." // the prefix of those that belong to the file system
	AccessACL    = "system.posix_acl_access"
	DefaultACL   = "system.posix_acl_default"
	SELinuxLabel = "security.selinux" // of the policy of the machine
)

// IsACL reports whether an extended attribute is an ACL.
func IsACL(xattr string) bool { return xattr == AccessACL || xattr == DefaultACL }

// SpecialMode holds the mode bits besides permissions and type.
const SpecialMode = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// A Device is the number of a device.
type Device struct{ Major, Minor uint32 }

// Links returns the number of names of a file, 1 if the system does not tell it.
func Links(info fs.FileInfo) uint64 { return max(1, linksOf(info)) }

// OwnerOf returns the owner of a file. ok is false if the system does not tell it.
func OwnerOf(info fs.FileInfo) (o Owner, ok bool) { return ownerOf(info) }

// DeviceNumber returns the number of a device. ok is false if the system does not tell it.
func DeviceNumber(info fs.FileInfo) (d Device, ok bool) { return deviceNumber(info) }
