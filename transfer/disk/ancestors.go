package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// An Ancestor is a directory, or one that contains it.
type Ancestor struct {
	Path string // absolute and without links
	Info fs.FileInfo
}

// Ancestors returns the directory at a path and all directories above it, the innermost first. A
// path that does not exist begins with the nearest directory above that does. Links are resolved
// first, so that the result has the directories that contain the files.
func Ancestors(path string) ([]Ancestor, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(at)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at {
		at = filepath.Dir(at)
		real, err = filepath.EvalSymlinks(at)
	}
	if err != nil {
		return nil, err
	}
	var all []Ancestor
	for {
		info, err := os.Stat(real)
		if err != nil {
			return nil, err
		}
		all = append(all, Ancestor{real, info})
		up := filepath.Dir(real)
		if up == real {
			return all, nil
		}
		real = up
	}
}

// Nested reports whether one of two directories is the other, or contains it. They need not exist.
func Nested(a, b string) (bool, error) {
	above, err := Ancestors(a)
	if err != nil {
		return false, err
	}
	below, err := Ancestors(b)
	if err != nil {
		return false, err
	}
	return isAmong(above[0].Info, below) && exists(a) || isAmong(below[0].Info, above) && exists(b), nil
}

func isAmong(info fs.FileInfo, all []Ancestor) bool {
	for _, a := range all {
		if os.SameFile(info, a.Info) {
			return true
		}
	}
	return false
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
