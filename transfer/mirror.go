package transfer

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"strings"
	"sync"
	"time"
)

// A MirrorSource is a directory of a primary.
type MirrorSource struct {
	// URL names the directory; with an empty path it is the served one.
	URL URL
	// TLS decides whom to trust as the primary.
	TLS *tls.Config
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddr.
	Dial DialFunc
}

func (s MirrorSource) inquiry(report Reporter) inquiry {
	return newInquiry(s.URL, s.TLS, s.ConnectTimeout, s.KWIK, s.Dial, report)
}

// MirrorOptions says which tree to fetch and where to.
type MirrorOptions struct {
	MirrorSource
	// Target is the directory to fetch into. It is made if it is missing, but for a DryRun; its parent must be there.
	Target string
	// Delete removes what is in Target and not in the tree, but only after a listing that says everything, and nothing that the Filter
	// excludes.
	Delete bool
	// Filter says which entries to fetch.
	Filter Filter
	// DryRun changes nothing, and reports what would be done.
	DryRun bool
	// NoPreserve gives files and directories the mode that the umask allows and the present time, instead of those of the source.
	NoPreserve bool
	// Reuse takes what is right of a file that has changed for the new one, so that only the rest is fetched.
	Reuse bool
	// Quick takes a file for up to date that has the size and time of the source's, without asking for its hash. It is for one who
	// mirrored the tree before and compared it then.
	Quick bool
	// Retries is how many times the mirror is tried again after an error of KindNetwork; the others are as in GetOptions.
	Retries      int
	RetryDelay   time.Duration
	MaxTime      time.Duration
	RetryMaxTime time.Duration
	// OpenTree opens Target; nil means OpenTree.
	OpenTree func(path string, create bool) (disk.TreeDir, error)
}

// A FileAction is what a mirror did with an entry, or would do.
type FileAction string

const (
	FileFetched  FileAction = "fetched"    // a file, that was not there or not the same
	FileUpToDate FileAction = "up_to_date" // a file or link that was there
	FileLinked   FileAction = "linked"     // a symlink was made
	FileMade     FileAction = "made"       // a directory was made
	FileDeleted  FileAction = "deleted"
	FileSkipped  FileAction = "skipped" // on purpose: no regular file, or a link that leads outside the tree
	FileFailed   FileAction = "failed"
)

// A FileReport says what became of an entry.
type FileReport struct {
	Path   string // below the directory that is mirrored; any bytes
	Action FileAction
	Type   EntryType // of what is up to date
	Size   int64     // of a file, in bytes
	Root   [32]byte  // of a file that was fetched or is up to date, its BLAKE3 hash
	Err    error     // why it was skipped or failed
}

// A MirrorReporter is told how a mirror goes. Methods of a Reporter that are about one file are not called.
type MirrorReporter interface {
	Reporter
	File(f FileReport)
}

// A MirrorResult is what became of a mirror.
type MirrorResult struct {
	Files, Fetched, UpToDate, Made, Linked, Deleted, Skipped, Failed int64
	Bytes                                                            int64 // of files that are in place, all of them
	Network                                                          int64 // proved bytes that were fetched
	Wasted                                                           int64 // bytes that came in vain
	Seconds                                                          float64
	Servers                                                          []ServerStatus
}

