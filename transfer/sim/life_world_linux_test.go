package sim

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

// A lifeWorld is a primary, its editor and its mirrors, in one bubble.
type lifeWorld struct {
	lifeScenario
	t       *testing.T
	start   time.Time
	net     *simnet.Network
	disk    *simDisk // of the primary
	hist    *history
	editor  *editor
	mirrors []*lifeMirror
	edits   int
	// turn is held by the goroutine that uses the editor; gap are the dice between its turns.
	turn chan struct{}
	gap  dice

	ctx    context.Context // ends with the world
	cancel context.CancelFunc
	// calm is closed when nothing fails any more.
	calm      chan struct{}
	troubles  sync.WaitGroup // goroutines that make trouble
	primaryMu sync.Mutex
	primary   *lifeServer

	mu      sync.Mutex
	faults  []string
	trouble troubled // of the network and the primary
}

// A troubled counts what is in trouble now, and knows when something was.
type troubled struct {
	count int
	last  time.Time
}

// since reports whether something is in trouble, or was after a moment.
func (t troubled) since(at time.Time) bool { return t.count > 0 || t.last.After(at) }

func (t *troubled) add(n int) {
	t.count += n
	t.last = time.Now()
}

func (w *lifeWorld) trace(format string, args ...any) {
	if Trace {
		w.t.Logf("%12.3f s  %s", time.Since(w.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (w *lifeWorld) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := fmt.Sprintf("%.3f s: %s", time.Since(w.start).Seconds(), fmt.Sprintf(format, args...))
	w.t.Log(text)
	if len(w.faults) < 12 {
		w.faults = append(w.faults, text)
	}
}

// A lifeServer is one server process, primary or secondary.
type lifeServer struct {
	mount    *simMount
	socket   net.PacketConn
	listener *kwik.Listener
	files    *serve.Server
	served   *disk.FollowedDir
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

func lifeAddr(host byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host}), 4433)
}

// serveLife starts a server of a disk at a host; number 1 is the primary.
func (w *lifeWorld) serveLife(host byte, mount *simMount) (*lifeServer, error) {
	served, err := disk.Follow(mount.path, func(string) (disk.TreeDir, error) { return mount.root(false) },
		func(r disk.FollowReport) { w.trace("host %d: root %+v", host, r) })
	if err != nil {
		return nil, err
	}
	s := &lifeServer{mount: mount, served: served}
	if s.socket, err = w.net.Listen(lifeAddr(host), w.link); err != nil {
		panic(err)
	}
	s.ctx, s.cancel = context.WithCancel(w.ctx)
	s.files = serve.NewServer(source.Local(served), slog.New(slog.DiscardHandler))
	conf := &kwik.ServerConfig{
		Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }}, JoinToken: token,
		OpenContent: s.files.OpenContent,
	}
	if host == 1 {
		conf.Verify = s.files.Verify
	} else {
		conf.Role = kwik.ServerRoleSecondary
	}
	cert := identities()[min(int(host)-1, 2)]
	if s.listener, err = kwik.Listen(s.socket, &tls.Config{Certificates: []tls.Certificate{cert}}, conf); err != nil {
		panic(err)
	}
	s.wg.Go(func() { s.files.Serve(s.ctx, s.listener) })
	if host == 1 {
		return s, nil
	}
	s.wg.Go(func() {
		for s.ctx.Err() == nil {
			m, err := s.listener.Join(s.ctx, lifeAddr(1).String(), kwik.JoinConfig{Token: token})
			if err == nil {
				select {
				case <-m.Context().Done():
				case <-s.ctx.Done():
					m.Close()
				}
			}
			pause(s.ctx, 5*time.Second)
		}
	})
	return s, nil
}

// stop ends the process, with a word to its peers or without.
func (s *lifeServer) stop(orderly bool) {
	if s == nil {
		return
	}
	if !orderly {
		s.mount.kill()
		s.socket.Close()
	}
	s.cancel()
	s.listener.Close()
	s.wg.Wait()
	s.files.Close()
	s.served.Close()
	s.socket.Close()
}

