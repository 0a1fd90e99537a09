// Package watch finds out that files have changed, by polling: that works on every file system, and
// for files that are replaced by a rename or through a symbolic link.
package watch

import (
	"context"
	"os"
	"time"
)

// Interval is the time between two looks at the files.
const Interval = 2 * time.Second

// A Files is a set of files with the versions that were seen last. One goroutine uses it.
type Files struct {
	names []string
	infos []os.FileInfo // nil for a file that could not be examined
}

// NewFiles examines the files. Changes count from now on. Empty names are left out.
func NewFiles(names ...string) *Files {
	f := &Files{}
	for _, name := range names {
		if name != "" {
			f.names, f.infos = append(f.names, name), append(f.infos, examine(name))
		}
	}
	return f
}

// Changed examines the files again. It reports whether one of them has changed since the last time:
// its identity, size or modification time, or whether there is such a file.
func (f *Files) Changed() bool {
	changed := false
	for i, name := range f.names {
		info := examine(name)
		changed = changed || !same(f.infos[i], info)
		f.infos[i] = info
	}
	return changed
}

// Run calls reload whenever a file has changed, and for each element of now, until ctx ends. now may
// be nil.
func (f *Files) Run(ctx context.Context, now <-chan os.Signal, reload func()) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-now:
			f.Changed()
			reload()
		case <-ticker.C:
			if f.Changed() {
				reload()
			}
		}
	}
}

func examine(name string) os.FileInfo {
	info, err := os.Stat(name)
	if err != nil {
		return nil
	}
	return info
}

func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
