package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A FileAction is the action of a mirror on an entry, or in a dry run the action that it would
// take.
type FileAction string

const (
	FileFetched  FileAction = "fetched"    // a file that was missing or different
	FileCopied   FileAction = "copied"     // a file whose content was in the target under another name
	FileUpToDate FileAction = "up_to_date" // a file or link that was identical
	FileLinked   FileAction = "linked"     // a symlink was made
	// FileHardLinked is of a name that was linked to another name of the same file.
	FileHardLinked FileAction = "hard_linked"
	FileMade       FileAction = "made"    // a directory was made
	FileCreated    FileAction = "created" // a device, FIFO or socket was made
	FileDeleted    FileAction = "deleted"
	FileSkipped    FileAction = "skipped" // on purpose: a special file, or a link that leads outside the tree
	FileFailed     FileAction = "failed"
)

// A FileReport is the outcome of an entry.
type FileReport struct {
	Path   string // relative to the mirrored directory, which is "."; any bytes
	Action FileAction
	Type   EntryType // of an entry that is up to date
	Size   int64     // of a file, in bytes
	Root   [32]byte  // the BLAKE3 hash of a file that was fetched or is up to date
	Err    error     // of FileSkipped and FileFailed
	Proved bool      // the file has its Checksums, of which there are some
}

// A MirrorReporter receives the progress of a mirror. Manifest, Checking, Resume and Hashing are
// not called: they are about the only file of a transfer.
type MirrorReporter interface {
	Reporter
	// File is called once for each entry, when its outcome is known.
	File(f FileReport)
}

// A MirrorResult is the outcome of a mirror.
type MirrorResult struct {
	Files                 int64 // that the listing has, all of them
	Fetched, UpToDate     int64 // files, of which the latter were identical
	Made, Linked, Deleted int64 // directories, links, entries of any type
	Copied                int64 // files whose content was in the target under another name
	Created               int64 // devices, FIFOs and sockets
	HardLinked            int64 // files, which are names of others
	Skipped, Failed       int64 // entries
	NotKept               NotKept
	Proved                int64 // files in place that have their Checksums
	Bytes                 int64 // of all files in place
	Network               int64 // verified bytes that were fetched
	Wasted                int64 // bytes received twice, rejected, or of another version
	Holes                 int64 // bytes of fetched files that are zeros in holes and were not fetched
	Seconds               float64
	Servers               []ServerStatus
	Warnings              []Warning // one for each kind of operation that was not possible
}

// A MirrorError reports that entries failed. Err is the error with the highest rank (kindRanks).
type MirrorError struct {
	Failed int64
	Path   string // of the entry that failed with Err
	Err    error
}

