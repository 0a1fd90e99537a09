package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"sync"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A mirrorFile is one file of a mirror on its way.
//
// The bytes of a small file arrive all at once. The mirror then writes them to a temporary name
// of this run, closes the file, and renames it with others (mirror_place.go). It holds no open
// descriptor and needs no lock. It receives any other file in the part file that a Get to the
// same place would use.
//
//	state       on disk                                                       leads to
//	fileWanted  no file, or a part file that lacks bytes                      fileWhole, fileSame, fileLost
//	fileWhole   a temporary or part file with all bytes, or already renamed   fileLost, if it cannot be put in place
//	fileSame    the file was in place                                         -
//	fileLost    the file that was there before, perhaps with a part file      -
type mirrorFile struct {
	entry   Entry
	dir     *mirrorDir
	name    string      // in dir
	local   fs.FileInfo // the regular file in its place; nil for none
	resumes bool        // an earlier transfer may have left a part file, which is not open
	// checksums are the hashes that the file must have besides its root.
	checksums []Checksum
	// detach is set if the file in place has other names that are not to change with it. It is
	// then replaced by a copy, even if it has the content.
	detach bool
	group  *linkGroup // the group that the file is the first name of; nil for none
	donor  string     // a path of the target that may have the content; empty for none
	isHeld bool       // new, so that its content may be in the target under another name
	// isCopied is set if all of the content is from the target.
	isCopied bool

	manifest Manifest
	tree     *integrity.Tree // nil after a refusal
	refusal  error
	holes    partfile.Holes // as the server announced them
	start    int64          // in the stream of its batch

	// mu guards what follows. The lock of the part file is taken under it, and none is held
	// when it is taken.
	mu    sync.Mutex
	state fileState
	part  *partfile.PartFile // nil if no part file is in use
	temp  string             // the temporary file to rename; "" with a part file
	// isStaged is set if the file waits for the end of the mirror, and inStream while bytes of its
	// batch may arrive. A file that waits alone has no tree.
	isStaged, inStream bool
	// version is that of the temporary file when it was complete.
	version disk.Version
}

// A fileState is how far a file is.
type fileState int

const (
	fileWanted fileState = iota
	fileWhole
	fileSame
	fileLost
)

// maxOpenParts is how many part files of a mirror are open at a time.
const maxOpenParts = 128

func manifestOf(m *transferpb.Manifest) Manifest {
	return Manifest{
		Size: int64(m.GetSize()), Root: integrity.Root(m.GetRoot()), Group: integrity.GroupSize(m.GetGroup()).Bytes(),
		MTime: wire.JoinTime(m.GetMtimeNs(), m.GetMtimeEra()), Mode: m.GetMode() & 0o777,
	}
}

// freshName returns the name of a file that this run writes, and no other.
func (m *mirror) freshName(name string) string { return partfile.NewName(name, m.runID) }

// placeOf returns the place of a file.
func (m *mirror) placeOf(f *mirrorFile) partfile.Place {
	return partfile.Place{Dir: m.cache.Dir(f.dir.path), Name: f.name, Lacks: &m.lacks}
}

// pathOf returns the path of a file, for messages.
func (m *mirror) pathOf(f *mirrorFile) string { return disk.JoinPath(m.Target, f.entry.Path) }

// here returns which ranges of the file need not be fetched.
func (f *mirrorFile) here() []rangeset.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state != fileWanted:
		return []rangeset.Range{{Start: 0, End: f.tree.Size()}}
	case f.part == nil:
		return nil
	}
	return f.part.Have()
}

// priority returns the range of the batch's stream to fetch before all others. It is the last
// group of a file that is large enough for a reservation of free space. The zero Range means
// none.
func (b *batch) priority() kwik.Range {
	for _, f := range b.stream {
		f.mu.Lock()
		part := f.part
		f.mu.Unlock()
		if part == nil {
			continue
		}
		if last, ok := part.Priority(); ok {
			return kwik.Range{Start: f.start + last.Start, End: f.start + last.End}
		}
	}
	return kwik.Range{}
}

func (f *mirrorFile) wants() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == fileWanted
}

// takeWhole reports whether all bytes of the file are in its part file, to one caller alone,
// and makes it fileWhole.
func (f *mirrorFile) takeWhole() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	isWhole := f.state == fileWanted && f.part != nil && f.part.Whole()
	if isWhole {
		f.state = fileWhole
	}
	return isWhole
}

