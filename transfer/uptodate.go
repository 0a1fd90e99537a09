package transfer

import (
	"context"
	"errors"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// upToDate reports whether the target is the manifest's file already. If so, it sets the
// source's mode and time. It hashes the target only if the size is right, and once for each
// version of the source. An error means that upToDate could not set or sync the attributes, or
// that ctx ended. An unreadable target is not up to date.
func (g *get) upToDate(ctx context.Context, tree partfile.Tree) (bool, error) {
	root := tree.Root()
	if g.NoClobber || g.compared != nil && *g.compared == root {
		return false, nil
	}
	place := g.at
	if g.part != nil {
		place = g.part.Place()
	}
	f, info := place.Existing()
	if f == nil {
		return false, nil
	}
	defer f.Close()
	same, err := partfile.Matches(ctx, f, info.Size(), tree, g.observer.checking)
	if err != nil {
		return false, err
	}
	g.compared = &root
	if !same || disk.CheckVersion(f, disk.VersionOf(info)) != nil {
		return false, nil
	}
	if err := g.proveTarget(ctx, f); err != nil {
		if _, differs := errors.AsType[*ChecksumError](err); differs && g.result.Proof == ProofWhole {
			return false, nil
		}
		return false, err
	}
	if !g.NoPreserve {
		if err := place.ApplyMetadata(f, info, metadataOf(g.manifest, false)); err != nil {
			return false, LocalError(fmt.Sprintf("set mode and time of %q, which is up to date", g.Target), err)
		}
	}
	if err := place.SyncFile(f); err != nil {
		return false, LocalError(fmt.Sprintf("put %q on disk, which is up to date", g.Target), err)
	}
	if g.part != nil {
		g.part.Discard()
	}
	g.result.UpToDate = true
	if g.manifest.Size > 0 {
		g.observer.resume(g.manifest.Size)
	}
	g.seeAll()
	return true, nil
}

// prove finds the bytes of the manifest that are in the part file or in the seeds. It copies
// those of the seeds into the part file.
func (g *get) prove(ctx context.Context, tree partfile.Tree) error {
	root := tree.Root()
	var seeds []disk.File
	if g.seeded == nil || *g.seeded != root {
		if g.Reuse {
			if old, _ := g.part.Place().Existing(); old != nil {
				defer old.Close()
				seeds = append(seeds, old)
			}
		}
		if g.Seed != nil {
			seeds = append(seeds, g.Seed)
		}
	}
	if err := g.part.Prove(ctx, tree, seeds, g.observer.checking); err != nil {
		return targetErrorIn(ctx, g.path, err)
	}
	g.seeded = &root
	return nil
}