// A MirrorError says that some entries failed. Its Unwrap is the error that tells most.
type MirrorError struct {
	Failed int64
	Path   string // of the first
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

// Mirror fetches a tree from a primary and its secondaries into a directory. Each file is proved against its own root and put in place when
// it is whole; one that is there already is not fetched. What fails for one entry is reported, and the others go on; then the error is of
// the kind that tells most, and is a *MirrorError inside. Other errors are as those of Get. Another Mirror to the same target fetches only what
// is missing.
//
// The way of a file (docs/DESIGN.md, "Mirrors"): plan (mirror_plan.go) -> ask and compare (mirror_batch.go) -> receive (mirror_file.go) ->
// place (mirror_place.go).
func Mirror(ctx context.Context, o MirrorOptions, report MirrorReporter) (MirrorResult, error) {
	if o.OpenTree == nil {
		o.OpenTree = disk.OpenTree
	}
	m := &mirror{MirrorOptions: o, inquiry: o.inquiry(report), report: report, run: strings.ToLower(rand.Text()[:12]), opened: partfile.NewPool(maxOpenParts)}
	start := time.Now()
	err := m.all(ctx)
	m.result.Seconds = time.Since(start).Seconds()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m.result, err
}

// A mirror is one run. Its goroutines are those of one attempt (mirror_batch.go, mirror_place.go), which waits for them.
type mirror struct {
	MirrorOptions
	inquiry
	report MirrorReporter
	run    string // names the temporary files of this run
	root   disk.TreeDir
	lock   *partfile.PartFile
	cache  *disk.DirCache
	// folds says that the target's file system takes names that differ in case for the same.
	folds  bool
	live   liveStreams
	opened *partfile.Pool // the part files that are open

	mu     sync.Mutex // guards what follows
	result MirrorResult
	// worst is the error of an entry that tells most, and first the path of the first that failed.
	worst error
	first string
	fatal error // ends the attempt: nothing could be written any more
	stop  context.CancelCauseFunc
	// before counts the files that earlier attempts fetched: for this one they are up to date.
	before  int64
	volumes map[uint64]disk.Volume
}

// mirrorLock is the name of the file that a mirror holds a lock on, so that there is one for each target.
const mirrorLock = ".kwikcp-mirror.part"

func (m *mirror) all(ctx context.Context) error {
	root, err := m.OpenTree(m.Target, !m.DryRun)
	if m.DryRun && errors.Is(err, fs.ErrNotExist) {
		root, err = nil, nil
	}
	op := fmt.Sprintf("mirror into %q", m.Target)
	if err != nil {
		return LocalError(op, cause(err))
	}
	if root != nil {
		defer root.Close()
		m.root, m.cache = root, disk.NewDirCache(root)
		defer m.cache.Close()
	}
	if !m.DryRun {
		if err := m.hold(); err != nil {
			return err
		}
		defer m.unlock()
	}
	p := patience{m.Retries, m.RetryDelay, m.MaxTime, m.RetryMaxTime}
	return p.try(ctx, m.attempt, mayPass, m.observer.retry)
}

// hold takes the target's lock, and finds out how it takes names.
func (m *mirror) hold() error {
	lock, err := partfile.Place{Dir: m.cache.Dir(""), Name: mirrorLock}.Lock()
	if err != nil {
		op := fmt.Sprintf("mirror into %q", m.Target)
		if errors.Is(err, partfile.ErrBusy) {
			return &Error{Kind: KindBusy, Op: op, Err: errors.New("another kwikcp is mirroring into it")}
		}
		return LocalError(op, cause(err))
	}
	m.lock = lock
	_, err = m.root.Lstat(".KWIKCP-MIRROR.part")
	m.folds = err == nil
	return nil
}

func (m *mirror) unlock() { m.lock.Discard() }

// attempt makes the target what the tree is. It may be repeated: what is there already is found out anew.
func (m *mirror) attempt(ctx context.Context) (err error) {
	m.mu.Lock()
	m.before = m.result.Fetched
	m.result = MirrorResult{Fetched: m.result.Fetched, Deleted: m.result.Deleted, Made: m.result.Made, Linked: m.result.Linked, Network: m.result.Network, Wasted: m.result.Wasted}
	m.worst, m.first, m.fatal = nil, "", nil
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
	stop := m.watch()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.stop = cancel
	err = m.tree(inner)
	if seen := stop(); seen.Servers != nil {
		m.result.Servers = seen.Servers
	}
	return m.verdict(err)
}

// tree plans, fetches and places, then deletes, then fetches what had to wait for that.
func (m *mirror) tree(ctx context.Context) error {
	p := newPlan(m)
	err := m.round(ctx, p.walk)
	if err != nil || m.failure() != nil {
		return err
	}
	if m.Delete {
		p.delete(ctx)
		if ctx.Err() != nil { // not everything was deleted
			return context.Cause(ctx)
		}
		if len(p.late) > 0 {
			err = m.round(ctx, p.askLate)
		}
	}
	return errors.Join(err, m.syncVolumes())
}

// failure returns what ended the attempt, nil if nothing did.
func (m *mirror) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fatal
}

// verdict returns the error of an attempt that ended with err, which is about none of the entries.
func (m *mirror) verdict(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fatal != nil:
		return m.fatal
	case err != nil:
		return err
	case m.result.Failed == 0:
		if _, files, done := m.live.look(); files != done {
			return &Error{Kind: KindOther, Op: fmt.Sprintf("mirror into %q", m.Target), Err: fmt.Errorf("only %d of %d files are in place", done, files)} // cannot be
		}
		return nil
	}
	kind := KindOther
	if e, ok := errors.AsType[*Error](m.worst); ok {
		kind = e.Kind
	}
	return &Error{Kind: kind, Op: fmt.Sprintf("mirror into %q", m.Target), Err: &MirrorError{Failed: m.result.Failed, Path: m.first, Err: m.worst}}
}

// tellingKinds are kinds of errors, the one first that tells most when several entries failed.
var tellingKinds = []Kind{KindNoSpace, KindIntegrity, KindLocal, KindExists, KindBusy, KindRefused, KindChanged, KindNetwork, KindNotFound, KindOther}

func tells(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		for i, k := range tellingKinds {
			if k == e.Kind {
				return i
			}
		}
	}
	return len(tellingKinds)
}

// tell counts and reports what became of an entry. It is safe for concurrent use, as the Reporter is told one thing at a time.
func (m *mirror) tell(f FileReport) {
	m.mu.Lock()
	switch f.Action {
	case FileFetched:
		m.result.Fetched++
		m.result.Bytes += f.Size
	case FileUpToDate:
		switch m.result.Bytes += f.Size; {
		case f.Type != EntryFile:
		case m.before > 0:
			m.before-- // it was counted when it was fetched
		default:
			m.result.UpToDate++
		}
	case FileLinked:
		m.result.Linked++
	case FileMade:
		m.result.Made++
	case FileDeleted:
		m.result.Deleted++
	case FileSkipped:
		m.result.Skipped++
	case FileFailed:
		if m.result.Failed++; m.result.Failed == 1 {
			m.first = f.Path
		}
		if m.worst == nil || tells(f.Err) < tells(m.worst) {
			m.worst, m.first = f.Err, f.Path
		}
		if e, ok := errors.AsType[*Error](f.Err); ok && e.Kind == KindNoSpace && m.fatal == nil {
			m.fatal = &Error{Kind: e.Kind, Op: fmt.Sprintf("write %q", disk.JoinPath(m.Target, f.Path)), Err: e.Err}
			m.stop(m.fatal)
		}
	}
	m.mu.Unlock()
	m.observer.mu.Lock()
	defer m.observer.mu.Unlock()
	m.report.File(f)
}

// fail reports an entry that failed on this side.
func (m *mirror) fail(path, op string, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		m.tell(FileReport{Path: path, Action: FileFailed, Err: e})
		return
	}
	m.tell(FileReport{Path: path, Action: FileFailed, Err: LocalError(op, cause(err))})
}
