package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

// A mirrorPlan says how a secondary keeps its root what the primary's is.
type mirrorPlan struct {
	interval time.Duration
	delete   bool
}

// parseMirrorPlan returns nil without --mirror.
func parseMirrorPlan(c *cli.Context, role kwik.ServerRole) (*mirrorPlan, error) {
	const help = "kwikcp serve --role secondary --primary URL --root DIR --mirror"
	if !c.Bool("mirror") {
		for _, flag := range []string{"mirror-interval", "mirror-delete"} {
			if c.IsSet(flag) {
				return nil, usageError{fmt.Errorf("--%s is for --mirror", flag), help}
			}
		}
		return nil, nil
	}
	p := &mirrorPlan{interval: seconds(c, "mirror-interval"), delete: c.Bool("mirror-delete")}
	switch {
	case role != kwik.ServerRoleSecondary:
		return nil, usageError{errors.New("--mirror is for secondaries"), help}
	case p.interval <= 0:
		return nil, usageError{errors.New("--mirror-interval must be more than 0"), "such as 60 or 1m"}
	}
	return p, nil
}

// keepMirror fetches what the primary has, and again what changed, until the secondary is to leave. The first round compares all that is here by its
// hash, later ones by size and time. Meanwhile the server serves what it has.
func (s *runningServer) keepMirror() {
	o := transfer.MirrorOptions{Target: s.o.root, Delete: s.o.mirror.delete}
	o.URL = s.o.primary
	for {
		s.mirrorOnce(&o)
		select {
		case <-s.member.Done():
			return
		case <-time.After(s.o.mirror.interval):
		}
	}
}

// mirrorOnce is one round. What failed is tried again in the next.
func (s *runningServer) mirrorOnce(o *transfer.MirrorOptions) {
	log := s.o.log.With("primary", s.o.primary.Host)
	traced, err := quicConfig()
	if err != nil {
		log.Error("not mirrored", "err", err)
		return
	}
	o.TLS, o.KWIK = s.o.policy.config(o.URL), &kwik.ClientConfig{Config: kwik.Config{QUIC: traced}}
	result, err := transfer.Mirror(s.member, *o, &mirrorLog{log: log})
	if err != nil && s.o.policy.accepted(err) {
		result, err = transfer.Mirror(s.member, *o, &mirrorLog{log: log})
	}
	if s.member.Err() != nil {
		return
	}
	log = log.With("files", result.Files, "fetched", result.Fetched, "bytes", result.Network, "deleted", result.Deleted, "failed", result.Failed, "seconds", result.Seconds)
	switch _, some := errors.AsType[*transfer.MirrorError](err); {
	case err == nil && o.Quick && result.Fetched+result.Deleted+result.Made+result.Linked == 0:
		log.Debug("mirrored, nothing changed")
	case err == nil:
		log.Info("mirrored")
	case some:
		log.Warn("mirrored but for some entries", "err", err)
	default:
		_, message, hint := explain(err)
		log.Warn("not mirrored, trying again", "err", message, "hint", hint, "in", s.o.mirror.interval)
	}
	o.Quick = o.Quick || err == nil
}

// A mirrorLog writes what fails in a mirror to a server's log.
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
