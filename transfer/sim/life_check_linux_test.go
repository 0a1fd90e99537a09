package sim

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// isTemporary reports whether a path is that of a temporary entry, or below one.
func isTemporary(p string) bool { return strings.Contains("/"+p, "/.kwikcp-") }

// wants reports whether the filter of a mirror includes an entry and the directories around it.
func (m *lifeMirror) wants(p string, isDir bool) bool {
	if !m.options.Filter.Wants(p, isDir) {
		return false
	}
	up := path.Dir(p)
	return up == "." || m.wants(up, true)
}

// check checks a round.
func (m *lifeMirror) check(x *lifeRound, mount *simMount) {
	bad := func(format string, args ...any) {
		m.fault("mirror %d, round %d (%v): "+format, append([]any{m.index, m.rounds, x.err}, args...)...)
	}
	_, isPartial := errors.AsType[*transfer.MirrorError](x.err)
	_, isTooMany := errors.AsType[*transfer.DeleteLimitError](x.err)
	e, isOwn := asError(x.err)
	switch {
	case x.err == nil:
		m.good++
	case isPartial:
		m.partial++
	case isTooMany:
		m.limited++
	case isOwn:
		m.kinds[e.Kind]++
	case x.isKilled:
	default:
		bad("the error has no kind")
	}
	for _, bug := range []string{"files are in place", "is not possible", "panic"} {
		if x.err != nil && strings.Contains(x.err.Error(), bug) {
			bad("a bug")
		}
	}
	isStrange := errors.Is(x.err, disk.ErrUnmounted) // an empty disk, mounted under a running process
	if x.isClean && !x.wasEdited && !isStrange && x.err != nil && !isPartial && !isTooMany {
		bad("nothing was in trouble")
	}
	m.checkContents(x, bad)
	if !x.isMoved {
		m.checkLosses(x, bad)
		m.checkBackup(x, bad)
	}
	isComplete := x.err == nil || isPartial || isTooMany
	lacksSync := x.lacks(disk.OpSync, disk.OpSyncDir, disk.OpSyncVolume)
	m.hasUnsynced = lacksSync || m.hasUnsynced && !(isComplete && !x.isQuick)
	switch {
	case x.isKilled:
	case x.isMoved && !x.isMade && x.err == nil:
		bad("it succeeded although its root was replaced")
	case x.isMoved:
	case isComplete:
		m.checkEqual(x, isTooMany, x.err == nil, bad)
	}
	if x.err == nil && !x.isKilled && !x.isMoved {
		if x.isClean { // an error leaves some to the next round
			m.checkTemporary(x, bad)
		}
		m.checkDurable(x, bad)
	}
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if !m.serves && !x.isKilled && mount.opened != 0 {
		bad("%d handles are open", mount.opened)
	}
	if !x.isKilled && len(mount.locks) != 0 {
		bad("%d files are locked", len(mount.locks))
	}
}

// checkContents checks that the mirror has no wrong bytes, and that the filter holds.
func (m *lifeMirror) checkContents(x *lifeRound, bad func(string, ...any)) {
	for p, v := range x.after {
		if want, ok := m.foreign[p]; ok && !x.isAway && (!v.mode.IsRegular() || !bytes.Equal(v.data, want)) {
			bad("the excluded %q was changed", p)
		}
		if isTemporary(p) || m.foreign[p] != nil || x.before[p].equals(v) {
			continue
		}
		if !m.wants(p, v.mode.IsDir()) {
			if p != "private" || m.foreign == nil {
				bad("%q is excluded and there", p)
			}
			continue
		}
		isSame := func(o version) bool {
			return o.mode.Type() == v.mode.Type() && bytes.Equal(o.data, v.data) && o.target == v.target
		}
		if !slices.ContainsFunc(m.hist.ever(p), isSame) && !slices.ContainsFunc(m.hist.linked(m.hist.ever(p)), isSame) {
			bad("%q has a content that the primary never had: %d bytes of %v", p, len(v.data), v.mode)
		}
	}
	for p := range m.foreign {
		if x.isAway {
			break
		}
		if _, there := x.after[p]; !there {
			bad("the excluded %q is gone", p)
		}
	}
}

