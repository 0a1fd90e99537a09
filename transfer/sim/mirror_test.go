package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

var mirrorSeeds = flag.Int("mirrorseeds", 12, "how many seeds of mirrors to run")

// TestMirrorSeeds mirrors about fifty files from three servers. Some copies are incomplete or
// wrong, the links lose packets, and one server goes away. The files are in real directories;
// all else is simulated. In every run:
//
//   - A final name holds the right file or is absent.
//   - While the primary stays, the mirror succeeds within a bound. Otherwise it succeeds or
//     reports a network error.
//   - When the primary is back, the same mirror fetches the missing files.
func TestMirrorSeeds(t *testing.T) {
	for seed := *first; seed < *first+uint64(*mirrorSeeds); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			files := plantTree(t, seed)
			synctest.Test(t, func(t *testing.T) { mirrorOnce(t, seed, files) })
		})
	}
}

// A mirrorTree is what the servers have on disk.
type mirrorTree struct {
	dice
	roots  [3]string
	target string
	files  map[string][]byte
	total  int64
	liar   int // the server that lies; 0 for none
}

func plantTree(t *testing.T, seed uint64) *mirrorTree {
	t.Helper()
	m := &mirrorTree{dice: dice{simnet.NewDice(seed, 0x6d6972726f72)}, target: filepath.Join(t.TempDir(), "copy"),
		files: make(map[string][]byte)}
	for i := range m.roots {
		m.roots[i] = t.TempDir()
	}
	if m.OneIn(3) {
		m.liar = 1 + m.IntN(2)
	}
	for i := range 50 {
		name := fmt.Sprintf("d%d/%02d", m.IntN(3), i)
		content := make([]byte, int64(m.Log(1, 300_000)))
		rand.NewChaCha8([32]byte{byte(seed), byte(i)}).Read(content)
		m.files[name], m.total = content, m.total+int64(len(content))
		for s, root := range m.roots {
			if s > 0 && m.OneIn(4) {
				continue
			}
			p := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, content, 0o644),
				os.Chtimes(p, mtime, mtime)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

// A mirrorHost is one server process, and the next one at its address.
type mirrorHost struct {
	t     *testing.T
	net   *simnet.Network
	index int
	link  simnet.Link
	lies  bool
	root  string

	mu   sync.Mutex
	stop func(orderly bool)
}

func (h *mirrorHost) addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + h.index)}), 4433)
}

// start runs a process, which keeps itself joined to the primary if it is a secondary.
func (h *mirrorHost) start(ctx context.Context) {
	socket, err := h.net.Listen(h.addr(), h.link)
	if err != nil {
		h.t.Error(err)
		return
	}
	dir, err := disk.OpenTree(h.root, false)
	if err != nil {
		h.t.Error(err)
		return
	}
	server := serve.NewServer(source.Local(dir), slog.New(slog.DiscardHandler))
	conf := &kwik.ServerConfig{
		Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }}, JoinToken: token,
		OpenContent: server.OpenContent,
	}
	if h.lies {
		conf.OpenContent = func(ctx context.Context, r kwik.ContentRequest) (kwik.Content, error) {
			c, err := server.OpenContent(ctx, r)
			if err != nil {
				return nil, err
			}
			return inverted{c.(kwik.PartialContent)}, nil
		}
	}
	if h.index > 0 {
		conf.Role = kwik.ServerRoleSecondary
	} else {
		conf.Verify, conf.ChallengeDescriptor = server.Verify, server.ChallengeDescriptor
	}
	l, err := kwik.Listen(socket, &tls.Config{Certificates: []tls.Certificate{identities()[h.index]}}, conf)
	if err != nil {
		h.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(ctx, l) })
	if h.index > 0 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if m, err := l.Join(ctx, "10.0.0.1:4433", kwik.JoinConfig{Token: token}); err == nil {
					select {
					case <-m.Context().Done():
					case <-ctx.Done():
						m.Close()
					}
				}
				pause(ctx, 500*time.Millisecond)
			}
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = func(orderly bool) {
		if !orderly {
			socket.Close()
		}
		cancel()
		l.Close()
		wg.Wait()
		server.Close()
		dir.Close()
		socket.Close()
	}
}

// end ends the process, if there is one.
func (h *mirrorHost) end(orderly bool) (ended bool) {
	h.mu.Lock()
	stop := h.stop
	h.stop = nil
	h.mu.Unlock()
	if stop != nil {
		stop(orderly)
	}
	return stop != nil
}

// inverted is content with every bit wrong.
type inverted struct{ kwik.PartialContent }

func (c inverted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.PartialContent.ReadAt(p, off)
	for i := range p[:n] {
		p[i] ^= 0xff
	}
	return n, err
}

// A mirrorWatch hears what is placed, and lets something happen once.
type mirrorWatch struct {
	transfer.NoReport
	mu     sync.Mutex
	at     int
	do     func()
	failed []transfer.FileReport
}

