package transfer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// A SpaceError reports that a file does not fit.
type SpaceError = disk.SpaceError

// openPart opens the part file for the file at path. It fails if path is a directory or cannot
// be written, and with NoClobber if it exists.
func (g *get) openPart() (*partfile.PartFile, error) {
	op := fmt.Sprintf("write %q", g.path)
	parent, name := filepath.Split(g.path)
	if parent == "" {
		parent = "."
	}
	if name == "" || name == "." || name == ".." {
		return nil, LocalError(op, ErrIsDirectory)
	}
	dir, err := g.OpenDir(parent)
	if err != nil {
		parent = strings.TrimSuffix(parent, string(filepath.Separator))
		return nil, LocalError(op, fmt.Errorf("directory %q: %w", parent, disk.Cause(err)))
	}
	place := partfile.Place{Dir: dir, Name: name, Lacks: &g.lacks}
	p, err := place.Open(partfile.Options{NoClobber: g.NoClobber, SyncName: true, Preallocate: g.Preallocate})
	if isUnwritable(err) {
		if err = g.openBlocked(place, targetError(g.path, err)); err == nil {
			return nil, nil
		}
	}
	if err != nil {
		dir.Close()
		return nil, targetError(g.path, err)
	}
	return p, nil
}

// targetError wraps an error of the part file of the target at path. It returns an *Error as it is.
func targetError(path string, err error) error {
	op := fmt.Sprintf("write %q", path)
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, partfile.ErrBusy):
		return &Error{Kind: KindBusy, Op: op, Err: partfile.ErrBusy}
	case errors.Is(err, partfile.ErrExists):
		return &Error{Kind: KindExists, Op: op, Err: partfile.ErrExists}
	}
	return LocalError(op, err)
}

// targetErrorIn is targetError for a method that takes a context: the cause of ctx stays as it is.
func targetErrorIn(ctx context.Context, path string, err error) error {
	if err == nil || ctx.Err() != nil && err == context.Cause(ctx) {
		return err
	}
	return targetError(path, err)
}

// A targetWriter is a part file as the aggregate stream writes to it: the errors name the target.
type targetWriter struct {
	part *partfile.PartFile
	path string
}

// WriteAt implements io.WriterAt.
func (w targetWriter) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.part.WriteAt(p, off)
	if err != nil {
		return n, targetError(w.path, err)
	}
	return n, nil
}
