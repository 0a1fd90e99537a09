package kwik

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// A gate is a listener's admission with its lock. quic-go's goroutines, those of the connections
// and the session watch use it. It calls OnRefusal without the lock.
type gate struct {
	onRefusal func(from netip.Prefix, reason string, count int)

	mu        sync.Mutex
	admission *admissionControl
}

func newGate(c *ServerConfig) *gate {
	return &gate{
		onRefusal: c.OnRefusal,
		admission: newAdmission(admissionLimits{
			// Half: as many clients of one address may connect at once as may be connected.
			handshakes: c.maxHandshakes, handshakesPerClient: (c.maxHandshakes + 1) / 2,
			joins: c.maxMembers, joinsPerClient: shareOf(c.maxMembers),
			sessions: c.MaxSessions, sessionsPerClient: c.MaxSessionsPerAddress,
			helloTimeout: c.HelloTimeout,
		}),
	}
}

// shareOf returns how much of a limit one client may use: a quarter, which is many clients behind
// one address.
func shareOf(limit int) int { return (limit + 3) / 4 }

// newcomerKey is the key under which the context of a connection holds its newcomer.
type newcomerKey struct{}

func newcomerOf(conn *quic.Conn) *newcomer { return conn.Context().Value(newcomerKey{}).(*newcomer) }

// needsRetry is quic.Transport.VerifySourceAddress.
func (g *gate) needsRetry(net.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.admission.needsRetry(time.Now())
}

// connContext is quic.Transport.ConnContext. ctx ends with the connection.
func (g *gate) connContext(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	from := clientPrefix(info.RemoteAddr)
	proved := netip.Prefix{}
	if info.AddrVerified {
		proved = from
	}
	g.mu.Lock()
	n, evicted, why := g.admission.arrive(proved, time.Now())
	if why != admitted {
		g.release(evicted, from, why)
		return nil, errorf(ErrServerBusy, "%s", string(why))
	}
	n.lost, n.evict = context.WithCancel(context.Background())
	g.release(evicted, from, admitted)
	context.AfterFunc(ctx, func() { g.end(n) })
	return context.WithValue(ctx, newcomerKey{}, n), nil
}

// release unlocks the gate after a decision of the admission: it ends the newcomers that lost their
// places, and reports what is to be reported.
func (g *gate) release(evicted []*newcomer, from netip.Prefix, why refusal) {
	if why != admitted {
		g.admission.refusals.add(why, from)
	}
	for _, n := range evicted {
		g.admission.refusals.add(n.why, n.from)
	}
	reports := g.admission.refusals.due(time.Now())
	g.mu.Unlock()
	for _, n := range evicted {
		n.evict()
	}
	for _, r := range reports {
		g.onRefusal(r.from, string(r.why), r.count)
	}
}

// refused is release for a decision about one client. It returns the error for it, or nil.
func (g *gate) refused(evicted []*newcomer, from netip.Prefix, why refusal) error {
	g.release(evicted, from, why)
	if why != admitted {
		return errorf(ErrServerBusy, "%s", string(why))
	}
	return nil
}

// validate counts a connection whose handshake is complete for its client.
func (g *gate) validate(n *newcomer, addr net.Addr) error {
	from := clientPrefix(addr)
	g.mu.Lock()
	evicted, why := g.admission.validate(n, from, time.Now())
	return g.refused(evicted, from, why)
}

// join keeps the place of a newcomer while its join is in progress.
func (g *gate) join(n *newcomer) error {
	g.mu.Lock()
	evicted, why := g.admission.join(n)
	return g.refused(evicted, n.from, why)
}

// serve records that a connection is accepted.
func (g *gate) serve(n *newcomer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admission.serve(n)
}

// end records that a connection has ended.
func (g *gate) end(n *newcomer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admission.end(n)
}

func (g *gate) leave(n *newcomer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admission.leave(n)
}

// refuseMember counts a secondary that finds no place among the members.
func (g *gate) refuseMember(from netip.Prefix, why refusal) {
	g.mu.Lock()
	g.release(nil, from, why)
}

// isFull reports whether a session needs the place of another one.
func (g *gate) isFull(r *resident) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.admission.isFull(r.from)
}

// enter gives a session a place. evicted is a session that has lost its own.
func (g *gate) enter(r *resident) (evicted *resident, err error) {
	g.mu.Lock()
	evicted, why := g.admission.enter(r, time.Now())
	if evicted != nil {
		g.admission.refusals.add(evicted.lost, evicted.from)
	}
	return evicted, g.refused(nil, r.from, why)
}

func (g *gate) depart(r *resident) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admission.depart(r)
}

// observe records which sessions have a stream, and returns those that had none for at least a
// time. It reports refusals that are due.
func (g *gate) observe(states []sessionState, idle time.Duration) (ended []*resident) {
	now := time.Now()
	g.mu.Lock()
	for _, s := range states {
		switch {
		case s.busy:
			s.resident.idleSince = time.Time{}
		case s.resident.idleSince.IsZero():
			s.resident.idleSince = now
		}
		s.resident.touched = s.touched
		if s.resident.isIdle(idle, now) {
			ended = append(ended, s.resident)
		}
	}
	g.release(nil, netip.Prefix{}, admitted)
	return ended
}
