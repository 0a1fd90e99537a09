package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Secrets are files and directories of the operating system, such as a server's key, its tokens
// and its state directory. They must not be reached through a directory that is served or
// mirrored into. They are known by identity (device and inode), so that it does not matter which
// link, mount or spelling of a name leads to them. A file that replaces a secret, and a directory
// that is made later, are secret from the next look on.
//
// concurrent use.
type Secrets struct {
	mu      sync.Mutex
	files   []string
	dirs    []secretDir
	exempt  []fs.FileInfo // directories that are served or mirrored into
	watched []watchedPath // every path on which current depends
	current identities
	retired identities // secrets that are no longer where they were, such as a directory that was renamed
	looked  time.Time  // when watched was last compared with the disk
	err     error      // why the secrets are not known; all is refused then
	limit   int        // maxSecrets, or less in a test
}

// A secretDir is a directory that is secret with everything below it.
type secretDir struct {
	path string
	// isOwn reports whether a name is one of the secret files in the directory, if the directory
	// itself is served.
	isOwn func(name string) bool
}

// A watchedPath is a path whose change makes another scan necessary.
type watchedPath struct {
	path string
	info fs.FileInfo // nil if there is nothing
	// racy is set if the directory changed so shortly before the scan that a later change may
	// leave the same time.
	racy bool
}

const (
	// maxSecrets bounds the files in secret directories, and the secrets that are remembered
	// after they have been moved.
	maxSecrets = 10_000
	// lookInterval is the age of the last look up to which it is good enough to list a name. For
	// the content of a file each open looks again.
	lookInterval = 10 * time.Millisecond
	// coarsestClock is the resolution of the times of the coarsest file systems.
	coarsestClock = 2 * time.Second
)

// ErrProtected is returned for a secret by the directory of [Secrets.Protect].
var ErrProtected = errors.New("it is a key, a token or the state of this kwikcp, which no mirror changes")

// NewSecrets returns an empty set of secrets.
func NewSecrets() *Secrets { return &Secrets{limit: maxSecrets} }

// AddFile adds a file. It need not exist yet. An empty path adds nothing.
func (s *Secrets) AddFile(path string) {
	if path == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, absolute(path))
	s.looked = time.Time{}
}

// AddDir adds a directory and everything below it. It need not exist yet. If the directory that
// is served is below it, what is served is not secret. If it is the same directory, only the
// files in it are secret whose names isOwn reports.
func (s *Secrets) AddDir(path string, isOwn func(name string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, secretDir{absolute(path), isOwn})
	s.looked = time.Time{}
}

// absolute keeps a path valid if the process changes its directory.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Check returns the reason why the secrets cannot be told from other files, nil if they can.
func (s *Secrets) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(time.Now(), 0)
	return s.err
}

// exemptDir makes everything below a directory that is served or mirrored into reachable,
// except for secrets in it.
func (s *Secrets) exemptDir(d Dir) error {
	info, err := d.Stat(".")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isExempt(info) {
		return nil
	}
	s.exempt = append(s.exempt, info)
	s.looked, s.current = time.Time{}, identities{} // no part of this directory was ever secret
	return nil
}

// ownNames returns the rule for the names of secret files in a directory that is itself secret;
// nil if it is not. Such a name is refused before its file exists.
func (s *Secrets) ownNames(d Dir) func(name string) bool {
	info, err := d.Stat(".")
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.dirs {
		if dir, err := os.Stat(secret.path); err == nil && os.SameFile(dir, info) {
			return secret.isOwn
		}
	}
	return nil
}

// has reports whether a file or directory is secret. maxAge is how old the last look may be.
func (s *Secrets) has(info fs.FileInfo, maxAge time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(time.Now(), maxAge)
	if s.err != nil {
		return true, s.err
	}
	return s.current.has(info) || s.retired.hasUnchanged(info), nil
}

// hasMovedDirs reports whether a secret directory is no longer where it was. Its files are then
// found by the directories on the way to them.
func (s *Secrets) hasMovedDirs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retired.dirs > 0
}

// look scans the secrets if a watched path has changed. The lock must be held.
func (s *Secrets) look(now time.Time, maxAge time.Duration) {
	if !s.looked.IsZero() && now.Sub(s.looked) < maxAge {
		return
	}
	isFirst := s.looked.IsZero()
	s.looked = now
	if isFirst || s.err != nil || s.changed() {
		s.scan(now)
	}
}

// changed reports whether a watched path has changed since the scan. The lock must be held.
func (s *Secrets) changed() bool {
	for _, w := range s.watched {
		info, err := os.Stat(w.path)
		switch exists := err == nil; {
		case w.racy, exists != (w.info != nil):
			return true
		case !exists:
		case !os.SameFile(info, w.info):
			return true
		case !info.ModTime().Equal(w.info.ModTime()):
			return true // a file, too: it is known by its time when it is moved
		}
	}
	return false
}

