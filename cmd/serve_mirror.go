package cmd

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
)

// A mirrorConfig is how a secondary mirrors its primary.
type mirrorConfig struct {
	interval time.Duration
	deletes  deletion
	noSparse bool
	keep     keepOptions

	preallocate disk.Preallocation
	tokens      *tokens
}

// parseServeMirror returns nil without --mirror.
func parseServeMirror(o *serveOptions, role kwik.ServerRole) (*mirrorConfig, error) {
	if !o.mirror {
		for _, name := range needing("mirror") {
			if o.isSet(name) {
				return nil, usagef(adviseMirror, "--%s is for --mirror", name)
			}
		}
		return nil, nil
	}
	if err := o.keep.check(adviseMirror, false); err != nil {
		return nil, err
	}
	switch {
	case role != kwik.ServerRoleSecondary:
		return nil, usagef(adviseMirror, "--mirror is for secondaries")
	case !o.isSet("root"):
		return nil, usagef(adviseMirror, "--mirror overwrites what is in the root, so --root is needed")
	case o.mirrorInterval.Duration == 0:
		return nil, usagef(adviseInterval, "--mirror-interval must be more than 0")
	}
	if err := o.sparse.check(); err != nil {
		return nil, err
	}
	deletes, err := o.deletes.parse("mirror-delete")
	if err != nil {
		return nil, err
	}
	preallocate, err := parsePreallocate(o.preallocate)
	if err != nil {
		return nil, err
	}
	return &mirrorConfig{
		preallocate: preallocate,

		interval: o.mirrorInterval.Duration, deletes: deletes, noSparse: o.sparse.off, keep: o.keep,
	}, nil
}

// keepMirror mirrors the primary, and again after each interval, until the server must leave. Files
// that were too young are looked at again sooner. Until a round was complete, files are compared by
// their hashes; later rounds compare size and time. The server serves meanwhile.
func (s *runningServer) keepMirror() {
	o := transfer.MirrorOptions{Target: s.root, NoSparse: s.mirror.noSparse, OpenTree: s.openTarget,
		Preallocate: s.mirror.preallocate, Web: transfer.WebOptions{Roots: s.policy.roots}}
	o.URL = s.primary
	if o.Paths = s.paths; s.exclude != nil {
		o.Filter = s.exclude.filter
	}
	s.mirror.deletes.set(&o)
	s.mirror.keep.apply(&o)
	o.Pair = &transfer.MirrorPair{}
	defer o.Pair.Close()
	memory := &mirrorMemory{}
	for {
		s.mirrorOnce(o, memory)
		wait := s.mirror.interval
		if memory.HasYoung() {
			wait = min(wait, max(o.MinAge, time.Second))
		}
		select {
		case <-s.member.Done():
			return
		case <-time.After(wait):
		}
	}
}

