package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
)

// A simHost is the machine of a server, whatever process runs on it.
type simHost struct {
	*simWorld
	plan  simServer
	index int
	ip    netip.Addr // written by the goroutine of run under the world's lock, like server and down

	villain *simVillain        // of a hostile server, and nothing of what follows
	server  *testServer        // the newest process
	down    bool               // it is killed, or closed
	life    context.Context    // ends with it
	die     context.CancelFunc // ends life
	away    atomic.Bool        // it is not to join now
	member  atomic.Pointer[Membership]
	pause   simPause
}

// A simPause delays its callers while it lasts.
type simPause struct {
	mu   sync.Mutex
	over chan struct{} // closed at the end; nil: there is none
}

func (p *simPause) set(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on && p.over == nil {
		p.over = make(chan struct{})
	} else if !on && p.over != nil {
		close(p.over)
		p.over = nil
	}
}

func (p *simPause) pass(ctx context.Context) {
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
}

// A simContent is a server's content of a pulled stream.
type simContent struct {
	*simHost
	ctx  context.Context
	flow *simFlow
}

func (c simContent) ReadAt(p []byte, off int64) (int, error) {
	c.pause.pass(c.ctx)
	simSleep(c.ctx, c.plan.disk)
	end := min(off+int64(len(p)), c.flow.size)
	if end > c.flow.size/2 && c.plan.copy == simCopyShort {
		return 0, io.ErrUnexpectedEOF
	}
	if end > c.flow.size/2 && c.plan.copy == simCopyChanged {
		return 0, fmt.Errorf("it was written to: %w", ErrContentChanged)
	}
	if c.plan.copy == simCopyRotten {
		for _, l := range (simHoles{c}).Missing() {
			if l.Start < end && off < l.End {
				return 0, &l
			}
		}
	}
	version := 0
	if c.plan.copy == simCopyWrong && c.flow.proof {
		version = simWrong
	}
	c.flow.version(p[:end-off], off, version)
	return int(end - off), nil
}

func (c simContent) Close() error { return nil }

// simHoles is a simContent that reports missing bytes: a third of each three units, and never
// the same at neighboring servers.
type simHoles struct{ simContent }

func (c simHoles) Missing() (all []MissingRange) {
	const every = 3 * unit
	for start := int64(c.index % 3 * unit); start < c.flow.size; start += every {
		all = append(all, MissingRange{start + 1, min(start+unit, c.flow.size), errors.New("a hole")})
	}
	return all
}

// begin starts a process, as the successor of the one before, if any.
func (h *simHost) begin() {
	options := []serverOption{configured(func(c *ServerConfig) {
		if h.plan.resets {
			c.StatelessResetKey = &quic.StatelessResetKey{byte(h.index)}
		}
		c.BufferSize = h.s.streamed.BufferSize
		c.Verify = func(_ context.Context, descriptor []byte, off int64, p []byte) error {
			if flow := h.flow(descriptor); flow == nil || !bytes.Equal(p, flow.content[off:off+int64(len(p))]) {
				return errors.New("other bytes")
			}
			return nil
		}
		c.OpenContent = func(ctx context.Context, r ContentRequest) (Content, error) {
			flow := h.flow(r.Descriptor)
			if flow == nil || flow.kind != simPulled || r.Size != flow.size {
				h.fault("server %d is asked for %q of %d bytes", h.index, r.Descriptor, r.Size)
				return nil, errors.New("no such content")
			}
			if h.plan.copy == simCopyMissing {
				return nil, errors.New("not here")
			}
			content := simContent{h, ctx, flow}
			if h.plan.copy == simCopyHoles {
				return simHoles{content}, nil
			}
			return content, nil
		}
	})}
	role := ServerRolePrimary
	if h.index > 0 {
		role = ServerRoleSecondary
	}
	if h.server != nil {
		options = append(options, restarted(h.server))
	}
	h.link = h.plan.link // of the world, for the socket
	begun := h.serve(role, options...)
	h.mu.Lock()
	h.server, h.ip = begun, begun.addr.Addr()
	h.mu.Unlock()
	h.life, h.die = context.WithCancel(h.ctx)
	life, server := h.life, h.server
	h.wg.Go(func() {
		for {
			select {
			case session := <-server.sessions:
				h.wg.Go(func() { h.host(life, session) })
			case <-life.Done():
				return
			}
		}
	})
	if h.index > 0 {
		h.wg.Go(func() { h.keepJoined(life, server) })
	}
}

// end ends the process, gracefully or silently.
func (h *simHost) end(orderly bool) {
	h.die()
	if orderly {
		h.server.stop()
	} else {
		h.server.kill()
	}
}

// keepJoined joins the primary whenever the secondary is no member.
func (h *simHost) keepJoined(life context.Context, server *testServer) {
	for life.Err() == nil {
		if !h.away.Load() {
			if m, err := server.Join(life, h.primary.addr.String(), JoinConfig{Token: h.token}); err == nil {
				h.member.Store(m)
				select {
				case <-m.Context().Done():
				case <-life.Done():
				}
			}
		}
		simSleep(life, 500*time.Millisecond)
	}
}

