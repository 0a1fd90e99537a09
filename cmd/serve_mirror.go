package cmd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

// A mirrorConfig is how a secondary mirrors its primary.
type mirrorConfig struct {
	interval time.Duration
	delete   bool
	keep     keepOptions
	tokens   *tokens
}

// parseServeMirror returns nil without --mirror.
func parseServeMirror(o *serveOptions, role kwik.ServerRole) (*mirrorConfig, error) {
	if !o.mirror {
		for _, name := range []string{"mirror-interval", "mirror-delete", "token-file"} {
			if o.isSet(name) {
				return nil, usagef(adviseMirror, "--%s is for --mirror", name)
			}
		}
		return nil, o.keep.checkUnused(o.isSet, adviseMirror, "--mirror")
	}
	if err := o.keep.check(adviseMirror, false); err != nil {
		return nil, err
	}
	switch {
	case role != kwik.ServerRoleSecondary:
		return nil, usagef(adviseMirror, "--mirror is for secondaries")
	case o.mirrorInterval.Duration <= 0:
		return nil, usagef(adviseInterval, "--mirror-interval must be more than 0")
	}
	return &mirrorConfig{interval: o.mirrorInterval.Duration, delete: o.mirrorDelete, keep: o.keep}, nil
}

// keepMirror mirrors the primary, and again after each interval, until the server must leave. Until
// a round was complete, files are compared by their hashes; later rounds compare size and time. The
// server serves meanwhile.
func (s *runningServer) keepMirror() {
	o := transfer.MirrorOptions{Target: s.root, Delete: s.mirror.delete, OpenTree: protectedTree(s.secrets)}
	o.URL = s.primary
	s.mirror.keep.apply(&o)
	for {
		s.mirrorOnce(&o)
		select {
		case <-s.member.Done():
			return
		case <-time.After(s.mirror.interval):
		}
	}
}

// mirrorOnce is one round. Entries that fail are tried again in the next round.
func (s *runningServer) mirrorOnce(o *transfer.MirrorOptions) {
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
	result, err := transfer.Mirror(s.member, *o, &mirrorLog{log: log})
	if err != nil && s.policy.accepted(err) {
		result, err = transfer.Mirror(s.member, *o, &mirrorLog{log: log})
	}
	if s.member.Err() != nil {
		return
	}
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
		log.Warn("not mirrored, trying again", "err", message, "hint", hint, "in", s.mirror.interval)
	}
	o.Quick = o.Quick || err == nil
}

// A mirrorLog logs the entries of a mirror: failures as warnings, the rest for debugging.
type mirrorLog struct {
	transfer.NoReport
	log *slog.Logger
}

// File implements transfer.MirrorReporter.
func (m *mirrorLog) File(f transfer.FileReport) {
	level := slog.LevelDebug
	if f.Action == transfer.FileFailed {
		level = slog.LevelWarn
	}
	m.log.Log(context.Background(), level, "entry", "path", f.Path, "action", f.Action, "size", f.Size, "err", f.Err)
}
