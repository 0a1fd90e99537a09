package serve

import (
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"maps"
	"slices"
	"sync"
)

// maxSuspects bounds the files that a server remembers as damaged. It finds others again when they
// are challenged.
const maxSuspects = 4096

// suspects are the files whose content a server has found to be wrong for their version. The
// version had another content before, or the primary's file of the same size and time has another.
// A secondary does not serve such a version, and a mirror fetches the file again.
type suspects struct {
	mu    sync.Mutex
	files map[string]disk.Version // by path
}

// errCopyDamaged is the error of a secondary whose copy is damaged. It excuses the secondary when
// the primary challenges it.
var errCopyDamaged = kwik.NewError(kwik.ErrContentChanged, "its copy is damaged")

// mark makes a version of a file a suspect. It reports whether it was none.
func (s *suspects) mark(path string, version disk.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.files[path]; ok && known == version {
		return false
	}
	if s.files == nil {
		s.files = make(map[string]disk.Version)
	}
	if len(s.files) < maxSuspects {
		s.files[path] = version
	}
	return true
}

// has reports whether a version of a file is a suspect. Another version is not, and the path is
// forgotten then.
func (s *suspects) has(path string, version disk.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.files[path]
	if ok && known != version {
		delete(s.files, path)
	}
	return ok && known == version
}

func (s *suspects) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.files))
}

func (s *suspects) clear(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
}

// Suspects returns the paths of the files that the server has found to be damaged, although their
// sizes and times are right. A mirror should compare them with its source by content, and then call
// Trust.
func (s *Server) Suspects() []string { return s.suspects.paths() }

// Trust ends the suspicion of a file, after its content was compared with its source.
func (s *Server) Trust(path string) { s.suspects.clear(path) }

// suspect marks a file as damaged and drops the trees of that version. It logs the first time.
func (s *Server) suspect(path string, version disk.Version, how string) {
	s.index.drop(path, version)
	if s.suspects.mark(path, version) {
		s.log.Error("file is damaged: its content changed, although its size and time did not",
			"path", path, "found_by", how)
	}
}

// suspectStale marks a copy that has the size and time of the primary's file, but another root.
func (s *Server) suspectStale(path string, version disk.Version, size, mtime int64) {
	if version.Size == size && version.MTime == mtime {
		s.suspect(path, version, "comparison with the primary")
	}
}

// drop drops the trees of a version of a file, from the index and its store.
func (x *index) drop(path string, version disk.Version) {
	if tree := x.treeOf(path, version); tree != nil {
		x.forget(path, version, tree)
	}
}