// host serves a client's session.
func (h *simHost) host(life context.Context, session *ServerSession) {
	h.wg.Go(func() {
		for {
			stream, err := session.AcceptStream(life)
			if err != nil {
				return
			}
			if h.index > 0 {
				h.fault("secondary %d accepts a plain stream", h.index)
			}
			h.wg.Go(func() {
				io.Copy(stream, stream)
				stream.Close()
			})
		}
	})
	for {
		p, err := session.AcceptPushedStream(life)
		if err != nil {
			break
		}
		h.wg.Go(func() { h.push(session, p) })
	}
	e, ok := errors.AsType[*quic.ApplicationError](context.Cause(session.Context()))
	if ok && simBlame(ErrorCode(e.ErrorCode)) {
		h.fault("the session of server %d, which is honest, ended with %v", h.index, e)
	}
}

// simBlame reports whether a code means that a peer broke the protocol.
func simBlame(code ErrorCode) bool {
	return code >= ErrSecondaryStreamIsolation && code <= ErrInvalidStreamRole
}

// push writes this server's pieces of a pushed stream.
func (h *simHost) push(session *ServerSession, p *PushedStream) {
	flow := h.flow(p.Descriptor())
	if flow == nil || p.Size() != flow.size || p.StreamID() != flow.kwikID() {
		h.fault("server %d pushes into a stream %q of %d bytes", h.index, p.Descriptor(), p.Size())
		return
	}
	r := simDice{simnet.NewDice(h.s.seed, uint64(100*flow.index+h.index))}
	mine := slices.DeleteFunc(slices.Clone(flow.pieces), func(x simPiece) bool { return x.server != h.index })
	slices.SortStableFunc(mine, func(a, b simPiece) int { return int(a.start - b.start) })
	if h.s.conflict == ConflictResolutionReject {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { h.pushAgain(session, p, flow, mine) })
	}
	for _, x := range mine {
		if flow.haste > 0 {
			simSleep(p.Context(), time.Duration(r.Float64()*float64(flow.haste)))
		}
		h.pushPiece(session, p, flow, x)
	}
	ctx, cancel := context.WithTimeout(p.Context(), 20*time.Second)
	defer cancel()
	last := int64(0)
	for range 2 {
		expected, err := p.Sync(ctx, flow.size)
		// The end of the path of a banned server may be lost. The server then hears nothing any
		// more.
		mayBeBanned := h.plan.copy == simCopyWrong
		if err != nil && p.Context().Err() == nil && h.s.undisturbed() && !mayBeBanned {
			h.fault("stream %d: server %d asks and gets no answer: %v", flow.index, h.index, err)
		}
		if err == nil && (expected < last || expected > flow.size) {
			h.fault("stream %d: server %d is told to go on at %d, after %d", flow.index, h.index, expected, last)
		}
		last = max(last, expected)
	}
}

// pushAgain writes this server's pieces again, unit by unit, until the stream is over. If
// conflicts reject, bytes that arrive together with known ones are lost, and the server need not
// hear of it. A unit is known as a whole or not at all. Meanwhile the next piece may wait for the
// lost bytes.
func (h *simHost) pushAgain(session *ServerSession, p *PushedStream, flow *simFlow, mine []simPiece) {
	for simSleep(p.Context(), 3*time.Second) {
		for _, x := range mine {
			for off := x.start; off < x.end && p.Context().Err() == nil; {
				end := p.units.Cut(off, 1, x.end)
				h.pushPiece(session, p, flow, simPiece{h.index, off, end, x.version})
				off = end
			}
		}
	}
}

// pushPiece writes one piece.
func (h *simHost) pushPiece(session *ServerSession, p *PushedStream, flow *simFlow, x simPiece) {
	s := session.OpenSecondaryStream()
	h.pushing.Add(1)
	defer h.pushing.Add(-1)
	defer s.Close()
	err := s.SetKwikStreamMapping(p.StreamID(), x.start)
	buf := make([]byte, 50_000)
	flow.push(x)
	for at := x.start; at < x.end && err == nil; {
		n := min(int64(len(buf)), x.end-at)
		flow.version(buf[:n], at, x.version)
		_, err = s.Write(buf[:n])
		at += n
	}
	if err == nil {
		err = s.Close()
	}
	e, ok := errors.AsType[*Error](err)
	rejected := ok && e.Code == ErrStreamMappingConflict && h.s.conflict == ConflictResolutionReject
	if ok && simBlame(e.Code) && !rejected && p.Context().Err() == nil {
		h.fault("stream %d: server %d cannot push %v: %v", flow.index, h.index, x, err)
	}
}

// simSleep waits. It returns false if ctx ends first.
func simSleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