// checkLosses checks that nothing is gone that the primary had all the time, and that what is
// gone was reported and within the limit.
func (m *lifeMirror) checkLosses(x *lifeRound, bad func(string, ...any)) {
	total, gone := 0, 0
	for p, v := range x.before {
		if isTemporary(p) {
			continue
		}
		if m.wants(p, v.mode.IsDir()) { // the mirror does not count what stays anyway
			total++
		}
		now, there := x.after[p]
		versions, absent := m.hist.during(p, x.start, x.end)
		isSafe := !x.isCut || x.safe[p].node != nil
		if v.mode.IsRegular() && isSafe && !absent && m.wants(p, false) {
			isFileThroughout := !slices.ContainsFunc(versions, func(o version) bool { return !o.mode.IsRegular() })
			if isFileThroughout && (!there || !now.mode.IsRegular()) {
				bad("%q is gone, which the primary has: %v", p, now.mode)
			}
		}
		if there || x.isCut {
			continue
		}
		isReplaced := false
		for up := path.Dir(p); up != "."; up = path.Dir(up) {
			if n, ok := x.after[up]; ok && !n.mode.IsDir() {
				isReplaced = true
			}
		}
		gone++
		switch {
		case !m.options.Delete && !m.isNamed(x, p):
			bad("%q is gone, and nothing is to be deleted", p)
		case !x.report.deleted[p] && !x.isKilled && !m.isNamed(x, p):
			bad("%q is gone, which is not reported (replaced %t)", p, isReplaced)
		}
	}
	if m.options.Retries > 0 || m.isOver > 3 {
		return
	}
	isExceeded := false
	switch m.limit {
	case "":
		isExceeded = total >= 10 && gone*2 > total
	case "0":
		isExceeded = gone > 0
	case "3":
		isExceeded = gone > 3
	case "30%":
		isExceeded = gone*100 > total*30
	}
	if isExceeded {
		bad("%d of %d entries were deleted, the limit is %q", gone, total, m.limit)
	}
}

// checkBackup checks that what was deleted or replaced is in the backup.
func (m *lifeMirror) checkBackup(x *lifeRound, bad func(string, ...any)) {
	if !m.backup || x.isCut || m.options.Retries > 0 {
		return
	}
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	kept := treeOf(m.backups, false)
	for p, v := range x.before {
		now := x.after[p]
		if !v.mode.IsRegular() || isTemporary(p) || bytes.Equal(now.data, v.data) && now.mode.IsRegular() {
			continue
		}
		if k, ok := kept[p]; !ok || !bytes.Equal(k.data, v.data) {
			bad("%q was replaced or deleted, and is not in the backup (%t)", p, ok)
		}
	}
}

// checkEqual checks that the mirror is what the primary was during the round, but for the
// entries that the report names. Entries that the primary does not have count if all is set.
// With isLimited nothing was deleted, neither the directories in the place of other entries.
func (m *lifeMirror) checkEqual(x *lifeRound, isLimited, all bool, bad func(string, ...any)) {
	paths := make(map[string]bool)
	for p := range x.after {
		paths[p] = true
	}
	m.hist.mu.Lock()
	for p := range m.hist.paths {
		paths[p] = true
	}
	m.hist.mu.Unlock()
	for p := range paths {
		got, there := x.after[p]
		versions, absent := m.hist.during(p, x.start, x.end)
		if isTemporary(p) || !m.wants(p, there && got.mode.IsDir()) || m.foreign[p] != nil || m.isNamed(x, p) {
			continue
		}
		if got.links > 1 { // it was linked to another name of the file, which changed since
			versions = append(versions, m.hist.linked(versions)...)
		}
		before := len(versions)
		versions = slices.DeleteFunc(versions, func(v version) bool { return !m.wants(p, v.mode.IsDir()) })
		absent = absent || len(versions) < before
		switch {
		case len(versions) == 0 && !there, !there && absent:
		case isLimited && got.mode.IsDir() && slices.ContainsFunc(versions, func(v version) bool { return !isDir(v) }):
		case len(versions) == 0:
			if all && m.options.Delete && !m.isAround(p) && !x.report.isAroundHeld(p) {
				bad("%q is there, and was not on the primary", p)
			}
		case !there:
			bad("%q is missing", p)
		default:
			// A directory that went from the primary stays around what may not be deleted.
			mayStay := absent && (!all || !m.options.Delete ||
				isDir(got) && (m.isAround(p) || x.report.isAroundHeld(p)))
			if why := m.differs(x, got, versions); why != "" && !mayStay {
				bad("%q differs: %s; there is %v, %d bytes, of %v", p, why, got.mode, len(got.data), got.mtime)
			}
		}
	}
}

// isAround reports whether a directory contains files that the filter excludes.
func (m *lifeMirror) isAround(p string) bool {
	for f := range m.foreign {
		if strings.HasPrefix(f, p+"/") {
			return true
		}
	}
	return false
}

// lacks reports whether a round warned that one of some operations is not possible.
func (x *lifeRound) lacks(ops ...disk.Operation) bool {
	return slices.ContainsFunc(x.result.Warnings, func(w transfer.Warning) bool {
		return slices.Contains(ops, w.Operation)
	})
}

// isAroundHeld reports whether a directory contains files that may have moved.
func (r *lifeReport) isAroundHeld(p string) bool {
	for f, err := range r.named {
		if strings.HasPrefix(f, p+"/") && errors.Is(err, transfer.ErrMoved) {
			return true
		}
	}
	return false
}