// scan finds the present secrets, and remembers those that are no longer in their places. The
// lock must be held.
func (s *Secrets) scan(now time.Time) {
	old := s.current
	s.current, s.watched, s.err = identities{}, nil, nil
	for _, path := range s.files {
		s.addFile(path)
	}
	for _, d := range s.dirs {
		s.addDir(d, now)
	}
	s.retired.addMissing(old, s.current)
}

// addFile adds what a path leads to. The lock must be held.
func (s *Secrets) addFile(path string) {
	info, err := os.Stat(path)
	if err != nil {
		info = nil // whatever appears there is a change
	}
	s.watched = append(s.watched, watchedPath{path: path, info: info})
	if info != nil {
		s.current.add(info)
	}
}

// addDir adds a directory of the configuration. The lock must be held.
func (s *Secrets) addDir(d secretDir, now time.Time) {
	info, err := os.Stat(d.path)
	switch {
	case err != nil:
		s.watched = append(s.watched, watchedPath{path: d.path})
	case !s.isExempt(info):
		s.addAll(d.path, info, now)
	default:
		s.addEntries(d.path, info, now, d.isOwn)
	}
}

// addAll adds a file or a directory with everything below it, except for exempt directories. The
// lock must be held.
func (s *Secrets) addAll(path string, info fs.FileInfo, now time.Time) {
	if s.isExempt(info) {
		return
	}
	s.current.add(info)
	if info.IsDir() {
		s.addEntries(path, info, now, func(string) bool { return true })
	}
}

// addEntries adds the entries of a directory whose names are wanted. The lock must be held.
func (s *Secrets) addEntries(path string, info fs.FileInfo, now time.Time, wanted func(name string) bool) {
	isRacy := now.Sub(info.ModTime()) < coarsestClock
	s.watched = append(s.watched, watchedPath{path, info, isRacy})
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return // it cannot be listed, and its own identity is known
	case err != nil:
		s.err = fmt.Errorf("looking for secrets: %w", err)
		return
	}
	for _, e := range entries {
		if !wanted(e.Name()) {
			continue
		}
		if len(s.current.infos) > s.limit {
			s.err = fmt.Errorf("%s has more than %d files, too many for kwikcp's own directory", path, s.limit)
			return
		}
		at := filepath.Join(path, e.Name())
		info, err := os.Lstat(at)
		if err != nil {
			continue // removed meanwhile
		}
		s.addAll(at, info, now)
		if info.Mode()&fs.ModeSymlink != 0 {
			if to, err := os.Stat(at); err != nil || to.Mode().IsRegular() {
				s.addFile(at) // such as a key that a container system mounts elsewhere
			}
		}
	}
}

func (s *Secrets) isExempt(info fs.FileInfo) bool {
	for _, e := range s.exempt {
		if os.SameFile(e, info) {
			return true
		}
	}
	return false
}

// identities is a set of files and directories, by device and inode where the system has them.
type identities struct {
	infos []fs.FileInfo
	byID  map[fileID][]fs.FileInfo
	dirs  int
}

// A fileID identifies a file on this system.
type fileID struct{ device, inode uint64 }

func (s *identities) add(info fs.FileInfo) {
	s.infos = append(s.infos, info)
	if info.IsDir() {
		s.dirs++
	}
	if id, ok := fileIDOf(info); ok {
		if s.byID == nil {
			s.byID = make(map[fileID][]fs.FileInfo)
		}
		s.byID[id] = append(s.byID[id], info)
	}
}

// same returns the descriptions of the same file in the set.
func (s *identities) same(info fs.FileInfo) []fs.FileInfo {
	if id, ok := fileIDOf(info); ok {
		return s.byID[id]
	}
	var same []fs.FileInfo
	for _, other := range s.infos {
		if os.SameFile(info, other) {
			same = append(same, other)
		}
	}
	return same
}

func (s *identities) has(info fs.FileInfo) bool { return len(s.same(info)) > 0 }

// hasUnchanged reports whether the set has the same file with the same size and time. Another
// file may have got the inode of a removed one.
func (s *identities) hasUnchanged(info fs.FileInfo) bool {
	for _, other := range s.same(info) {
		if info.ModTime().Equal(other.ModTime()) && (info.IsDir() && other.IsDir() || info.Size() == other.Size()) {
			return true
		}
	}
	return false
}

// addMissing adds the members of old that are not in current. Beyond maxSecrets it adds none.
func (s *identities) addMissing(old, current identities) {
	for _, info := range old.infos {
		if !current.has(info) && !s.hasUnchanged(info) && len(s.infos) < maxSecrets {
			s.add(info)
		}
	}
}