// liveOnce runs a scenario.
func liveOnce(t *testing.T, s lifeScenario) *lifeWorld {
	w := &lifeWorld{
		lifeScenario: s, t: t, start: time.Now(), net: simnet.New(s.seed), disk: newSimDisk("/simulated/primary"),
		hist: &history{paths: make(map[string][]version)}, calm: make(chan struct{}),
		turn: make(chan struct{}, 1),
	}
	w.gap = w.dice(4)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.disk.step, w.disk.enforces = s.step, s.enforces
	w.editor = &editor{
		dice: w.dice(1), disk: w.disk, hist: w.hist, maxEntries: s.entries, maxBytes: s.bytes, links: s.links,
		modes: s.modes, steps: s.steps, trace: w.trace,
	}
	for range 2 * s.entries {
		w.editor.grow()
	}
	w.startPrimary()
	for i, plan := range s.mirrors {
		w.mirrors = append(w.mirrors, newLifeMirror(w, i, plan))
	}
	var living sync.WaitGroup
	for _, m := range w.mirrors {
		living.Go(m.live)
		w.troubles.Go(m.trouble)
	}
	w.troubles.Go(w.edit)
	w.troubles.Go(w.upset)
	w.troubles.Go(w.upsetPrimary)
	pause(w.ctx, *lifespan)
	close(w.calm)
	w.troubles.Wait()
	w.trace("calm")
	living.Wait()
	w.cancel()
	w.primaryMu.Lock()
	w.primary.stop(true)
	w.primaryMu.Unlock()
	for _, m := range w.mirrors {
		m.process.stop(true)
		if n := m.disk.open; n != 0 {
			w.fault("mirror %d left %d handles open", m.index, n)
		}
	}
	w.net.Close()
	return w
}

func (w *lifeWorld) dice(stream uint64) dice { return dice{simnet.NewDice(w.seed, stream)} }

func (w *lifeWorld) startPrimary() {
	w.primaryMu.Lock()
	defer w.primaryMu.Unlock()
	if w.primary == nil {
		w.primary, _ = w.serveLife(1, w.disk.mount())
	}
}

// idle waits; it reports false once the world is calm.
func (w *lifeWorld) idle(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.calm:
		return false
	}
}

// edit changes the tree until the world is calm.
func (w *lifeWorld) edit() {
	e := w.editor
	for w.idle(w.gap.Duration(time.Second, w.quiet)) {
		for range 1 + w.gap.IntN(6) {
			w.turn <- struct{}{}
			e.step(w.idle)
			w.edits++
			<-w.turn
			if w.gap.Half() {
				w.idle(w.gap.Duration(time.Millisecond, 3*time.Second))
			}
		}
	}
	w.turn <- struct{}{}
	e.mend()
	<-w.turn
}

// rush changes the tree while a round runs.
func (w *lifeWorld) rush(r dice, ended <-chan struct{}) {
	for {
		select {
		case <-time.After(r.Duration(100*time.Microsecond, 2*time.Second)):
		case <-ended:
			return
		}
		select {
		case w.turn <- struct{}{}:
			w.editor.step(func(d time.Duration) bool { time.Sleep(min(d, time.Second)); return true })
			w.edits++
			<-w.turn
		default:
		}
	}
}

// troubled notes that the network or the primary is in trouble from now on, or no longer.
func (w *lifeWorld) troubled(lasts bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble.add(signOf(lasts))
}

func signOf(lasts bool) int {
	if lasts {
		return 1
	}
	return -1
}