func (e *MirrorError) Error() string {
	if e.Failed == 1 {
		return fmt.Sprintf("%q: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%d entries failed, such as %q: %v", e.Failed, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *MirrorError) Unwrap() error { return e.Err }

// Mirror fetches a tree from a primary and its secondaries into a directory. Each file is
// verified against its own root and put in place when it is complete. Identical files are not
// fetched. After an error Mirror can be repeated, and fetches only the rest. report may be nil.
//
// An entry that fails is reported, and the others continue. The error then wraps a *MirrorError.
// If kinds of errors differ, the first of these counts: no space, integrity, local, exists, busy,
// refused, changed, network, not found, other. Errors of the whole mirror are those of Get.
func Mirror(ctx context.Context, o MirrorOptions, report MirrorReporter) (MirrorResult, error) {
	if o.OpenTree == nil {
		o.OpenTree = disk.OpenTree
	}
	if report == nil {
		report = NoReport{}
	}
	m := &mirror{
		MirrorOptions: o, request: o.newRequest(report), report: report,
		runID: strings.ToLower(rand.Text()[:12]), opened: partfile.NewPool(maxOpenParts),
	}
	m.wantsHoles = !o.NoSparse
	m.asksPlaces = true
	m.webOptions = o.Web
	defer m.closeWeb()
	if m.Pair == nil {
		m.Pair = &MirrorPair{}
		defer m.Pair.Close()
	}
	m.request.metadata = m.wantedMetadata()
	defer m.stall.run()()
	start := time.Now()
	err := m.fetchMirror(ctx)
	m.result.NotKept = m.notKept.get()
	m.result.Warnings = warningsOf(&m.lacks)
	m.result.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m.result, err
}

// A mirror is one call of Mirror. A file passes these steps (docs/DESIGN.md, "Mirrors"): plan
// (mirror_plan.go), request (mirror_batch.go), compare and receive (mirror_round.go,
// mirror_file.go), place (mirror_place.go). Each attempt waits for the goroutines that it
// started.
type mirror struct {
	MirrorOptions
	request
	report  MirrorReporter
	donors  donors       // of this attempt
	notKept notKeptCount // of this attempt
	lacks   disk.Lacks   // notes the operations that were not possible
	owners  ownerMap
	runID   string // names the temporary files of this run
	root    disk.TreeDir
	// madeTarget is set if the target did not exist.
	madeTarget bool
	source     *disk.PlaceID      // of the listed directory; nil if it is not known
	device     uint64             // of the file system of root
	above      []disk.Ancestor    // the directories that contain the target
	lock       *partfile.PartFile // nil if nothing can be made in the target
	// readOnly is the error of each file that is not up to date: the target is mounted read-only.
	readOnly error
	cache    *disk.DirCache
	backup   *backup // nil without BackupDir
	// window is by how much a time of the target may differ from that of the server: its file
	// system keeps coarser times.
	window time.Duration
	// folds is set if the target's file system ignores the case of names.
	folds bool
	// syncsVolumes is set if file systems are synced as a whole. It is cleared when the system
	// cannot.
	syncsVolumes atomic.Bool
	// syncsTree is set if the system refuses that, so that all directories are synced at the end.
	syncsTree atomic.Bool
	staged    stage
	live      liveStreams
	opened    *partfile.Pool // the part files that are open

	mu     sync.Mutex // guards the rest
	result MirrorResult
	// worst is the error of an entry with the highest rank so far, and worstPath the path of that
	// entry.
	worst     error
	worstPath string
	top       *Entry // the listed directory itself; nil if the server does not describe it
	fatal     error  // ends the attempt: the file system is full
	stop      context.CancelCauseFunc
	// fetchedBefore counts the files that earlier attempts fetched. This attempt finds them up to
	// date, and must not count them as such.
	fetchedBefore int64
	volumes       map[uint64]disk.Volume
	absent        absentFiles
	waitingDirs   []*mirrorDir // of stage.dirs
}

// fetchMirror opens and locks the target, and makes attempts.
func (m *mirror) fetchMirror(ctx context.Context) (err error) {
	_, missing := os.Lstat(m.Target)
	m.madeTarget = errors.Is(missing, fs.ErrNotExist)
	root, err := m.OpenTree(m.Target, !m.DryRun)
	if m.DryRun && errors.Is(err, fs.ErrNotExist) {
		root, err = nil, nil
	}
	if err != nil {
		return LocalError(m.op(), disk.Cause(err))
	}
	if root != nil {
		defer root.Close()
		m.root, m.cache = root, disk.NewDirCache(root)
		defer m.cache.Close()
		info, err := root.Stat(".")
		if err != nil {
			return LocalError(m.op(), disk.Cause(err))
		}
		m.device = disk.DeviceOf(info)
		m.askAboutTarget()
		if all, err := disk.Ancestors(m.Target); err == nil {
			m.above = all[1:]
		}
	}
	if !m.DryRun {
		if err := m.lockTarget(); err != nil {
			return err
		}
		defer func() {
			m.unlockTarget()
			if applied := m.applyTop(); err == nil && applied != nil {
				err = LocalError(m.op(), disk.Cause(applied))
			}
		}()
		if err := m.openBackup(); err != nil {
			return err
		}
		defer m.backup.close()
	}
	p := retryPolicy{m.Retries, m.RetryDelay, m.MaxTime, m.RetryMaxTime, m.stall}
	err = p.run(ctx, m.attempt, isRetryable, m.observer.retry)
	if err != nil && !m.DryRun {
		m.removeEmpty()
	}
	return err
}

// removeEmpty removes the directories that the mirror made and put nothing into: a start that
// failed leaves nothing.
func (m *mirror) removeEmpty() {
	if m.madeTarget {
		m.unlockTarget()
		os.Remove(m.Target) // fails unless it is empty
	}
	if m.backup != nil && m.backup.isMade {
		os.Remove(m.BackupDir)
	}
}

// attempt makes the target equal to the tree. It may be repeated: it compares the target again.
func (m *mirror) attempt(ctx context.Context) (err error) {
	m.mu.Lock()
	m.fetchedBefore = m.result.Fetched + m.result.HardLinked + m.result.Copied
	m.result = MirrorResult{ // the other counts begin again
		Fetched: m.result.Fetched, Deleted: m.result.Deleted, Made: m.result.Made, Linked: m.result.Linked,
		HardLinked: m.result.HardLinked, Copied: m.result.Copied, Created: m.result.Created,
		Network: m.result.Network, Wasted: m.result.Wasted, Holes: m.result.Holes,
	}
	m.worst, m.worstPath, m.fatal, m.absent = nil, "", nil, absentFiles{}
	m.waitingDirs = nil
	m.notKept = notKeptCount{}
	m.donors = donors{}
	m.volumes = make(map[uint64]disk.Volume)
	m.mu.Unlock()
	m.live.reset()

	m.start = time.Now()
	if err := m.connect(ctx); err != nil {
		return err
	}
	defer func() { m.close(err) }()
	defer func() {
		for _, v := range m.volumes {
			if v != nil {
				v.Close()
			}
		}
	}()
	m.prepareSyncs()
	stop := m.watch()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.stop = cancel
	endGuard := m.guardTarget()
	err = m.fetchTree(inner)
	endGuard()
	if last := stop(); last.Servers != nil {
		m.result.Servers = last.Servers
	}
	return m.attemptError(err)
}

// guardInterval is how often a mirror checks that its target is still in its place.
const guardInterval = time.Second

// guardTarget ends the attempt when the target loses its path. Its file system may be unmounted or
// mounted over, or another directory may be in its place. end makes the last check.
func (m *mirror) guardTarget() (end func()) {
	if m.root == nil {
		return func() {}
	}
	check := func() (ok bool) {
		err := disk.CheckPath(m.root, m.Target)
		if err != nil {
			m.endWith(LocalError(m.op(), disk.Cause(err)))
		}
		return err == nil
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // end ends it and waits for it
		defer close(ended)
		ticker := time.NewTicker(guardInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if !check() {
					return
				}
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		check()
	}
}

// endWith ends the attempt with an error, unless it has ended with one.
func (m *mirror) endWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fatal == nil {
		m.fatal = err
		m.stop(err)
	}
}

// fetchTree fetches the tree, deletes the extra entries, then fetches the entries that waited for
// a deletion.
func (m *mirror) fetchTree(ctx context.Context) error {
	p := newPlan(m)
	defer m.unstage()
	err := m.runBatches(ctx, p.walk)
	if err == nil && m.fatalError() == nil {
		p.removeTemporary(ctx)
		err = p.publish(ctx)
	}
	if err = p.linkRest(ctx, err); err == nil && m.fatalError() == nil {
		err = p.publish(ctx) // names that could not be linked
	}
	if err != nil || m.fatalError() != nil {
		return err
	}
	if !m.Delete {
		p.publishRest()
		return m.syncAll(ctx)
	}
	if err = p.delete(ctx); ctx.Err() != nil { // some entries were not deleted
		return context.Cause(ctx)
	}
	if err == nil {
		p.publishRest()
	}
	if err == nil && len(p.deferred) > 0 {
		err = m.runBatches(ctx, p.fetchDeferred)
		if err == nil {
			err = p.publish(ctx)
		}
	}
	if synced := m.syncAll(ctx); err == nil {
		err = synced
	}
	return err
}

// fatalError returns the error that ended the attempt; nil if none did.
func (m *mirror) fatalError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fatal
}

// attemptError returns the error of an attempt. err is the error of the whole attempt, not of an
// entry.
func (m *mirror) attemptError(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fatal != nil:
		return m.fatal
	case err != nil:
		return err
	case m.result.Failed == 0:
		if _, files, done := m.live.totals(); files != done {
			err := fmt.Errorf("only %d of %d files are in place", done, files) // a bug
			return &Error{Kind: KindOther, Op: m.op(), Err: err}
		}
		return nil
	}
	kind := KindOther
	if e, ok := errors.AsType[*Error](m.worst); ok {
		kind = e.Kind
	}
	return &Error{Kind: kind, Op: m.op(), Err: &MirrorError{Failed: m.result.Failed, Path: m.worstPath, Err: m.worst}}
}

