package kwik

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
)

// A simWorld is a scenario while it runs, in one synctest bubble. The goroutine of run plays
// the events of servers. All other goroutines end with the context of the world.
type simWorld struct {
	*world
	s       *simScenario
	hosts   []*simHost
	streams []*simFlow // those of the scenario
	client  *ClientSession
	session *ServerSession // the primary's end
	start   time.Time
	bound   time.Time // when all has to be over
	ctx     context.Context
	cancel  context.CancelFunc
	apps    sync.WaitGroup // the consumers
	quiet   atomic.Bool    // hostile servers do nothing more
	pushing atomic.Int32   // SecondaryStreams that honest servers have open
	acted   atomic.Int32   // things that hostile servers did
	doomed  atomic.Int32   // rules that were broken and for which the client has not closed the path yet
	offered atomic.Int32   // plain streams that the primary opened

	mu      sync.Mutex
	moved   []*movable
	refuted map[ServerID]int // deliveries that failed a proof
	faults  []string
}

// simPatience bounds the time from the healing to the end of everything. Hostile servers push
// for one time-out, during which others wait.
const simPatience = 3 * simTimeout

// simTimeout is the time-out of a patient client: longer than the faults, a join and a few
// failed dials.
const simTimeout = 150 * time.Second

// simIPs are the client's two addresses.
var simIPs = [2]netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")}

// simBytes holds the bytes of all 16 streams; each stream is a slice of it.
var simBytes = sync.OnceValue(func() []byte { return randomBytes(9, simMaxSize+simMaxShare+16*70_001) })

// fault records a failure.
func (w *simWorld) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := fmt.Sprintf("%8.3f s  ", time.Since(w.start).Seconds()) + fmt.Sprintf(format, args...); len(w.faults) < 20 {
		w.faults = append(w.faults, text)
	}
}

// newSimWorld starts the servers of a scenario and the client.
func newSimWorld(t *testing.T, s *simScenario) *simWorld {
	w := &simWorld{
		world: &world{t: t, net: simnet.New(s.seed), token: []byte("a token of 16 bytes")},
		s:     s, start: time.Now(), refuted: make(map[ServerID]int),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	worlds.Add(1)
	t.Cleanup(w.close)
	for i := range s.streams {
		w.streams = append(w.streams, newSimFlow(w, i, s.streams[i]))
	}
	for i, plan := range s.servers {
		h := &simHost{simWorld: w, plan: plan, index: i}
		w.hosts = append(w.hosts, h)
		switch {
		case plan.hostile():
			w.link = plan.link
			h.villain = newSimVillain(h)
			if plan.joins == 0 {
				h.villain.join()
			}
		case plan.joins == 0:
			h.begin()
			if i == 0 {
				w.primary = h.server
			}
			for i > 0 && h.member.Load() == nil { // joins fail if too much is lost
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	for _, ip := range simIPs {
		w.link = s.client
		w.listenAt(netip.AddrPortFrom(ip, 1)).Close()
	}
	w.dialSim()
	w.start = time.Now()
	w.bound = w.start.Add(s.faults + simPatience)
	w.wg.Go(w.watch)
	return w
}

// A simSocket is a movable socket that quic-go does not warn about.
type simSocket struct{ *movable }

func (simSocket) SetReadBuffer(int) error  { return nil }
func (simSocket) SetWriteBuffer(int) error { return nil }

// socket opens a client's socket, whose address can change.
func (w *simWorld) socket() net.PacketConn {
	n := 0
	open := func() net.PacketConn {
		conn, err := w.net.Listen(netip.AddrPortFrom(simIPs[n%2], 0), simnet.Link{}) // the host's, which there is
		if err != nil {
			panic(err) // port 0 is always free
		}
		n++
		return conn
	}
	m := &movable{open: open, now: open()}
	m.bound = m.now.LocalAddr()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = append(w.moved, m)
	return simSocket{m}
}

// dialSim connects the client and waits for the secondary that it relies on.
func (w *simWorld) dialSim() {
	conf := &ClientConfig{
		Config:        Config{LocalAddresses: func() []netip.Addr { return nil }},
		ListenPacket:  func(context.Context, netip.AddrPort) (net.PacketConn, error) { return w.socket(), nil },
		ReorderWindow: minReorderWindow, ConflictResolution: w.s.conflict, Recovery: w.s.recovery, SecondaryStreams: w.s.streamed,
	}
	if w.s.patient {
		conf.SourceTimeout, conf.ReorderTimeout = simTimeout, simTimeout
	}
	for w.client == nil {
		socket := w.socket()
		client, err := Dial(w.ctx, socket, net.UDPAddrFromAddrPort(w.primary.addr), pinned(w.primary.pin()), conf)
		if err != nil {
			socket.Close()
			continue // too much was lost
		}
		w.client = client
		w.clients = append(w.clients, client)
		w.wg.Go(func() {
			<-client.ctx.Done()
			client.wg.Wait()
			socket.Close()
		})
	}
	w.within(time.Minute, func() bool {
		w.primary.mu.Lock()
		for session := range w.primary.Listener.sessions {
			if session.ID() == w.client.ID() {
				w.session = session
			}
		}
		w.primary.mu.Unlock()
		return w.session != nil
	})
	if w.s.anchor > 0 {
		h := w.hosts[w.s.anchor]
		w.within(time.Minute, func() bool { return w.path(w.client, h.member.Load().ID()).State == PathActive })
	}
	w.wg.Go(w.acceptPlain)
	w.wg.Go(w.acceptAggregates)
}

// acceptAggregates hands the aggregate streams that the primary opens to their applications.
func (w *simWorld) acceptAggregates() {
	for {
		o, err := w.client.AcceptNextAggregate(w.ctx)
		if err != nil {
			return
		}
		flow := w.flow(o.Descriptor())
		if flow == nil || flow.kind < simPulled || o.StreamID() != flow.kwikID() || flow.accepted.Swap(true) {
			w.fault("AcceptNextAggregate returns %#x, %q", uint64(o.StreamID()), o.Descriptor())
			continue
		}
		w.apps.Go(func() { flow.consume(o) })
	}
}

// acceptPlain echoes the plain streams that the primary opens.
func (w *simWorld) acceptPlain() {
	for plain := int32(1); ; plain++ {
		s, err := w.client.AcceptStream(w.ctx)
		if err != nil {
			return
		}
		if plain > w.offered.Load() {
			w.fault("AcceptStream returns plain stream %d, which the primary has not opened", s.StreamID())
		}
		w.wg.Go(func() { // the header of the primary's streams is echoed like the rest
			var head bytes.Buffer
			if n, _ := io.CopyN(&head, s, int64(len(simHeader))); n == int64(len(simHeader)) && head.String() != simHeader {
				w.fault("AcceptStream returns a plain stream that starts with %q", head.String())
			}
			io.Copy(s, io.MultiReader(&head, s))
			s.Close()
		})
	}
}

// simHeader starts each plain stream of the primary.
const simHeader = "of the primary: "

// move changes the client's address on every path.
func (w *simWorld) move() {
	synctest.Wait() // so that no goroutine is closing a socket
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.moved { // one that is closed already does no harm
		m.move()
	}
}

// close ends the world in any state and waits for all of it.
func (w *simWorld) close() {
	w.cancel()
	for _, h := range w.hosts {
		if h.die != nil {
			h.die()
		}
		if h.server != nil && h.index > 0 {
			w.secondaries = append(w.secondaries, h.server)
		}
	}
	w.world.end()
}
