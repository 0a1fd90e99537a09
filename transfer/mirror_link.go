package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"strings"
	"syscall"
)

// planLink makes a symlink of the listing if its target is inside the tree, or may be anywhere
// (OutsideLinks).
func (p *plan) planLink(d *mirrorDir, e Entry, mayExist bool) {
	err := checkLinkTarget(e.Target)
	if err == nil && !p.OutsideLinks {
		err = checkLink(e.Path, e.Target)
	}
	if err != nil {
		p.countSkipped(e)
		p.skip(e, err)
		return
	}
	if p.Stage && !p.DryRun {
		p.stageLink(d, e, mayExist)
		return
	}
	p.makePlannedLink(d, e, mayExist)
}

// makePlannedLink makes a link and reports it.
func (p *plan) makePlannedLink(d *mirrorDir, e Entry, mayExist bool) {
	same, err := p.makeLink(d, e, mayExist)
	if errors.Is(err, errDirInTheWay) && p.Delete {
		p.replaceDir(deferredEntry{dir: d, entry: e})
		return
	}
	p.reportLink(e, same, err)
}

// errNoSymlinks is why a link is skipped.
var errNoSymlinks = errors.New("the file system has no symbolic links")

// reportLink reports the result of makeLink.
func (p *plan) reportLink(e Entry, same bool, err error) {
	switch {
	case err == errNoSymlinks:
		p.countSkipped(e)
		p.skip(e, err)
	case err != nil:
		p.failOrSkip(e, "make the link", err)
	case same:
		p.reportFile(FileReport{Path: e.Path, Action: FileUpToDate, Type: EntryLink})
	default:
		p.reportFile(FileReport{Path: e.Path, Action: FileLinked})
	}
}

// makeLink makes a link, in place of a file or link if there is one. same reports whether the
// link existed already.
func (p *plan) makeLink(d *mirrorDir, e Entry, mayExist bool) (same bool, err error) {
	if p.DryRun && !mayExist {
		return false, nil
	}
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	name := disk.Base(e.Path)
	found, there := occupantNone, fs.FileInfo(nil)
	if mayExist {
		if found, there, err = p.lookUp(h, name); err != nil {
			return false, err
		}
	}
	switch {
	case found == occupantDir:
		return false, errDirInTheWay
	case p.isNewerThan(there, e.MTime):
		return false, ErrNewer
	case found == occupantSpecial:
		if err := p.removeSpecial(h, e.Path); err != nil {
			return false, err
		}
	}
	if same, ok := p.linkSymlink(d, e, there); ok {
		return same, nil
	}
	p.noteSymlink(e)
	if found == occupantLink {
		if target, err := h.Readlink(name); err == nil && target == e.Target && !p.links.isTaken(there, e) {
			return true, p.applyLinkMetadata(h, name, e, there)
		}
	}
	if p.DryRun {
		return false, nil
	}
	p.noteChange(d)
	if err := p.backup.keep(h, e.Path); err != nil {
		return false, err
	}
	temp := p.freshName(name)
	if err := h.Symlink(e.Target, temp); err != nil {
		isForbidden := errors.Is(err, syscall.EACCES) // by the directory, not by the file system
		if isForbidden || !disk.IsAbsent(disk.OpSymlink, err) {
			return false, err
		}
		p.lacks.Note(disk.OpSymlink, err)
		return false, errNoSymlinks
	}
	err = p.applyLinkMetadata(h, temp, e, nil)
	if err == nil {
		err = h.Rename(temp, name)
	}
	if err != nil {
		h.Remove(temp)
		return false, err
	}
	return false, nil
}

// checkLinkTarget checks that a text can be the target of a link.
func checkLinkTarget(target string) error {
	if target == "" || strings.ContainsRune(target, 0) || len(target) > wire.MaxLinkTarget {
		return fmt.Errorf("no link can have the target %.100q", target)
	}
	return nil
}

// checkLink checks that a link cannot lead outside the tree, even through other links. Its target
// must be relative. It may have ".." only at its beginning, and not above the top. Then every
// ".." leads from a directory to its parent, whichever links that pass this check are on the way.
func checkLink(at, target string) error {
	escapes := fmt.Errorf("it leads outside the tree, or may: %q", target)
	if checkLinkTarget(target) != nil || target[0] == '/' {
		return escapes
	}
	depth := strings.Count(at, "/")
	down := false // a component other than ".." was seen
	for component := range strings.SplitSeq(target, "/") {
		switch {
		case component == "" || component == ".":
		case component != "..":
			down = true
			if wire.CheckTreePath(component) != nil {
				return escapes
			}
		case down || depth == 0:
			return escapes
		default:
			depth--
		}
	}
	return nil
}