func (w *mirrorWatch) File(f transfer.FileReport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.Action == transfer.FileFailed {
		w.failed = append(w.failed, f)
	}
}

// Progress counts bytes, since files are placed in groups.
func (w *mirrorWatch) Progress(p transfer.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.do != nil && p.Bytes >= int64(w.at) {
		go w.do()
		w.do = nil
	}
}

// lightTree is a target that is never synced. The simulator does not test the disk of its
// machine.
type lightTree struct{ disk.TreeDir }

func (lightTree) OpenVolume() (disk.Volume, error) { return lightTree{}, nil }
func (lightTree) Sync() error                      { return nil }
func (d lightTree) Close() error {
	if d.TreeDir == nil {
		return nil // a volume
	}
	return d.TreeDir.Close()
}

func mirrorOnce(t *testing.T, seed uint64, m *mirrorTree) {
	network := simnet.New(seed)
	defer network.Close()
	ctx, cancel := context.WithCancel(context.Background())
	link := func() simnet.Link {
		l := simnet.Link{Latency: time.Duration(m.Log(0.5, 40) * float64(time.Millisecond)), Rate: m.Log(10e6, 200e6)}
		if m.Half() {
			l.Loss = []float64{0.001, 0.01, 0.02}[m.IntN(3)]
		}
		return l
	}
	var hosts [3]*mirrorHost
	for i := range hosts {
		hosts[i] = &mirrorHost{t: t, net: network, index: i, link: link(), lies: i > 0 && i == m.liar, root: m.roots[i]}
		hosts[i].start(ctx)
	}
	defer func() {
		cancel()
		for _, h := range hosts {
			h.end(true)
		}
	}()
	pause(ctx, 5*time.Second) // until the secondaries have joined
	client := link()
	options := transfer.MirrorOptions{
		MirrorSource: transfer.MirrorSource{
			URL: transfer.URL{Host: "10.0.0.1:4433"},
			TLS: trust.PinnedClientConfig(nil, trust.PinOf(identities()[0].Leaf)),
			KWIK: &kwik.ClientConfig{
				Config: kwik.Config{LocalAddresses: func() []netip.Addr { return nil }},
				ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
					return network.Listen(netip.AddrPortFrom(clientIP, 0), client)
				},
			},
		},
		Target: m.target,
		OpenTree: func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			return lightTree{d}, err
		},
	}
	watch := &mirrorWatch{at: m.IntN(int(m.total))}
	falls, orderly, back := m.IntN(4), m.Half(), m.Half()
	var falling sync.WaitGroup
	if falls < 3 {
		falling.Add(1)
		watch.do = func() {
			defer falling.Done()
			hosts[falls].end(orderly)
			if back && pause(ctx, time.Second) {
				hosts[falls].start(ctx)
			}
		}
	}
	bounded, done := context.WithTimeoutCause(ctx, 5*time.Minute, errTooLong)
	start := time.Now()
	result, err := transfer.Mirror(bounded, options, watch)
	done()
	kind := transfer.KindOther
	if e, ok := asError(err); ok {
		kind = e.Kind
	}
	t.Logf("server %d falls (orderly %t, back %t), %d lies: %v after %v; %+v", falls, orderly, back, m.liar, err,
		time.Since(start), result)
	if err != nil && (falls != 0 || kind != transfer.KindNetwork) {
		t.Errorf("%v, %+v", err, watch.failed)
	}
	m.checkPlaced(t, err == nil)

	watch.mu.Lock()
	if watch.do != nil { // it was over before
		watch.do = nil
		falling.Done()
	}
	watch.mu.Unlock()
	falling.Wait()
	if hosts[0].end(true) { // as a new process
		pause(ctx, time.Second)
	}
	hosts[0].start(ctx)
	bounded, done = context.WithTimeoutCause(ctx, 5*time.Minute, errTooLong)
	defer done()
	again, err2 := transfer.Mirror(bounded, options, &mirrorWatch{})
	if err2 != nil || err == nil && again.Fetched > 0 {
		t.Errorf("again: %v, %+v", err2, again)
	}
	m.checkPlaced(t, true)
}

// checkPlaced checks that what is in the target is right and, if it is to be complete, that all is.
func (m *mirrorTree) checkPlaced(t *testing.T, complete bool) {
	t.Helper()
	placed := 0
	filepath.WalkDir(m.target, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(m.target, p)
		if strings.HasPrefix(filepath.Base(p), ".kwikcp-") {
			if complete || strings.HasSuffix(p, ".new") {
				t.Errorf("%q is left", name)
			}
			return nil
		}
		content, err := os.ReadFile(p)
		if placed++; err != nil || !bytes.Equal(content, m.files[name]) {
			t.Errorf("%q is not what it should be: %v", name, err)
		}
		return nil
	})
	if complete && placed != len(m.files) {
		t.Errorf("%d of %d files are there", placed, len(m.files))
	}
}
