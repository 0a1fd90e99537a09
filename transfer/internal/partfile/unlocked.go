package partfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"kwikcp/transfer/disk"
)

// This file is for part files that processes cannot share under one name. NFS without its lock
// daemon has no locks, and neither has Lustre by default. A shared file could get the bytes of two
// versions there. In a sticky directory the file may be another user's.
//
// Each transfer gives the file of an earlier one a private name, or makes a new file. Only one of
// several can rename it. At its end it gives the file the shared name back. The last of two
// transfers to a target puts its file in place; both were whole and proved.
//
// A process that is killed leaves a file under its own name. The name has the process, so that a
// later one on the same machine can tell that its owner is gone.

// takeOwn takes the file under a name of this process alone. With isOwn it has one already.
func (c claim) takeOwn(isOwn bool) (claim, disk.File, error) {
	if isOwn {
		f, err := c.take()
		return c, f, err
	}
	own := c
	own.name = ownName(c.Name)
	for _, left := range append([]string{c.name}, c.orphans()...) {
		if there, err := c.Dir.Lstat(left); err != nil || !there.Mode().IsRegular() {
			continue
		}
		if err := c.Dir.Rename(left, own.name); err != nil {
			continue // another process was faster, or it is another user's
		}
		if f, err := own.adopt(); err == nil {
			return own, f, nil
		}
		c.Dir.Remove(own.name)
	}
	f, err := own.take()
	return own, f, err
}

// ownName returns a name for the part file of a target that no other process uses.
func ownName(name string) string {
	process, id := disk.Process()
	return fmt.Sprintf("%s-%s-%d-%s.part", hashed(name), process, id, strings.ToLower(rand.Text()[:12]))
}

// maxOrphanNames bounds the directories that are searched for files of killed processes.
const maxOrphanNames = 1 << 20

// orphans returns the part files of the target under private names of processes of this machine
// that have ended.
func (c claim) orphans() (names []string) {
	lister, ok := c.Dir.(interface {
		Names(limit int) ([]string, error)
	})
	if !ok {
		return nil
	}
	all, _ := lister.Names(maxOrphanNames)
	process, _ := disk.Process()
	prefix := hashed(c.Name) + "-" + process + "-"
	for _, name := range all {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || !strings.HasSuffix(rest, ".part") {
			continue
		}
		number, _, _ := strings.Cut(rest, "-")
		if id, err := strconv.Atoi(number); err == nil && !disk.IsRunning(id) {
			names = append(names, name)
		}
	}
	return names
}

// share gives a part file that is kept the name under which the next transfer finds it. It reports
// whether the file is still there.
func (p *PartFile) share() bool {
	shared := PartName(p.place.Name)
	if p.part == shared || p.Run != "" {
		return true
	}
	err := p.place.Dir.Rename(p.part, shared)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// IsUnlocked reports whether the file system has no locks.
func (p *PartFile) IsUnlocked() bool { return p.isUnlocked }
