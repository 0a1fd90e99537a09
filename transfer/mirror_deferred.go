package transfer

import (
	"context"
	"errors"
	"kwikcp/transfer/disk"
)

// This file is about entries in whose place there is a directory that Delete removes. They wait for
// the deletions.

type deferredEntry struct {
	dir     *mirrorDir
	entry   Entry
	resumes bool // as in mirrorFile
}

// afterDelete returns the error of an entry for which a directory was to be deleted.
func afterDelete(err error) error {
	if errors.Is(err, errDirInTheWay) {
		return errDirStays
	}
	return err
}

// fetchDeferred makes the deferred links and passes the deferred files to fetch.
func (p *plan) fetchDeferred(ctx context.Context, fetch func(*batch) error) error {
	b := newBatch()
	for _, l := range p.deferred {
		if p.DryRun {
			p.reportDeferred(l.entry)
			continue
		}
		if err := p.reopenDir(l.dir); err != nil {
			p.fail(l.entry.Path, "write it", err)
			continue
		}
		defer p.releaseDir(l.dir) // after the loop: several entries may be in one directory
		if l.entry.Type == EntryLink {
			same, err := p.makeLink(l.dir, l.entry, true)
			p.reportLink(l.entry, same, afterDelete(err))
			continue
		}
		if l.entry.Type == EntryOther {
			same, err := p.makeSpecial(l.dir, l.entry, true)
			p.reportSpecial(l.entry, same, afterDelete(err))
			continue
		}
		f := &mirrorFile{entry: l.entry, dir: l.dir, name: disk.Base(l.entry.Path), resumes: l.resumes}
		if err := p.inspect(f, true); err != nil {
			p.fail(l.entry.Path, "write it", afterDelete(err))
			continue
		}
		if f = p.join(f); f == nil {
			continue
		}
		var err error
		if b, err = p.gather(b, f, fetch); err != nil {
			return err
		}
	}
	b, err := p.linkWaiting(ctx, b, fetch, true)
	if err != nil || b.empty() {
		return err
	}
	return fetch(b)
}

// reportDeferred reports in a dry run what would be made of a deferred entry.
func (p *plan) reportDeferred(e Entry) {
	action := FileFetched
	switch e.Type {
	case EntryLink:
		action = FileLinked
	case EntryOther:
		action = FileCreated
	}
	p.reportFile(FileReport{Path: e.Path, Action: action, Size: e.Size})
}