// prepare finds out which bytes of a file are here already.
func (m *mirror) prepare(ctx context.Context, f *mirrorFile, place *placer) {
	if ctx.Err() != nil {
		return
	}
	if m.isWritten(f) {
		m.skipFile(f, ErrYoung)
		return
	}
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		if !m.DryRun {
			m.drop(f, LocalError("open its directory", disk.Cause(err)))
		}
		return
	}
	defer m.cache.Release(h)
	same, err := m.isSame(ctx, h, f)
	switch {
	case err != nil:
		m.drop(f, localErrorOf("set its mode and time", err))
	case same:
		f.state = fileSame
		m.finishFile(f, FileReport{Path: f.entry.Path, Action: FileUpToDate, Type: EntryFile, Size: f.tree.Size(),
			Root: f.tree.Root(), Proved: len(f.checksums) > 0})
	case m.DryRun:
	case m.isBlocked(h.TreeDir, f): // and dropped
	case f.tree.Size() == 0:
		m.writeWhole(f, nil, place)
	default:
		m.findDonor(ctx, f)
		if f.detach && f.donor == "" {
			f.donor = f.entry.Path
		}
		if !m.copySmall(f, place) && m.needsPart(f) {
			m.resume(ctx, f, place)
		}
	}
}

// needsPart reports whether a file needs a part file before its bytes arrive. It does if some
// of its bytes may be local or in holes, or if it needs a reservation of free space.
func (m *mirror) needsPart(f *mirrorFile) bool {
	groups := f.holes.Groups()
	mayBeLocal := f.resumes || f.donor != "" || m.Reuse && f.local != nil
	reserves := partfile.IsLarge(f.tree.Size()) || m.Preallocate == disk.PreallocateFull
	return mayBeLocal || reserves || groups.Len() > 0
}

// isSame reports whether the file in place has the root already, and then gives it the source's
// mode and time.
func (m *mirror) isSame(ctx context.Context, h *disk.CachedDir, f *mirrorFile) (bool, error) {
	if f.detach || f.local == nil || f.local.Size() != f.tree.Size() {
		return false, nil
	}
	at := m.placeOf(f)
	file, info := at.Existing()
	if file == nil {
		return false, nil
	}
	defer file.Close()
	same, err := partfile.Matches(ctx, file, info.Size(), f.tree, nil)
	if err != nil || !same || disk.CheckVersion(file, disk.VersionOf(info)) != nil {
		return false, nil // an error is the end of ctx
	}
	if err := m.proveInPlace(ctx, f, file); err != nil || ctx.Err() != nil {
		return false, err
	}
	if m.DryRun {
		return true, nil
	}
	if f.detach = m.writesThrough(h, info, f); f.detach {
		return false, nil
	}
	if !m.NoPreserve && disk.Links(info) < 2 {
		err = m.applyToFile(h.TreeDir, at, file, info, f.entry, metadataOf(f.manifest, false))
	}
	if err == nil && !m.syncsVolumes.Load() {
		err = at.SyncFile(file)
	}
	return true, err
}

// discardPart removes the part file that an earlier transfer left for a file, unless another
// transfer holds it. It is of no use once the file needs no bytes.
func (m *mirror) discardPart(f *mirrorFile) {
	if !f.resumes || m.DryRun {
		return
	}
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		return
	}
	defer m.cache.Release(h)
	if m.isOthersPart(f, h) {
		return
	}
	if p, err := m.placeOf(f).Open(partfile.Options{Unchecked: true}); err == nil {
		p.Discard()
	}
}

// resume verifies the bytes of a part file, and with Reuse those of the file in place.
func (m *mirror) resume(ctx context.Context, f *mirrorFile, place *placer) {
	mayHaveFetched := f.resumes
	err := m.proveParts(ctx, f)
	switch {
	case err != nil && ctx.Err() != nil:
		m.abandon([]*mirrorFile{f})
	case err != nil:
		m.drop(f, err)
	case f.takeWhole():
		f.isCopied = f.donor != "" && !mayHaveFetched
		m.complete(f, place)
	}
}