// openTarget opens a directory to mirror into. A root that is gone is an error. So is one that is
// not the root of the start, even if it is served. It is no copy of the primary's, and a round
// would delete what is in it.
func (s *runningServer) openTarget(path string, create bool) (disk.TreeDir, error) {
	open := protectedTree(s.secrets)
	if path != s.root {
		return open(path, create)
	}
	if err := s.checkTarget(); err != nil {
		return nil, err
	}
	tree, err := open(path, false)
	if err != nil {
		return nil, err
	}
	if err := s.checkTarget(); err != nil { // it was replaced meanwhile
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// checkTarget returns an error if the root is not that of the start, or is not served.
func (s *runningServer) checkTarget() error {
	if err := disk.CheckPath(s.target, s.root); err != nil {
		return err
	}
	served, ok := source.LocalDir(s.served)
	if !ok {
		return errors.New("the root is not a local directory") // cannot happen: it is the target of a mirror
	}
	return disk.CheckPath(served, s.root)
}

// mirrorOnce is one round. Entries that fail are tried again in the next round.
func (s *runningServer) mirrorOnce(o transfer.MirrorOptions, memory *mirrorMemory) {
	log := s.log.With("primary", s.primary.Host)
	traced, err := quicConfig()
	if err != nil {
		log.Error("not mirrored", "err", err)
		return
	}
	s.mirror.tokens.refresh()
	token, err := s.mirror.tokens.forServer(o.URL.Host)
	if err != nil {
		log.Error("not mirrored", "err", err)
		return
	}
	o.TLS = presenting(s.policy.config(o.URL, token != ""), s.ownCertificate())
	o.KWIK = &kwik.ClientConfig{Config: kwik.Config{QUIC: traced}, Credential: []byte(token)}
	suspects := s.files.Suspects()
	memory.Prepare(&o, suspects)
	entries := &mirrorLog{log: log, memory: memory}
	result, err := transfer.Mirror(s.member, o, entries)
	if err != nil && s.policy.accepted(err) {
		result, err = transfer.Mirror(s.member, o, entries)
	}
	memory.left = entries.left
	if isComplete := memory.Learn(err); isComplete {
		for _, path := range suspects {
			if !memory.HasFailed(path) { // it was compared, and fetched if it differed
				s.files.Trust(path)
			}
		}
	}
	if s.member.Err() != nil {
		return
	}
	memory.warned.log(log, result.Warnings)
	log = log.With("files", result.Files, "fetched", result.Fetched, "bytes", result.Network,
		"copied", result.Copied, "hard_linked", result.HardLinked, "deleted", result.Deleted,
		"failed", result.Failed, "seconds", result.Seconds)
	log = logLosses(log, result.NotKept)
	changes := result.Fetched + result.Copied + result.Deleted + result.Made + result.Created + result.Linked +
		result.HardLinked
	unchanged := changes == 0
	switch _, partial := errors.AsType[*transfer.MirrorError](err); {
	case err == nil && o.Quick && unchanged:
		log.Debug("mirrored, nothing changed")
	case err == nil:
		log.Info("mirrored")
	case partial:
		log.Warn("mirrored except for some entries", "err", err)
	default:
		_, message, hint := explain(err)
		level := slog.LevelWarn
		if e, ok := errors.AsType[*transfer.Error](err); ok && slices.Contains(operatorKinds, e.Kind) {
			level = slog.LevelError
		}
		log.Log(s.member, level, "not mirrored, trying again", "err", message, "hint", hint, "in", s.mirror.interval)
	}
}

// operatorKinds are the kinds of errors that stay until the operator does something.
var operatorKinds = []transfer.Kind{transfer.KindDeleteLimit, transfer.KindLoop}

// A mirrorMemory is what a round knows from the rounds before.
type mirrorMemory struct {
	transfer.MirrorMemory
	warned warningMemory
	left   map[string]bool // the entries that the last round left for what is in their place
}

// A mirrorLog logs the entries of a mirror: failures as warnings, what was deleted for information,
// the rest for debugging. An entry that is left for what is in its place is logged for information,
// too, but not in each round.
type mirrorLog struct {
	transfer.NoReport
	log    *slog.Logger
	memory *mirrorMemory
	left   map[string]bool // the entries that this round leaves, at most maxLeft
}

// maxLeft bounds the entries of which a mirror remembers that it left them.
const maxLeft = 10_000

// File implements transfer.MirrorReporter.
func (m *mirrorLog) File(f transfer.FileReport) {
	m.memory.Note(f)
	if f.Action == transfer.FileDeleted {
		m.log.Info("deleted", "path", f.Path)
		return
	}
	level := slog.LevelDebug
	if m.leaves(f) {
		level = slog.LevelInfo
	}
	if f.Action == transfer.FileFailed {
		level = slog.LevelWarn
	}
	m.log.Log(context.Background(), level, "entry", "path", f.Path, "action", f.Action, "size", f.Size, "err", f.Err)
}

// leaves remembers an entry that is left for what is in its place. It reports whether that is news.
func (m *mirrorLog) leaves(f transfer.FileReport) bool {
	isLeft := slices.ContainsFunc([]error{transfer.ErrNewer, transfer.ErrElsewhere, transfer.ErrMoved, disk.ErrProtected},
		func(reason error) bool { return errors.Is(f.Err, reason) })
	if f.Action != transfer.FileSkipped || !isLeft || len(m.left) >= maxLeft {
		return false
	}
	if m.left == nil {
		m.left = make(map[string]bool)
	}
	m.left[f.Path] = true
	return !m.memory.left[f.Path]
}
