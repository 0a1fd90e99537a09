package serve

import (
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"sync"
	"time"
)

// This file is what a server does with a TreeStore. The store is a cache: its failures are logged
// and cost hashing.

// KeepTrees makes the server store the trees that it computes, and use those that are stored. It
// must be called before Serve, at most once. In the background it removes the records of files
// that have changed, unless the root is remote: each look would be a request. Close ends that. The
// caller closes store, after Close.
func (s *Server) KeepTrees(store *TreeStore) {
	s.index.store = store
	s.index.reportDamage()
	if s.caps.IsRemote {
		return
	}
	s.tasks.Go(func() {
		if err := store.sweep(s.ctx, s.dir); err != nil {
			s.log.Warn("stale records of the tree store not removed", "err", err)
		}
	})
}

// damageInterval is the shortest time between two log lines about damage of the store.
const damageInterval = 10 * time.Minute

// A storeLog decides what is logged about a store.
type storeLog struct {
	mu        sync.Mutex
	isFailing bool      // whether the last tree could not be stored
	damaged   time.Time // of the last log line about damage
}

// reportDamage logs damage of the store that was found.
func (x *index) reportDamage() {
	damage := x.store.takeDamage()
	if damage == nil {
		return
	}
	l := &x.storeLog
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.damaged.IsZero() || time.Since(l.damaged) >= damageInterval {
		l.damaged = time.Now()
		x.log.Warn("index of hash trees is damaged; its files are hashed again", "err", damage)
	}
}

// keep stores the tree of a version of a file that was hashed from a time on, and publishes it.
func (x *index) keep(path string, version disk.Version, tree *integrity.Tree, hashed time.Time) {
	if isStorable(path, version, hashed) {
		x.shared.publish(path, version, tree)
	}
	x.keepLocal(path, version, tree, hashed)
}

// keepLocal stores a tree in the store. It logs when trees cannot be stored any more.
func (x *index) keepLocal(path string, version disk.Version, tree *integrity.Tree, hashed time.Time) {
	if x.store == nil {
		return
	}
	err := x.store.put(path, version, tree, hashed)
	x.reportDamage()
	l := &x.storeLog
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !l.isFailing {
		x.log.Warn("hash trees cannot be stored; files are hashed again after a restart", "err", err)
	}
	l.isFailing = err != nil
}

// known returns the tree of an entry from the store, or from those that servers share; nil if
// neither has it.
func (x *index) known(e *indexEntry) *integrity.Tree {
	now := time.Now()
	if e.version.IsRacy(now) {
		return nil
	}
	if x.store != nil {
		tree := x.store.get(e.path, e.version)
		x.reportDamage()
		if tree != nil {
			return tree
		}
	}
	tree := x.shared.get(x.ctx, e.path, e.version)
	if tree != nil {
		x.keepLocal(e.path, e.version, tree, now)
	}
	return tree
}
