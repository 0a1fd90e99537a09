package transfer

import (
	"context"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
)

// This file is how the content of a file is fetched that its primary is still hashing. Nothing is asked for before its chaining values are
// there, so that every byte is proved when it comes, to be the one that the primary means; that these are the bytes of one root is
// known at the end, before the file is put in place. A part file that is left before counts for nothing: it is hashed again.

// mayBegin reports whether the content may be fetched before the root is known: it goes to an empty part file, nobody said which root
// is wanted, and there is nothing here that might be of use.
func (g *get) mayBegin() bool {
	if g.part == nil || g.Range != nil || g.url.Root != nil || g.Reuse || g.Seed != nil || !g.part.empty() {
		return false
	}
	if g.KeepsOld {
		return true
	}
	f, info := g.part.standing()
	if f != nil {
		f.Close()
	}
	return f == nil || info.Size() != g.manifest.Size // else it may be up to date
}

// copyCold fetches the content as far as chaining values come, and waits for the root.
//
// It starts a goroutine, which reads the tree, and waits for it.
func (g *get) copyCold(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.part.forget()
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
	g.result.Root = g.manifest.Root
	g.part.proved(g.tree)
	return nil
}

// forget drops what an earlier attempt knew: what is written before there is a tree is proved against none, least of all against that of an
// earlier attempt.
func (p *partFile) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree, p.had = nil, rangeset.Set{}
	p.reserved, p.refused = false, false
}

// empty reports whether nothing is in the part file.
func (p *partFile) empty() bool {
	info, err := p.file.Stat()
	return err == nil && info.Size() == 0
}
