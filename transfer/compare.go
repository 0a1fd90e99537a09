package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"math"
	"sync"
	"time"
)

// CompareOptions selects the file of a server and the local file to compare it with.
type CompareOptions struct {
	URL URL
	// TLS authenticates the primary.
	TLS *tls.Config
	// File is the local file. The caller closes it. Messages call it Name.
	File disk.File
	Name string
	// ConnectTimeout bounds the time to the primary's first answer; 0 means
	// DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// StallTimeout bounds the wait for each further reply; 0 means DefaultStallTimeout.
	StallTimeout time.Duration

	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddrEarly.
	Dial DialFunc
}

// A Comparison lists how a local file differs from a server's.
type Comparison struct {
	Size     int64    // of the local file, in bytes
	Manifest Manifest // of the server's file; zero until it arrives
	// Differences are in order and do not overlap. If there are none, the file has the manifest's
	// root.
	Differences []Difference
	Seconds     float64
}

// A Difference is a range of bytes that differ. It consists of whole chunk groups, of which the
// last may end with the file.
type Difference struct {
	Start, End int64 // offsets in the file, half-open
	How        How
}

// How is the kind of a Difference.
type How string

const (
	Differs How = "differs" // the local file has other bytes
	Missing How = "missing" // the local file is too short; the range starts with the chunk group in which it ends
	Extra   How = "extra"   // the local file is too long
)

// Compare fetches the manifest and tree of a file and compares a local file with them. It fetches
// no content. A difference is not an error; errors are those of Get. report may be nil.
func Compare(ctx context.Context, o CompareOptions, report Reporter) (c Comparison, err error) {
	start := time.Now()
	defer func() {
		c.Seconds = time.Since(start).Seconds()
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	r := newRequest(o.URL, o.TLS, o.ConnectTimeout, o.StallTimeout, o.KWIK, o.Dial, report)
	defer r.trees.release()
	if err := r.requestManifest(ctx); err != nil {
		return c, err
	}
	err = r.completeTree(ctx, nil)
	r.close(err) // the rest needs no server
	if err != nil {
		return c, err
	}
	c.Manifest = r.manifest
	info, err := o.File.Stat()
	if err != nil {
		return c, LocalError(fmt.Sprintf("verify %q", o.Name), err)
	}
	c.Size = info.Size()
	f := &wholly{File: o.File}
	right, err := partfile.Survey(ctx, f, min(c.Size, r.tree.Size()), r.tree, r.observer.checking)
	if err == nil {
		err = f.err
	}
	if err != nil {
		return c, LocalError(fmt.Sprintf("verify %q", o.Name), err)
	}
	c.Differences = differences(c.Size, right, r.tree)
	return c, nil
}

// differences returns the differences of a file of the given size, of which the ranges in right
// match the tree.
func differences(size int64, right rangeset.Set, tree *integrity.Tree) (all []Difference) {
	missing := tree.Size() // start of the missing bytes
	if size < missing {
		missing = size - size%tree.GroupSize().Bytes()
	}
	for at := int64(0); ; {
		r, ok := right.NextMissing(at, missing)
		if !ok {
			break
		}
		all = append(all, Difference{r.Start, r.End, Differs})
		at = r.End
	}
	switch {
	case missing < tree.Size():
		all = append(all, Difference{missing, tree.Size(), Missing})
	case size > tree.Size():
		all = append(all, Difference{tree.Size(), size, Extra})
	}
	return all
}

// wholly is a file without holes that remembers the first read error. So a survey of it reads
// every byte, and does not mistake an unreadable group for one that differs.
type wholly struct {
	disk.File
	mu  sync.Mutex
	err error // the first read error
}

func (f *wholly) NextData(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }

func (f *wholly) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) { // a file that was truncated meanwhile is just shorter
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil {
			f.err = err
		}
	}
	return n, err
}