// upset makes trouble in the network.
func (w *lifeWorld) upset() {
	r := w.dice(2)
	for w.badNet && w.idle(r.Duration(10*time.Minute, 8*time.Hour)) {
		w.troubled(true)
		primary := lifeAddr(1).Addr()
		victim := clientOf(r.IntN(len(w.mirrors)))
		lossy := w.link
		var heal func()
		switch kind := r.IntN(4); kind {
		case 0:
			w.net.Silence(primary)
			heal = func() { w.net.Heal(primary) }
		case 1:
			w.net.Partition(primary, victim)
			heal = func() { w.net.HealPartition(primary, victim) }
		case 2:
			lossy.Loss = r.Log(0.01, 0.5)
			w.net.SetLink(primary, lossy)
			heal = func() { w.net.SetLink(primary, w.link) }
		case 3:
			lossy.Rate = r.Log(20e3, 5e6)
			w.net.SetLink(primary, lossy)
			heal = func() { w.net.SetLink(primary, w.link) }
		}
		w.trace("the network is in trouble")
		w.idle(r.Duration(time.Second, 2*time.Hour))
		heal()
		w.troubled(false)
		w.trace("the network is well")
	}
}

// upsetPrimary makes trouble on the primary.
func (w *lifeWorld) upsetPrimary() {
	r := w.dice(3)
	for (w.restarts || w.vanishes || w.badDisk) && w.idle(r.Duration(10*time.Minute, 8*time.Hour)) {
		w.troubled(true)
		switch r.IntN(3) {
		case 0:
			if w.restarts {
				w.trace("the primary dies")
				w.primaryMu.Lock()
				p := w.primary
				w.primary = nil
				w.primaryMu.Unlock()
				p.stop(r.Half())
				w.idle(r.Duration(time.Second, time.Hour))
				w.startPrimary()
				w.trace("the primary is back")
			}
		case 1:
			if w.vanishes {
				w.trace("the root of the primary vanishes")
				if r.Half() {
					w.disk.show(nil)
				} else {
					w.disk.show(w.disk.newDir(7)) // the mount point
				}
				w.idle(r.Duration(time.Millisecond, time.Hour))
				w.disk.show(w.disk.top)
				w.trace("the root of the primary is back")
			}
		case 2:
			if w.badDisk {
				f := randomFault(r, []string{"open", "opendir", "stat", "readdir", "read", "readlink"})
				w.trace("the disk of the primary fails: %v", f)
				w.disk.setFault(f)
				w.idle(r.Duration(time.Second, 2*time.Hour))
				w.disk.setFault(nil)
				w.trace("the disk of the primary is well")
			}
		}
		w.troubled(false)
	}
}

// randomFault returns a fault of some operations.
func randomFault(r dice, ops []string) *simFault {
	errnos := []syscall.Errno{
		syscall.EIO, syscall.EIO, syscall.EIO, syscall.EROFS, syscall.EACCES, syscall.ESTALE, syscall.ENOMEM,
		syscall.EMFILE, syscall.EDQUOT, syscall.EBUSY, syscall.ETIMEDOUT, syscall.EPERM, syscall.EINTR,
	}
	f := &simFault{err: errnos[r.IntN(len(errnos))]}
	if !r.OneIn(4) {
		f.ops = []string{ops[r.IntN(len(ops))], ops[r.IntN(len(ops))]}
	}
	if f.err == syscall.EROFS {
		f.ops = changing
	}
	if r.Half() {
		p := []float64{0.5, 0.1, 0.02}[r.IntN(3)]
		own := rand.New(rand.NewPCG(r.Uint64(), 1))
		f.fails = func(string) bool { return own.Float64() < p }
	}
	return f
}

func (f *simFault) String() string {
	return fmt.Sprintf("%v of %v, %d to skip, %d only, chance %t", f.err, f.ops, f.skip, f.only, f.fails != nil)
}

func clientOf(mirror int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(101 + mirror)}) }

// A lifeMirror is one mirror.
type lifeMirror struct {
	*lifeWorld
	mirrorPlan
	index    int
	disk     *simDisk
	backups  *simNode
	dice     dice // of live
	target   string
	backupAt string
	// foreign are the files that the mirror must not touch.
	foreign map[string][]byte
	home    *simNode // the directory that they are in

	rounds, kills, cuts, vanished int
	good, partial, limited        int
	kinds                         map[transfer.Kind]int
	isOver                        int // rounds in a row that were over the limit of deletions

	// hasUnsynced is set if a round warned that it could not sync, until one has compared
	// everything.
	hasUnsynced bool

	process *lifeServer           // nil if it does not serve, or is dead
	memory  transfer.MirrorMemory // of the process

	// Guarded by lifeWorld.mu.
	diskTrouble troubled
	starts      int // of processes
}

