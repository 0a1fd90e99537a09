package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
)

const (
	served = "dir/file" // the name of the file on the servers
	target = "out"      // and on the client
)

var (
	token    = []byte("a join token of the simulation")
	clientIP = netip.MustParseAddr("10.0.0.100")
	// identities are made once: their dates do not matter, for clients know the keys.
	identities = sync.OnceValue(func() (certs [3]tls.Certificate) {
		for i := range certs {
			cert, err := trust.NewIdentity(time.Now())
			if err != nil {
				panic(err)
			}
			certs[i] = cert
		}
		return certs
	})
)

// A World is a scenario at work. It lives in one synctest bubble.
type World struct {
	Scenario
	t       *testing.T
	net     *simnet.Network
	file    []byte // the right one
	servers [3]*server
	client  *MemDir
	log     *slog.Logger

	ctx    context.Context // ends with the world
	cancel context.CancelFunc
	wg     sync.WaitGroup // all that runs besides the transfer

	mu      sync.Mutex
	placed  int64         // bytes written so far
	lastly  time.Time     // when a byte was written last in this run of the client; zero before the first
	gap     time.Duration // the longest time between two such moments
	pending []event
	faults  []string // the broken promises, in order of time
}

// An event happens once so many bytes are in place.
type event struct {
	at int64
	do func()
}

// A server is one of the three hosts, whichever process runs there.
type server struct {
	*World
	ServerPlan
	index int
	addr  netip.AddrPort
	dir   *MemDir
	bytes []byte // the content that it sends; nil if it has no copy of the right size
	right int64  // bytes of groups that it sends right

	mu   sync.Mutex
	life *life // nil while dead
}

// A life is one process.
type life struct {
	socket   net.PacketConn
	listener *kwik.Listener
	transfer *serve.Server
	dir      disk.Dir
	ctx      context.Context // ends with the process
	cancel   context.CancelFunc
	member   context.Context // ends when a secondary leaves its primary, with the process at the latest
	leave    context.CancelFunc
	wg       sync.WaitGroup
}

// NewWorld starts the servers of a scenario and joins the secondaries that join early.
func NewWorld(t *testing.T, s Scenario) *World {
	w := &World{Scenario: s, t: t, net: simnet.New(s.Seed), client: NewMemDir(), log: slog.New(slog.DiscardHandler)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.file = make([]byte, s.Size)
	rand.NewChaCha8([32]byte{byte(s.Seed), byte(s.Seed >> 8), 1}).Read(w.file)
	w.client.OnWrite = w.written
	for i, plan := range s.Servers {
		w.servers[i] = w.newServer(i, plan)
	}
	for _, sv := range w.servers {
		if sv.index == 0 && s.Doom == DoomNoListener {
			continue
		}
		sv.start()
		switch at := int64(sv.JoinsAt * float64(s.Size)); {
		case sv.index == 0:
		case sv.JoinsAt > 0:
			w.when(max(1, at), func() { sv.keepJoined(nil) })
		default:
			joined := make(chan struct{})
			w.wg.Go(func() { sv.keepJoined(joined) })
			if s.Doom != DoomNoListener {
				<-joined
			}
		}
		w.schedule(sv)
	}
	if w.Blip > 0 {
		anchor := w.servers[w.Anchor].addr.Addr()
		w.when(max(1, int64(w.BlipAt*float64(s.Size))), func() {
			w.net.Silence(anchor)
			pause(w.ctx, w.Blip)
			w.net.Heal(anchor)
		})
	}
	return w
}

// mtime is when the file was last changed, according to every server.
var mtime = time.Date(1999, 5, 17, 1, 2, 3, 456789, time.UTC)

func (w *World) newServer(i int, plan ServerPlan) *server {
	sv := &server{
		World: w, ServerPlan: plan, index: i, dir: NewMemDir(),
		addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), 4433),
	}
	sv.dir.ReadDelay = plan.Disk
	r := rand.New(rand.NewPCG(w.Seed, uint64(i)))
	switch plan.Copy {
	case CopyMissing:
		return sv
	case CopyTruncated:
		sv.dir.Put(served, w.file[:r.Int64N(max(1, w.Size))], 0o640, mtime)
		return sv
	case CopyGrown:
		sv.dir.Put(served, append(bytes.Clone(w.file), 0), 0o640, mtime)
		return sv
	}
	sv.dir.Put(served, w.file, 0o640, mtime)
	sv.bytes = spoil(w.file, plan.Copy, r)
	for off := int64(0); off < w.Size; off += group {
		end := min(off+group, w.Size)
		if bytes.Equal(sv.bytes[off:end], w.file[off:end]) {
			sv.right += end - off
		}
	}
	return sv
}

