package transfer

import (
	"context"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// This file fetches a file that its primary is still hashing. Bytes are requested only after
// their chaining values arrived, so that each is verified against the primary's values when it
// is received. The root is known at the end, before the file is put in place. A part file that
// is left before that counts for nothing: it is hashed again.

// mayBegin reports whether the content may be fetched before the root is known. The part file
// must be empty, no root may be required, and there must be no local data that could be used.
func (g *get) mayBegin() bool {
	needsTree := g.disproved || g.Range != nil || g.url.Root != nil || g.Reuse || g.Seed != nil ||
		g.Preallocate == disk.PreallocateFull
	if g.part == nil || needsTree || !g.part.Empty() {
		return false
	}
	if g.NoClobber {
		return true
	}
	f, info := g.part.Place().Existing()
	if f != nil {
		f.Close()
	}
	return f == nil || info.Size() != g.manifest.Size // else it may be up to date
}

// copyCold fetches the content as far as chaining values have arrived, and waits for the root.
//
// It starts a goroutine, which reads the tree, and waits for it.
func (g *get) copyCold(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.part.KeepHoles(g.holes)
	if err := g.part.Forget(); err != nil {
		return targetError(g.path, err)
	}
	var completed chan error
	err := g.copy(ctx, g.growing.Verify, func(stream *kwik.AggregateReader) error {
		raise := func() error { return stream.SetLimit(g.growing.End()) }
		if err := raise(); err != nil {
			return err
		}
		completed = make(chan error, 1)
		go func() {
			err := g.completeTree(ctx, raise)
			if err != nil {
				cancel(err)
			}
			completed <- err
		}()
		return nil
	})
	if err != nil {
		cancel(err)
	}
	if completed != nil {
		if failed := <-completed; err == nil {
			err = failed
		}
	}
	if err != nil {
		return err
	}
	if err := g.acceptRoot(); err != nil {
		return err
	}
	err = g.part.ProveHoles(ctx, g.observer.checking)
	return targetErrorIn(ctx, g.path, err)
}

// acceptRoot takes the root that arrived after the content.
func (g *get) acceptRoot() error {
	g.result.Root, g.result.Proof = g.tree.Root(), ProofTree
	if err := g.part.Accept(g.tree); err != nil {
		return targetError(g.path, err)
	}
	return nil
}