func newLifeMirror(w *lifeWorld, i int, plan mirrorPlan) *lifeMirror {
	m := &lifeMirror{
		lifeWorld: w, mirrorPlan: plan, index: i, dice: w.dice(100 + uint64(i)),
		target: fmt.Sprintf("/simulated/mirror-%d", i),
		kinds:  make(map[transfer.Kind]int),
	}
	m.backupAt = m.target + "-backup"
	m.disk = newSimDisk(m.target)
	m.disk.step, m.disk.enforces, m.disk.syncsWhole = plan.step, plan.enforces, plan.syncsWhole
	if plan.isSlow {
		pace := w.dice(200 + uint64(i))
		var mu sync.Mutex
		m.disk.pace = func(op string) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case op == "sync":
				return pace.Duration(100*time.Microsecond, 300*time.Millisecond)
			case op == "write":
				return pace.Duration(time.Microsecond, 10*time.Millisecond)
			}
			return 0
		}
	}
	device := uint64(1)
	if plan.otherDevice {
		device = 2
	}
	m.backups = m.disk.newDir(device)
	m.options.Target = m.target
	if plan.backup {
		m.options.BackupDir = m.backupAt
	}
	if plan.hasFilter {
		for _, text := range []string{"*.tmp", "/private/"} {
			if err := m.options.Filter.Add(false, text); err != nil {
				panic(err)
			}
		}
	}
	if plan.hasFilter && plan.foreignFiles {
		m.plant()
	}
	return m
}

// plant puts files into the target that the filter excludes.
func (m *lifeMirror) plant() {
	m.foreign, m.home = make(map[string][]byte), m.disk.top
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	add := func(dir *simNode, name, at string, n *simNode) {
		m.disk.setNames(nameChange{dir, name, n})
		m.foreign[at] = n.data
		m.disk.soil(n)
		m.disk.sync(n)
	}
	for _, name := range []string{"own.tmp", "x1.tmp"} {
		n := m.disk.newNode(0o644)
		n.data = []byte("of " + name)
		m.disk.used += int64(len(n.data))
		add(m.disk.top, name, name, n)
	}
	dir := m.disk.newDir(1)
	m.disk.setNames(nameChange{m.disk.top, "private", dir})
	n := m.disk.newNode(0o600)
	n.data = []byte("of the machine")
	m.disk.used += int64(len(n.data))
	add(dir, "own", "private/own", n)
	m.disk.syncNames(nil)
}

// diskTroubled notes that the disk is in trouble from now on, or no longer.
func (m *lifeMirror) diskTroubled(lasts bool) {
	m.lifeWorld.mu.Lock()
	defer m.lifeWorld.mu.Unlock()
	m.diskTrouble.add(signOf(lasts))
}

// trouble makes trouble on the disk.
func (m *lifeMirror) trouble() {
	r := m.lifeWorld.dice(300 + uint64(m.index))
	for (m.mirrorPlan.badDisk || m.mirrorPlan.vanishes) && m.idle(r.Duration(10*time.Minute, 8*time.Hour)) {
		m.diskTroubled(true)
		switch kind := r.IntN(3); {
		case kind == 0 && m.mirrorPlan.badDisk:
			f := randomFault(r, allOps)
			m.trace("the disk of mirror %d fails: %v", m.index, f)
			m.disk.setFault(f)
			m.idle(r.Duration(time.Second, 4*time.Hour))
			m.disk.setFault(nil)
		case kind == 1 && m.mirrorPlan.badDisk:
			m.disk.mu.Lock()
			m.disk.room = m.disk.used + int64(r.Log(1, 1_000_000)) - 1
			m.trace("the disk of mirror %d is full at %d of %d", m.index, m.disk.used, m.disk.room)
			m.disk.mu.Unlock()
			m.idle(r.Duration(time.Second, 4*time.Hour))
			m.disk.mu.Lock()
			m.disk.room = -1
			m.disk.mu.Unlock()
		case m.mirrorPlan.vanishes:
			m.vanish(r)
		}
		m.trace("the disk of mirror %d is well", m.index)
		m.diskTroubled(false)
	}
}