// spoil returns what a server sends for the file.
func spoil(file []byte, c Copy, r *rand.Rand) []byte {
	bad := bytes.Clone(file)
	n := int64(len(file))
	if n == 0 {
		return bad
	}
	switch c {
	case CopyFlipped:
		bad[r.Int64N(n)] ^= 1 << r.IntN(8)
	case CopyInverted:
		for i := range bad {
			bad[i] ^= 0xff
		}
	case CopyShuffled: // each group has the bytes of the next, the last those of the first, cut to length
		for off := int64(0); off < n; off += group {
			from := off + group
			if from >= n {
				from = 0
			}
			copy(bad[off:min(off+group, n)], file[from:])
		}
	case CopyStale:
		first := r.Int64N((n + group - 1) / group)
		for off := first * group; off < n; off += group * (1 + r.Int64N(3)) {
			bad[off+r.Int64N(min(group, n-off))]++
		}
	}
	return bad
}

// A lie is content whose bytes are not those of the file behind it.
type lie struct {
	kwik.Content
	bytes []byte
}

func (l lie) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.Content.ReadAt(p, off)
	copy(p[:n], l.bytes[off:])
	return n, err
}

// start begins a process at the server's address.
func (sv *server) start() {
	socket, err := sv.net.Listen(sv.addr, sv.Link)
	if err != nil {
		panic(err) // the process before it is gone
	}
	p := &life{socket: socket, dir: sv.dir.Dir()}
	p.ctx, p.cancel = context.WithCancel(sv.ctx)
	p.member, p.leave = context.WithCancel(p.ctx)
	p.transfer = serve.NewServer(memRoot{p.dir}, sv.log)
	conf := &kwik.ServerConfig{
		Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }}, JoinToken: token,
		OpenContent: func(ctx context.Context, r kwik.ContentRequest) (kwik.Content, error) {
			content, err := p.transfer.OpenContent(ctx, r)
			if err != nil || !sv.Copy.lies() {
				return content, err
			}
			return lie{content, sv.bytes}, nil
		},
	}
	if sv.index > 0 {
		conf.Role = kwik.ServerRoleSecondary
	} else {
		conf.Verify, conf.ChallengeDescriptor = p.transfer.Verify, p.transfer.ChallengeDescriptor
	}
	if sv.ResetKeys {
		conf.StatelessResetKey = &quic.StatelessResetKey{byte(sv.index)}
	}
	p.listener, err = kwik.Listen(socket, &tls.Config{Certificates: []tls.Certificate{identities()[sv.index]}}, conf)
	if err != nil {
		panic(err)
	}
	p.wg.Go(func() { p.transfer.Serve(p.ctx, p.listener) })
	sv.mu.Lock()
	defer sv.mu.Unlock()
	sv.life = p
}

// stop ends the process, if there is one: with a word to its peers, or without.
func (sv *server) stop(orderly bool) {
	sv.mu.Lock()
	p := sv.life
	sv.life = nil
	sv.mu.Unlock()
	if p == nil {
		return
	}
	if !orderly {
		p.socket.Close()
	}
	p.cancel()
	p.listener.Close()
	p.wg.Wait()
	p.transfer.Close()
	p.dir.Close()
	p.socket.Close()
}

// drain makes the process say goodbye to its peers and ends it.
func (sv *server) drain() {
	sv.mu.Lock()
	p := sv.life
	sv.mu.Unlock()
	if p == nil {
		return
	}
	p.leave()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	p.listener.Shutdown(ctx, "drained")
	sv.mu.Lock()
	mine := sv.life == p
	sv.mu.Unlock()
	if mine {
		sv.stop(true)
	}
}

