package transfer

import (
	"crypto/tls"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"time"
)

// A MirrorSource is a directory of a primary.
type MirrorSource struct {
	// URL names the directory. An empty path is the served directory.
	URL URL
	// TLS authenticates the primary.
	TLS *tls.Config
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// StallTimeout bounds how long a mirror waits while nothing arrives, as in GetOptions. A
	// listing or a comparison waits for each reply as long. 0 means DefaultStallTimeout.
	StallTimeout time.Duration
	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddrEarly.
	Dial DialFunc
}

func (s MirrorSource) newRequest(report Reporter) request {
	return newRequest(s.URL, s.TLS, s.ConnectTimeout, s.StallTimeout, s.KWIK, s.Dial, report)
}

// MirrorOptions selects the tree to fetch and the target.
type MirrorOptions struct {
	MirrorSource
	// Target is the directory to fetch into. It is made if it is missing, except in a DryRun. Its
	// parent must exist.
	Target string
	// Delete removes entries of Target that are not in the tree, but only after a complete
	// listing. Entries that the Filter excludes stay, and so do directories named lost+found. A
	// file that may have moved stays until it is in place under its new name: it is FileSkipped
	// with ErrMoved.
	Delete bool
	// MaxDelete bounds what Delete removes.
	MaxDelete DeleteLimit
	// BackupDir is a directory to which deleted and replaced files and links are moved, under the
	// paths that they had below Target. It replaces older ones there. A directory in the way of a
	// file, or the reverse, gets another name first, such as "a.~1~". BackupDir is made if it is
	// missing; its parent must exist. It must be neither inside Target nor contain it. If it is on
	// another file system, files are copied. Empty means no backup.
	BackupDir string
	// OneFileSystem leaves directories on another file system than Target as they are, and mounted
	// files. It reports them as FileSkipped with ErrElsewhere.
	OneFileSystem bool
	// Update leaves a file of Target as it is that has a later time than that of the source. It
	// reports it as FileSkipped with ErrNewer.
	Update bool
	// MinAge is how long ago a file must have changed, by the clock of the server. A younger one
	// is left as it is, and reported as FileSkipped with ErrYoung: a program may still write it.
	MinAge time.Duration
	// Stage puts nothing in place before all files are there, except for new directories. New files
	// and links then precede those that replace others. A directory that replaces a file or link is
	// filled beside it, and exchanges names with it. A file that replaces a directory is fetched
	// before that is deleted, unless it has several names (hard links).
	Stage bool
	// Pair makes the mirror known to mirrors in the other direction until it is closed; nil means
	// until Mirror returns.
	Pair *MirrorPair
	// Filter selects the entries to fetch.
	Filter Filter
	// Paths selects entries as well, and nothing beside them is deleted. The Filter decides about
	// the selected entries and those below them, but not about the directories above them. Nil
	// selects everything.
	Paths *PathList
	// DryRun reports the changes without making them.
	DryRun bool
	// NoPreserve gives new files and directories the mode that the umask allows and the present
	// time, instead of the source's mode and time.
	NoPreserve bool
	// Reuse copies matching chunk groups of a file that changed, so that only the others are
	// fetched.
	Reuse bool
	// NoSparse writes all bytes of files, without holes.
	NoSparse bool
	// NoHardLinks makes a separate file of each name of a file that has several (hard links).
	NoHardLinks bool
	// Owner gives entries the owner and group of the server, by name. With NumericIDs, or if this
	// system does not know the name, the number counts. Without the privilege the entry keeps
	// its owner.
	Owner, NumericIDs bool
	// SpecialModes keeps setuid, setgid and sticky bits, and does not apply the umask.
	SpecialModes bool
	// Xattrs keeps extended attributes: those of users and, with the privilege, others. ACLs keeps
	// POSIX ACLs. Attributes of the target that the server does not have are removed.
	Xattrs, ACLs bool
	// Specials makes devices, FIFOs and sockets, which otherwise are skipped.
	Specials bool
	// OutsideLinks makes symlinks that lead, or may lead, outside the tree, which otherwise are
	// skipped. The mirror follows none of them, but other programs may.
	OutsideLinks bool
	// ModifyWindow is by how much the time of a file may differ from that of the source and still
	// count as equal with Quick. A coarser one that the target's file system has is learnt.
	ModifyWindow time.Duration
	// Quick treats a file with the size and time of the source as up to date, without comparing
	// its root. It is safe only for a target whose contents were compared before.
	Quick bool
	// Recheck has the paths of entries that Quick leaves out, such as those that failed before.
	// Files among them, and below directories among them, are compared. "." is the whole tree.
	Recheck map[string]bool
	// Checksums, if set, returns the hashes that a file must have besides its root; nil for none.
	// path is that of the listing. A file that does not have them is not put in place, and fails.
	// One goroutine at a time calls it, in each attempt for each file that the Filter includes.
	Checksums func(path string) []Checksum
	// Retries bounds how often the mirror is tried again after an error of KindNetwork. The next
	// fields are as in GetOptions.
	Retries      int
	RetryDelay   time.Duration
	MaxTime      time.Duration
	RetryMaxTime time.Duration
	// Web configures the web mirrors from which bytes are taken, too.
	Web WebOptions
	// Preallocate says whether free space is reserved for files; empty means auto.
	Preallocate disk.Preallocation
	// OpenTree opens Target; nil means disk.OpenTree.
	OpenTree func(path string, create bool) (disk.TreeDir, error)
}