// isNamed reports whether the report names a path, or a directory around it.
func (m *lifeMirror) isNamed(x *lifeRound, p string) bool {
	for ; p != "."; p = path.Dir(p) {
		if x.report.named[p] != nil {
			return true
		}
	}
	return x.report.named["."] != nil
}

// differs returns how an entry differs from all versions; "" if it does not from one. Content,
// mode and time may be of different versions. A disk may refuse to set mode or time, of which the
// round warns.
func (m *lifeMirror) differs(x *lifeRound, got version, versions []version) string {
	is := func(f func(v version) bool) bool { return slices.ContainsFunc(versions, f) }
	window := m.mirrorPlan.step
	sameTime := func(v version) bool { return got.mtime.Sub(v.mtime).Abs() <= max(0, window-1) }
	switch {
	case !is(func(v version) bool { return v.mode.Type() == got.mode.Type() }):
		return "its type"
	case got.mode&fs.ModeSymlink != 0:
		if !is(func(v version) bool { return v.target == got.target }) {
			return "its target"
		}
		return ""
	case got.mode.IsRegular() && !is(func(v version) bool { return bytes.Equal(v.data, got.data) }):
		if x.isQuick && m.steps && is(func(v version) bool { return m.hides(v, got, window) }) {
			return ""
		}
		return "its content"
	case !is(sameTime) && !x.lacks(disk.OpTimes):
		return "its time: " + versions[0].mtime.String()
	case !is(func(v version) bool { return v.mode&^disk.Umask == got.mode }) && !x.lacks(disk.OpMode):
		return "its mode: " + versions[0].mode.String()
	}
	return ""
}

// hides reports whether a version of a file has the size and time of an older one, which the mirror
// has. MinAge keeps a quick mirror from taking the older one, but not if the clock of the
// primary's disk is wrong. A file that has just changed then has a time long ago.
func (m *lifeMirror) hides(v, got version, window time.Duration) bool {
	return len(v.data) == len(got.data) && slices.ContainsFunc(m.hist.linked([]version{v}), func(old version) bool {
		return bytes.Equal(old.data, got.data) && old.mtime.Sub(v.mtime).Abs() <= max(0, window-1)
	})
}

// checkTemporary checks that a round that succeeded left no temporary files. Those of entries
// that were too young wait for the next round.
func (m *lifeMirror) checkTemporary(x *lifeRound, bad func(string, ...any)) {
	for _, err := range x.report.named {
		if errors.Is(err, transfer.ErrYoung) {
			return
		}
	}
	for p := range x.after {
		switch {
		case !isTemporary(p):
		case !m.visits(x, path.Dir(p)):
		case strings.HasSuffix(p, ".new"), m.options.Delete:
			bad("the temporary %q is left", p)
		}
	}
}

// visits reports whether a round that succeeded looked into a directory. Without Delete it does
// not if the primary does not have the directory.
func (m *lifeMirror) visits(x *lifeRound, dir string) bool {
	if dir == "." {
		return true
	}
	versions, absent := m.hist.during(dir, x.start, x.end)
	isListed := !absent && !slices.ContainsFunc(versions, func(v version) bool { return !v.mode.IsDir() })
	return m.wants(dir, true) && (m.options.Delete || isListed)
}

// checkDurable checks that a power cut leaves what a round that succeeded has put in place.
//
// A quick round that knows nothing of the round before does not sync what that one could not, if
// directories are synced one by one. No round then syncs directories in which it does not look.
func (m *lifeMirror) checkDurable(x *lifeRound, bad func(string, ...any)) {
	if m.quick && !m.serves && !m.syncsWhole || m.hasUnsynced {
		return
	}
	_, safe := m.trees()
	for p, v := range x.after {
		if isTemporary(p) || m.foreign[p] != nil || !m.wants(p, v.mode.IsDir()) || v.mode.IsDir() {
			continue
		}
		if !m.syncsWhole && !m.visits(x, path.Dir(p)) {
			continue
		}
		s, ok := safe[p]
		if !ok || !bytes.Equal(s.data, v.data) {
			bad("%q would not survive a power cut: there %t, %d bytes", p, ok, len(s.data))
		}
	}
}

// checkLinks checks that names of one file are so on the mirror.
func (m *lifeMirror) checkLinks(x *lifeRound) {
	if m.options.NoHardLinks || x.result.NotKept.HardLinks > 0 || x.result.Skipped > 0 {
		return
	}
	first := make(map[*simNode]string)
	for p := range x.after {
		versions, _ := m.hist.during(p, x.start, x.end)
		if len(versions) != 1 || !versions[0].mode.IsRegular() || !m.wants(p, false) {
			continue
		}
		node := versions[0].node
		if other, ok := first[node]; ok && x.after[other].node != x.after[p].node {
			m.fault("mirror %d: %q and %q are one file on the primary", m.index, p, other)
		}
		first[node] = p
	}
}
