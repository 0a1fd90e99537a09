package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/internal/webfile"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/partfile"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// This file fetches a file from web mirrors alone, without a primary. There is no tree. The hashes
// of its pieces prove the file, each before it counts, or else the hashes of the whole file do at
// the end.

// wholeUnit is the size in bytes of the units of a file without pieces. They prove nothing.
const wholeUnit = 64 << 10

// A webProof proves the pieces of a file. Without pieces it accepts all bytes. It implements
// partfile.Tree.
type webProof struct {
	size, unit int64  // bytes
	pieces     []byte // their SHA-256 hashes
	id         integrity.Root
}

// newWebProof returns the proof of a file, or an error if its fields contradict each other.
func newWebProof(f WebFile) (*webProof, error) {
	p := &webProof{size: f.Size, unit: f.PieceSize, pieces: f.Pieces}
	switch {
	case !f.HasSize || f.Size < 0:
		return nil, errors.New("the size of the file is not known")
	case p.unit == 0:
		p.unit = wholeUnit
		return p, nil
	case p.unit < 0 || p.unit > MaxPiece:
		return nil, fmt.Errorf("its pieces have %d bytes; at most %d are allowed", p.unit, int64(MaxPiece))
	}
	count := p.size / p.unit
	if p.size%p.unit > 0 {
		count++
	}
	if int64(len(p.pieces)) != count*sha256.Size {
		return nil, fmt.Errorf("it has %d bytes of hashes for %d pieces", len(p.pieces), count)
	}
	p.id = sha256.Sum256(p.pieces)
	return p, nil
}

func (p *webProof) Root() integrity.Root { return p.id }
func (p *webProof) Size() int64          { return p.size }
func (p *webProof) GroupBytes() int64    { return p.unit }

// Verify implements partfile.Tree: b is whole pieces from off on.
func (p *webProof) Verify(off int64, b []byte) error {
	for len(p.pieces) > 0 && len(b) > 0 {
		n := min(p.unit, int64(len(b)))
		at := off / p.unit * sha256.Size
		if got := sha256.Sum256(b[:n]); !bytes.Equal(got[:], p.pieces[at:at+sha256.Size]) {
			return &integrity.GroupError{Offset: off, Length: n}
		}
		off, b = off+n, b[n:]
	}
	return nil
}

// useWebAlone prepares a get without a primary, and returns its attempt.
func (g *get) useWebAlone() (attempt func(context.Context) error) {
	f := g.WebFile
	g.NoPreserve = true // the mirrors' times and modes mean nothing
	g.result.Proof = ProofWhole
	if f.PieceSize != 0 {
		g.result.Proof = ProofPieces
	}
	g.web = newWebSet(g.webOptions, nil).of(f)
	g.observer.useWeb(g.web)
	var hosts []string
	for _, m := range f.Mirrors {
		if u, err := m.urlOf("", true); err == nil {
			hosts = append(hosts, u.Host)
			g.request.url.Path = path.Base(u.Path) // for messages
		}
	}
	g.stall.host = strings.Join(slices.Compact(hosts), ", ")
	sources := g.web.choose(nil, false)
	return func(ctx context.Context) error {
		proof, err := newWebProof(f)
		isUnproved := g.result.Proof == ProofWhole && len(g.Checksums) == 0
		switch {
		case err != nil:
		case isUnproved:
			err = errors.New("there is no hash that could prove it")
		case len(sources) == 0:
			err = errors.New("there is no web mirror that can be used")
		}
		if err != nil {
			return &Error{Kind: KindOther, Op: g.fetchOp(), Err: err}
		}
		g.followed = nil
		g.manifest = Manifest{Size: proof.size, Group: proof.unit}
		if err := g.fetchWeb(ctx, proof, sources); err != nil || g.result.Proof == ProofPieces {
			return err
		}
		return g.withoutLiars(ctx, proof, sources)
	}
}

// fetchWeb fetches what is not there yet from mirrors, and verifies its pieces.
func (g *get) fetchWeb(ctx context.Context, proof *webProof, sources []*webSource) error {
	if g.blocked != nil {
		return g.compareBlocked(ctx, proof)
	}
	if g.part != nil {
		if done, err := g.upToDate(ctx, proof); err != nil || done {
			return err
		}
		if err := g.proveWeb(ctx, proof); err != nil {
			return err
		}
		if had, _, _ := g.part.InPlace(); had > 0 {
			g.observer.resume(had)
		}
	}
	switch {
	case proof.size == 0:
		return nil
	case g.part != nil && g.part.Whole():
		g.seeAll()
		return nil
	}
	return g.copyWeb(ctx, proof, sources)
}