// kindRanks lists the kinds of errors by rank, the highest first. The error of a mirror is the
// one with the highest rank.
var kindRanks = []Kind{
	KindNoSpace, KindIntegrity, KindLocal, KindExists, KindBusy, KindRefused, KindChanged, KindNetwork, KindNotFound,
	KindOther,
}

// rank returns the index of an error's kind in kindRanks.
func rank(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		for i, k := range kindRanks {
			if k == e.Kind {
				return i
			}
		}
	}
	return len(kindRanks)
}

// reportFile counts and reports the outcome of an entry. It is safe for concurrent use: the
// Reporter is called with the observer's lock held.
func (m *mirror) reportFile(f FileReport) {
	m.mu.Lock()
	if f.Proved {
		m.result.Proved++
	}
	switch f.Action {
	case FileFetched:
		m.result.Fetched++
		m.result.Bytes += f.Size
	case FileCopied:
		m.result.Copied++
		m.result.Bytes += f.Size
	case FileUpToDate:
		switch m.result.Bytes += f.Size; {
		case f.Type != EntryFile:
		case m.fetchedBefore > 0:
			m.fetchedBefore--
		default:
			m.result.UpToDate++
		}
	case FileLinked:
		m.result.Linked++
	case FileHardLinked:
		m.result.HardLinked++
		m.result.Bytes += f.Size
	case FileCreated:
		m.result.Created++
	case FileMade:
		m.result.Made++
	case FileDeleted:
		m.result.Deleted++
	case FileSkipped:
		if m.result.Skipped++; errors.Is(f.Err, ErrYoung) {
			m.noteLack(f.Path, ErrYoung)
		}
	case FileFailed:
		m.countFailure(f)
	}
	m.mu.Unlock()
	m.observer.mu.Lock()
	defer m.observer.mu.Unlock()
	m.report.File(f)
}

// countFailure counts an entry that failed. A full file system ends the attempt. It must be
// called with the lock held.
func (m *mirror) countFailure(f FileReport) {
	m.result.Failed++
	m.noteLack(f.Path, errLacksEntries)
	if m.worst == nil || rank(f.Err) < rank(m.worst) {
		m.worst, m.worstPath = f.Err, f.Path
	}
	e, ok := errors.AsType[*Error](f.Err)
	noSpace := ok && e.Kind == KindNoSpace
	if noSpace && m.fatal == nil {
		m.fatal = &Error{Kind: e.Kind, Op: fmt.Sprintf("write %q", disk.JoinPath(m.Target, f.Path)), Err: e.Err}
		m.stop(m.fatal)
	}
}

// op returns the operation that errors of the whole mirror name.
func (m *mirror) op() string { return fmt.Sprintf("mirror into %q", m.Target) }

// fail reports an entry that failed. An err that is no *Error is one of the local file system, in
// operation op.
func (m *mirror) fail(path, op string, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		m.reportFile(FileReport{Path: path, Action: FileFailed, Err: e})
		return
	}
	m.reportFile(FileReport{Path: path, Action: FileFailed, Err: LocalError(op, disk.Cause(err))})
}
