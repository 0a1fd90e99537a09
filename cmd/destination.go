package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// A destination is where get puts its files, besides the names of the command line.
type destination struct {
	prefix   string // a directory for relative names; empty for the current one
	makeDirs bool   // make the missing directories of a file
}

func prefixOption(to *string) cli.Flag {
	return stringOption(to, "directory-prefix", "put files below the directory `DIR`, and make it and their "+
		"directories if they are missing", "P")
}

func makeDirsOption(to *bool) cli.Flag {
	return boolOption(to, "make-dirs", "make the missing directories of FILE, or of DEST")
}

// makesDirs reports whether missing directories are made.
func (d destination) makesDirs() bool { return d.makeDirs || d.prefix != "" }

// place returns the name of a target below the prefix. Absolute names stay.
func (d destination) place(target string) string {
	if d.prefix == "" || filepath.IsAbs(target) {
		return target
	}
	// Not cleaned: "link/.." is the parent of the directory that the link leads to.
	return d.prefix + string(filepath.Separator) + target
}

// madeDirs are the directories that were made for files. It removes those that stayed empty because
// their gets failed. It is safe for concurrent use.
type madeDirs struct {
	mu   sync.Mutex
	made map[string]int // how many running gets need each directory that was made and may be removed
}

// dirOf returns the directory of a file. It is not cleaned: "link/.." is the parent of the
// directory that the link leads to.
func dirOf(name string) string {
	name = strings.TrimRight(name, string(filepath.Separator))
	end := len(name)
	for end > 0 && !os.IsPathSeparator(name[end-1]) {
		end--
	}
	if end == 0 {
		return "."
	}
	return name[:end]
}

// make makes a directory and those above it. The caller must call release.
func (m *madeDirs) make(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made == nil {
		m.made = make(map[string]int)
	}
	var missing []string
	_, err := os.Stat(dir)
	for at := filepath.Clean(dir); err != nil && at != filepath.Dir(at); _, err = os.Stat(at) {
		missing = append(missing, at)
		at = filepath.Dir(at)
	}
	for _, at := range slices.Backward(missing) {
		if err := os.Mkdir(at, 0o777); err == nil {
			m.made[at] = 0
		} else if !os.IsExist(err) {
			m.removeEmpty(dir)
			return transfer.LocalError(fmt.Sprintf("make the directory %q", at), err)
		}
	}
	m.each(dir, func(at string) { m.made[at]++ })
	return nil
}

// release ends the use of a directory. hasFile is set if there is a file in it.
func (m *madeDirs) release(dir string, hasFile bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.each(dir, func(at string) {
		if m.made[at]--; hasFile {
			delete(m.made, at)
		}
	})
	m.removeEmpty(dir)
}

// removeEmpty removes the directories that no get needs. The caller holds the lock.
func (m *madeDirs) removeEmpty(dir string) {
	m.each(dir, func(at string) {
		if m.made[at] == 0 {
			os.Remove(at) // fails if another program has put something there
			delete(m.made, at)
		}
	})
}

// each calls f for those of a directory and the ones above it that were made, the lowest first. The
// caller holds the lock.
func (m *madeDirs) each(dir string, f func(at string)) {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, isMade := m.made[at]; isMade {
			f(at)
		}
		if at == filepath.Dir(at) {
			return
		}
	}
}