// proveWeb finds the pieces that are in the part file or in seeds. Without pieces, only bytes of
// this get count.
func (g *get) proveWeb(ctx context.Context, proof *webProof) error {
	if g.result.Proof == ProofPieces {
		return g.prove(ctx, proof)
	}
	if g.part.State() != partfile.Unproved {
		return nil
	}
	if err := g.part.Restart(proof); err != nil {
		return targetError(g.path, err)
	}
	return nil
}

// copyWeb takes the content from mirrors into the part file, or in order to the output.
func (g *get) copyWeb(ctx context.Context, proof *webProof, sources []*webSource) error {
	op := g.fetchOp()
	unanswered := &Error{Kind: KindNetwork, Op: op, Err: fmt.Errorf("no web mirror answered within %v", g.timeout)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(g.timeout, func() {
		isAnswering := func(s *webSource) bool { return s.Stats().MinRTT > 0 }
		if !slices.ContainsFunc(sources, isAnswering) {
			cancel(unanswered)
		}
	}).Stop()
	stream, err := kwik.NewLocalStream(ctx, proof.size, proof.unit, g.proof(proof.Verify), g.kwik)
	if err != nil {
		return &Error{Kind: KindOther, Op: op, Err: err}
	}
	defer stream.Close()
	for _, source := range sources {
		file, err := source.file("", proof.size)
		if err == nil {
			err = stream.AddExternal(source.ExternalSource, fetchOf(file))
		}
		if err != nil {
			return &Error{Kind: KindOther, Op: op, Err: err}
		}
	}
	options := &kwik.CopyOptions{}
	if g.part != nil {
		options.Have = rangesOf(rangeset.Of(g.part.Have()...))
		if last, ok := g.part.Priority(); ok {
			options.Priority = kwik.Range(last)
		}
	}
	stop := g.observer.watch(g.servers, stream)
	if g.part != nil {
		err = g.copyToPart(ctx, stream, options, integrity.Root{})
	} else {
		err = g.copyToOutput(ctx, stream)
	}
	stats := stream.Stats()
	g.see(stop(), stats)
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) == unanswered:
		return unanswered
	case errors.Is(err, kwik.ErrAggregationTimeout):
		return &Error{Kind: kindOfWebLoss(stats.Sources), Op: op, Err: webLoss(stats.Sources)}
	}
	return NetworkError(op, err)
}

// withoutLiars returns nil if the content has its hashes. If not, a mirror sent wrong bytes, and
// nothing shows which one. Then the content is fetched again from each mirror alone.
func (g *get) withoutLiars(ctx context.Context, proof *webProof, sources []*webSource) error {
	if g.Output != nil || g.result.UpToDate {
		return nil // it was checked before
	}
	err := g.checkChecksums(ctx)
	var liars []ServerStatus
	for _, source := range sources {
		if _, isWrong := errors.AsType[*ChecksumError](err); !isWrong || len(sources) == 1 {
			return err
		}
		g.followed = nil
		if failed := g.part.Forget(); failed != nil {
			return targetError(g.path, failed)
		}
		if failed := g.copyWeb(ctx, proof, []*webSource{source}); failed != nil {
			if ctx.Err() != nil {
				return failed
			}
			continue
		}
		if failed := g.part.Accept(proof); failed != nil {
			return targetError(g.path, failed)
		}
		if err = g.checkChecksums(ctx); err == nil {
			g.result.Servers = append(liars, g.result.Servers...)
			return nil
		}
		source.Ban(err)
		liar := ServerStatus{ID: source.Stats().ID, Role: kwik.ServerRoleExternal, Addr: source.host,
			State: ServerBanned, Reason: err.Error()}
		liars = append(liars, liar)
		g.observer.server(liar)
	}
	return err
}

// kindOfWebLoss returns the kind of error when no mirror is left: that of all mirrors if it is the
// same, otherwise a retry may help.
func kindOfWebLoss(sources []kwik.SourceStats) Kind {
	common := KindOther
	for _, s := range sources {
		kind := KindNetwork
		if _, lied := errors.AsType[*integrity.GroupError](s.Gone); lied {
			kind = KindIntegrity
		}
		if e, ok := errors.AsType[*webfile.Error](s.Gone); ok {
			switch e.Status {
			case http.StatusNotFound, http.StatusGone:
				kind = KindNotFound
			case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
				kind = KindRefused
			}
		}
		if common != KindOther && common != kind {
			return KindNetwork
		}
		common = kind
	}
	if common == KindOther {
		return KindNetwork
	}
	return common
}

// webLoss describes why no mirror delivers any more.
func webLoss(sources []kwik.SourceStats) error {
	const most = 3 // reasons
	var reasons []string
	for _, s := range sources {
		if s.Gone == nil {
			continue
		}
		if reason := short(s.Gone); !slices.Contains(reasons, reason) && len(reasons) < most {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) == 0 {
		return errors.New("no web mirror delivers any more")
	}
	return fmt.Errorf("no web mirror delivers any more: %s", strings.Join(reasons, "; "))
}