// started counts n starts of a process, and returns how many there were.
func (m *lifeMirror) started(n int) int {
	m.lifeWorld.mu.Lock()
	defer m.lifeWorld.mu.Unlock()
	m.starts += n
	return m.starts
}

// vanish takes the root away for some time.
func (m *lifeMirror) vanish(r dice) {
	m.vanished++
	starts := m.started(0)
	old := m.disk.top
	isMounted := r.Half() // so that its mount point is empty
	fails := r.Half()     // as a device that was pulled out
	m.trace("the root of mirror %d vanishes: mount point %t, fails %t", m.index, isMounted, fails)
	var mountPoint *simNode
	m.disk.mu.Lock()
	if isMounted { // each on another file system: a process that was started on one takes none for its own
		mountPoint = m.disk.newDir(uint64(9 + m.vanished))
	}
	m.disk.shown, m.disk.isDead = mountPoint, fails && !isMounted
	m.disk.mu.Unlock()
	m.idle(r.Duration(time.Millisecond, 2*time.Hour))
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.isDead = false
	isSame := m.started(0) == starts // a process that starts meanwhile knows no other root
	if mustNotWrite := isMounted && m.serves && isSame; mustNotWrite && len(mountPoint.names) > 0 {
		m.t.Errorf("mirror %d wrote into the mount point: %v", m.index, mountPoint.names)
	}
	if r.OneIn(3) { // it is empty when it returns
		m.trace("the root of mirror %d comes back empty", m.index)
		m.disk.top = m.disk.newDir(1)
		m.foreign = nil
	} else {
		m.disk.top = old
	}
	m.disk.shown = m.disk.top
}

// open is the OpenTree of a process.
func (m *lifeMirror) open(mount *simMount, served *disk.FollowedDir) func(string, bool) (disk.TreeDir, error) {
	return func(path string, create bool) (disk.TreeDir, error) {
		if path == m.backupAt {
			mount.mu.Lock()
			defer mount.mu.Unlock()
			return mount.opendir(m.backups), nil
		}
		if served == nil {
			return mount.root(create)
		}
		if err := disk.CheckPath(served, path); err != nil {
			return nil, err
		}
		tree, err := mount.root(false)
		if err != nil {
			return nil, err
		}
		if err := disk.CheckPath(served, path); err != nil {
			tree.Close()
			return nil, err
		}
		return tree, nil
	}
}

// source is how the mirror reaches the primary.
func (m *lifeMirror) source() transfer.MirrorSource {
	return transfer.MirrorSource{
		URL: transfer.URL{Host: lifeAddr(1).String()},
		TLS: trust.PinnedClientConfig(nil, trust.PinOf(identities()[0].Leaf)),
		KWIK: &kwik.ClientConfig{
			Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }},
			ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
				return m.net.Listen(netip.AddrPortFrom(clientOf(m.index), 0), m.link)
			},
		},
	}
}

// live runs rounds until the world is calm, and the last ones.
func (m *lifeMirror) live() {
	for m.idle(m.dice.Duration(m.interval/3, 2*m.interval)) {
		m.round(true)
		if m.memory.HasYoung() && m.serves {
			m.idle(max(m.options.MinAge, time.Second))
			m.round(true)
		}
	}
	m.troubles.Wait()
	m.startPrimary()
	time.Sleep(5*time.Minute + m.options.MinAge) // failed connections end, and nothing is young
	m.converge()
}

// start starts the serving process, if it is dead. It reports whether there is one.
func (m *lifeMirror) start() bool {
	if m.process != nil || !m.serves {
		return m.serves
	}
	var err error
	m.process, err = m.serveLife(byte(2+m.index), m.disk.mount())
	if err != nil {
		m.trace("mirror %d does not start: %v", m.index, err)
		m.process = nil
		return false
	}
	m.memory = transfer.MirrorMemory{}
	m.started(1)
	return true
}
