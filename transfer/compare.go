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

// CompareOptions says which file of a server to compare a local one with.
type CompareOptions struct {
	URL URL
	// TLS decides whom to trust as the primary.
	TLS *tls.Config
	// File is the local file, which stays the caller's, and Name what messages call it.
	File disk.File
	Name string
	// ConnectTimeout bounds the time to the primary's first answer; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration

	// KWIK configures the session; nil means the defaults.
	KWIK *kwik.ClientConfig
	// Dial connects to the primary; nil means kwik.DialAddrEarly.
	Dial DialFunc
}

// A Comparison says how a local file differs from a server's.
type Comparison struct {
	Size     int64    // of the local file, in bytes
	Manifest Manifest // what the server's file is; zero before it came
	// Differences are in order and do not overlap. If there are none the file has the manifest's hash.
	Differences []Difference
	Seconds     float64
}

// A Difference is bytes that are not as the server has them. Whether they are can be told for whole chunk groups only.
type Difference struct {
	Start, End int64 // offsets in the file, half-open
	How        How
}

// How says in which way bytes differ.
type How string

const (
	Differs How = "differs" // other bytes than the server has
	Missing How = "missing" // the local file is too short; from the start of the group in which it ends
	Extra   How = "extra"   // the local file is too long
)

// Compare asks a primary what a file is, and holds a local file against that. No content is fetched. Its errors are as those of Get;
// that the files differ is none.
func Compare(ctx context.Context, o CompareOptions, report Reporter) (c Comparison, err error) {
	start := time.Now()
	defer func() {
		c.Seconds = time.Since(start).Seconds()
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	q := newInquiry(o.URL, o.TLS, o.ConnectTimeout, o.KWIK, o.Dial, report)
	if err := q.open(ctx); err != nil {
		return c, err
	}
	err = q.complete(ctx, nil)
	q.close(err) // the rest is between the tree and the disk
	if err != nil {
		return c, err
	}
	c.Manifest = q.manifest
	info, err := o.File.Stat()
	if err != nil {
		return c, LocalError(fmt.Sprintf("verify %q", o.Name), err)
	}
	c.Size = info.Size()
	f := &wholly{File: o.File}
	right, err := partfile.Survey(ctx, f, min(c.Size, q.tree.Size()), q.tree, q.observer.checking)
	if err == nil {
		err = f.err
	}
	if err != nil {
		return c, LocalError(fmt.Sprintf("verify %q", o.Name), err)
	}
	c.Differences = differences(c.Size, right, q.tree)
	return c, nil
}

// differences says what of a file of some size is not proved against a tree.
func differences(size int64, right rangeset.Set, tree *integrity.Tree) (all []Difference) {
	missing := tree.Size() // what is missing begins there
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

// wholly is a file of which all is read, holes too, and of which an error of reading is remembered: what a survey finds in it is
// all that there is.
type wholly struct {
	disk.File
	mu  sync.Mutex
	err error // the first one
}

func (f *wholly) NextData(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }

func (f *wholly) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) { // one that was cut meanwhile lacks what it lacks
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil {
			f.err = err
		}
	}
	return n, err
}