func (m *mirror) proveParts(ctx context.Context, f *mirrorFile) error {
	f.mu.Lock()
	err := m.openPart(f)
	part := f.part
	f.mu.Unlock()
	if err != nil {
		return err
	}
	var seeds []disk.File
	if donor := m.openDonor(f); donor != nil {
		defer donor.Close()
		seeds = append(seeds, donor)
	}
	if m.Reuse && f.local != nil {
		if old, _ := part.Place().Existing(); old != nil {
			defer old.Close()
			seeds = append(seeds, old)
		}
	}
	return targetErrorIn(ctx, m.pathOf(f), part.Prove(ctx, f.tree, seeds, nil))
}

// openPart opens the part file of a file. If another transfer has it, this run has its own: both
// fetch the file, and neither waits for the other. Called with the file's lock held.
func (m *mirror) openPart(f *mirrorFile) error {
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		return LocalError("open its directory", disk.Cause(err))
	}
	defer m.cache.Release(h)
	err = partfile.ErrBusy
	// The plan has looked at what is in its place.
	o := partfile.Options{Pool: m.opened, Preallocate: m.Preallocate, Unchecked: true}
	if !m.isOthersPart(f, h) {
		f.part, err = m.placeOf(f).Open(o)
		f.resumes = f.resumes && err != nil // it is this file's now
	}
	if errors.Is(err, partfile.ErrBusy) {
		o.Run = m.runID
		f.part, err = m.placeOf(f).Open(o)
	}
	if err != nil {
		f.part = nil
		return targetError(m.pathOf(f), err)
	}
	f.part.KeepHoles(f.holes)
	return nil
}

// isChanged reports whether the server described another version of a file than its listing did.
func (f *mirrorFile) isChanged() bool {
	isDescribed := f.manifest != (Manifest{})
	return isDescribed && (f.manifest.Size != f.entry.Size || !f.manifest.MTime.Equal(f.entry.MTime))
}

// finishFile reports what became of a file, which needs its directory no more.
func (m *mirror) finishFile(f *mirrorFile, report FileReport) {
	switch report.Action {
	case FileFetched, FileCopied, FileUpToDate, FileHardLinked:
		m.live.placed()
		m.discardPart(f)
	case FileSkipped:
		m.live.placed()
		if errors.Is(report.Err, ErrNewer) {
			m.discardPart(f)
		}
	}
	if report.Action == FileFailed || errors.Is(report.Err, ErrYoung) {
		m.noteAbsent(f.entry)
	}
	f.group.settle(report.Action != FileFailed && report.Action != FileSkipped, f.isChanged(), report.Root)
	m.reportFile(report)
	m.releaseDir(f.dir)
}

// skipFile gives up a file on purpose.
func (m *mirror) skipFile(f *mirrorFile, reason error) {
	f.mu.Lock()
	f.state = fileLost
	f.mu.Unlock()
	f.leave()
	m.finishFile(f, FileReport{Path: f.entry.Path, Action: FileSkipped, Err: reason})
}

// drop gives up a file that failed. Its verified bytes stay in its part file.
func (m *mirror) drop(f *mirrorFile, err error) {
	f.mu.Lock()
	isLost := f.state == fileLost
	f.state = fileLost
	f.mu.Unlock()
	if isLost {
		return
	}
	f.leave()
	if _, ok := errors.AsType[*Error](err); !ok {
		err = LocalError("write it", disk.Cause(err))
	}
	m.finishFile(f, FileReport{Path: f.entry.Path, Action: FileFailed, Size: f.entry.Size, Err: err})
}

// abandon gives up files that did not fail: the mirror ends. Their verified bytes stay in their
// part files.
func (m *mirror) abandon(files []*mirrorFile) {
	for _, f := range files {
		f.mu.Lock()
		wanted := f.state == fileWanted
		f.state = fileLost
		f.mu.Unlock()
		if wanted {
			f.group.settle(false, false, [32]byte{})
			f.leave()
			m.releaseDir(f.dir)
		}
	}
}

// leave ends the part file of a file, which stays if anything in it is verified. It waits for
// goroutines that write to it.
func (f *mirrorFile) leave() {
	f.mu.Lock()
	part := f.part
	f.part = nil
	f.mu.Unlock()
	if part != nil {
		f.resumes = part.Leave()
	}
}

// wouldDo reports of a dry run what would become of a file.
func (m *mirror) wouldDo(f *mirrorFile) {
	if f.wants() {
		f.state = fileLost
		m.finishFile(f, FileReport{Path: f.entry.Path, Action: FileFetched, Size: f.tree.Size(), Root: f.tree.Root()})
	}
}