// keepJoined joins the secondary to the primary. While the process lives, it joins again
// whenever the membership ends.
// It closes joined after the first time.
func (sv *server) keepJoined(joined chan struct{}) {
	sv.mu.Lock()
	p := sv.life
	sv.mu.Unlock()
	if p == nil {
		return
	}
	for p.member.Err() == nil {
		m, err := p.listener.Join(p.member, sv.servers[0].addr.String(), kwik.JoinConfig{Token: token})
		if err == nil {
			if joined != nil {
				close(joined)
				joined = nil
			}
			select {
			case <-m.Context().Done():
			case <-p.member.Done():
				m.Close()
			}
		}
		pause(p.member, 500*time.Millisecond)
	}
}

// pause waits, or reports false because ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// schedule arranges a server's outage.
func (w *World) schedule(sv *server) {
	o := sv.Outage
	if o.Kind == OutageNone {
		return
	}
	fall := func() {
		switch o.Kind {
		case OutageSilenced:
			w.net.Silence(sv.addr.Addr())
		case OutageCut:
			w.net.Partition(sv.addr.Addr(), clientIP)
		case OutageDetached:
			w.net.Partition(sv.addr.Addr(), w.servers[0].addr.Addr())
		case OutagePaused:
			w.net.Pause(sv.addr.Addr())
		case OutageNarrow:
			narrow := sv.Link
			narrow.MTU = 1000
			w.net.SetLink(sv.addr.Addr(), narrow)
		case OutageLeft:
			sv.drain()
		default:
			sv.stop(o.Kind == OutageClosed)
		}
	}
	rise := func() {
		if o.Back == 0 || !pause(w.ctx, o.Back) {
			return
		}
		switch o.Kind {
		case OutageSilenced:
			w.net.Heal(sv.addr.Addr())
		case OutageCut:
			w.net.HealPartition(sv.addr.Addr(), clientIP)
		case OutageDetached:
			w.net.HealPartition(sv.addr.Addr(), w.servers[0].addr.Addr())
		case OutagePaused:
			w.net.Resume(sv.addr.Addr())
		case OutageNarrow:
			w.net.SetLink(sv.addr.Addr(), sv.Link)
		default:
			sv.start()
			if sv.index > 0 {
				sv.keepJoined(nil)
			}
		}
	}
	if o.At < 0 {
		fall()
		w.wg.Go(rise)
		return
	}
	// This waits for the first byte in place. The client then has the manifest, and tickets for
	// all servers.
	w.when(max(1, int64(o.At*float64(w.Size))), func() {
		fall()
		rise()
	})
}

// when starts a goroutine that calls do once so many bytes are in place.
func (w *World) when(placed int64, do func()) {
	w.pending = append(w.pending, event{placed, do})
}

// written is called for each write of the client into its directory. No wrong byte may be
// there, under any name.
func (w *World) written(name string, off int64, p []byte) {
	if name == target && int64(len(p)) != w.Size {
		w.fault("%d bytes of %d are under the final name", len(p), w.Size)
	}
	w.check(off, p)
	if name != target {
		w.progress(int64(len(p)))
	}
}

// check records a fault unless p is what the file has from off on.
func (w *World) check(off int64, p []byte) {
	if off < 0 || off+int64(len(p)) > w.Size || !bytes.Equal(p, w.file[off:off+int64(len(p))]) {
		w.fault("wrong bytes written: %d at %d", len(p), off)
	}
}

// progress counts bytes in place and lets happen what is due.
func (w *World) progress(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.placed += n
	now := time.Now()
	if !w.lastly.IsZero() {
		w.gap = max(w.gap, now.Sub(w.lastly))
	}
	w.lastly = now
	rest := w.pending[:0]
	for _, e := range w.pending {
		if e.at <= w.placed {
			w.wg.Go(e.do)
		} else {
			rest = append(rest, e)
		}
	}
	w.pending = rest
}

// Close ends the world and waits for all that runs in it.
func (w *World) Close() {
	w.mu.Lock()
	w.pending = nil
	w.mu.Unlock()
	w.cancel()
	var wg sync.WaitGroup
	for _, sv := range w.servers {
		wg.Go(func() { sv.stop(true) })
	}
	wg.Wait()
	w.wg.Wait()
	for _, sv := range w.servers { // one that was about to rise
		sv.stop(true)
		if n := sv.dir.Opened(); n != 0 {
			w.fault("%s left %d files open", serverNames[sv.index], n)
		}
	}
	w.net.Close()
}
