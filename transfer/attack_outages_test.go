package transfer

import (
	"bytes"
	"context"
	"fmt"
	"kwikcp/internal/simnet"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// outageStarts are times after the start of a transfer that takes about ten seconds, whose first
// reply arrives after 500 ms.
var outageStarts = []time.Duration{
	420 * time.Millisecond, 520 * time.Millisecond, 560 * time.Millisecond, 600 * time.Millisecond,
	1500 * time.Millisecond, 4 * time.Second,
}

// An outage happens to the server of a world.
type outage struct {
	name       string
	begin, end func(w *outageWorld)
	last       time.Duration
	repeat     int           // how often it happens
	calm       time.Duration // between two of them
}

// An outageWorld is a testNet whose server has outages.
type outageWorld struct {
	*testNet
	dir    disk.TreeDir   // of the server
	socket net.PacketConn // of the server
}

func (w *outageWorld) silence() { w.Sim.Silence(transfertest.ServerAddr.Addr()) }
func (w *outageWorld) heal()    { w.Sim.Heal(transfertest.ServerAddr.Addr()) }
func (w *outageWorld) close()   { w.Listener.Close() }

// restart starts the server again, with the same key and address.
func (w *outageWorld) restart() {
	w.socket.Close()
	w.serve(w.dir)
}

// outages are what each kind of transfer outlives. The first ones end before QUIC's idle time-out.
var outages = []outage{
	{"silence of 8 s", (*outageWorld).silence, (*outageWorld).heal, 8 * time.Second, 1, 0},
	{"silence of 20 s", (*outageWorld).silence, (*outageWorld).heal, 20 * time.Second, 1, 0},
	{"silence of a minute", (*outageWorld).silence, (*outageWorld).heal, time.Minute, 1, 0},
	{"a link that fails again and again", (*outageWorld).silence, (*outageWorld).heal, 5 * time.Second, 6, 10 * time.Second},
	{"a restart", (*outageWorld).close, (*outageWorld).restart, 1500 * time.Millisecond, 1, 0},
}

// newOutageWorld starts our server of a directory with these files. It reads slowly.
func newOutageWorld(w *testNet, files map[string][]byte) *outageWorld {
	w.T.Helper()
	o := &outageWorld{testNet: w}
	root := w.T.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o600); err != nil {
			w.T.Fatal(err)
		}
	}
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { dir.Close() })
	o.dir = slowTree{dir, 50 * time.Millisecond}
	w.Link = simnet.Link{Latency: 50 * time.Millisecond, Rate: 1e6}
	w.Wrap = func(conn net.PacketConn) net.PacketConn {
		o.socket = conn
		return conn
	}
	w.serve(o.dir)
	return o
}

// attackIsLong reports whether tests run in their long form.
func attackIsLong() bool { return os.Getenv("KWIKCP_ATTACK") == "long" }

// A slowTree is a directory in which each read of a file takes longer.
type slowTree struct {
	disk.TreeDir
	delay time.Duration
}

func (d slowTree) Open(name string) (disk.File, error) {
	return transfertest.SlowDir{TreeDir: d.TreeDir, Delay: d.delay}.Open(name)
}

// inOutages runs a transfer of a MB, with outages in each of its phases. A server that is not warm
// hashes its files meanwhile. The short form takes every other outage, in one phase.
func inOutages(t *testing.T, files map[string][]byte, isWarm bool, transfer func(w *testNet) error) {
	for i, o := range outages {
		starts := outageStarts
		if !attackIsLong() {
			if isOdd := i%2 == 1; isOdd == isWarm {
				continue
			}
			starts = starts[(i+len(files))%len(starts):][:1]
		}
		for _, at := range starts {
			onWire(t, func(n *testNet) {
				w := newOutageWorld(n, files)
				for name := range files {
					if isWarm {
						w.get(func(o *GetOptions) { o.URL.Path = name })
					}
				}
				time.Sleep(time.Second)
				w.Go(func() {
					time.Sleep(at)
					for range o.repeat {
						o.begin(w)
						time.Sleep(o.last)
						o.end(w)
						time.Sleep(o.calm)
					}
				})
				start := time.Now()
				if err := transfer(n); err != nil {
					w.T.Errorf("%s after %v: %v after %v", o.name, at, err, time.Since(start))
				}
				most := time.Duration(o.repeat)*(2*o.last+o.calm) + 30*time.Second
				if took := time.Since(start); took < o.last || took > most {
					w.T.Errorf("%s after %v: it took %v, want at most %v", o.name, at, took, most)
				}
			})
		}
	}
}

// TestAttackOutages cuts the network for as long as the default StallTimeout, or again and again,
// or restarts the server, in each phase of a transfer. Transfers are into a file, to an
// output, of a list and of a tree. The servers know the hashes, or do not know them yet.
func TestAttackOutages(t *testing.T) {
	content := bytes.Repeat(theFile, 1<<20/len(theFile)+1)
	files := make(map[string][]byte)
	for i := range 12 {
		files[fmt.Sprintf("file%02d", i)] = content[i*50_000 : (i+1)*50_000+20_000]
	}
	one := map[string][]byte{"file": content}
	for _, tt := range []struct {
		name     string
		files    map[string][]byte
		transfer func(w *testNet) error
	}{
		{"file", one, func(w *testNet) error { return getFile(w, nil, "file", content) }},
		{"output", one, getOutput(content)},
		{"list", files, getList(files)},
		{"tree", files, getTree(files)},
	} {
		for _, isWarm := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, warm %t", tt.name, isWarm), func(t *testing.T) {
				inOutages(t, tt.files, isWarm, tt.transfer)
			})
		}
	}
}

// getFile gets a file of the server into a file.
func getFile(w *testNet, pool *Pool, name string, want []byte) error {
	target := filepath.Join(w.T.TempDir(), "target")
	_, err := getWhole(w.T, w.Ctx, GetOptions{
		URL: URL{Host: transfertest.ServerAddr.String(), Path: name}, TLS: w.TLS(), Target: target, KWIK: w.Client(),
		Pool: pool,
	}, nil)
	if got, _ := os.ReadFile(target); err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s has %d bytes", name, len(got))
	}
	return err
}

// getOutput returns a transfer of "file" to an output.
func getOutput(want []byte) func(w *testNet) error {
	return func(w *testNet) error {
		got, _, err := w.get()
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("the output has %d bytes", len(got))
		}
		return err
	}
}

// getList returns a transfer of files on sessions of a pool, two at a time, as of a list.
func getList(files map[string][]byte) func(w *testNet) error {
	return func(w *testNet) error {
		pool := &Pool{}
		defer pool.Close()
		ctx, cancel := context.WithCancelCause(w.Ctx)
		defer cancel(nil)
		names := make(chan string)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for name := range names {
					if err := getFile(w, pool, name, files[name]); err != nil {
						cancel(err)
					}
				}
			})
		}
		for i := range len(files) {
			names <- fmt.Sprintf("file%02d", i)
		}
		close(names)
		wg.Wait()
		return context.Cause(ctx)
	}
}

// getTree returns a transfer of the server's directory.
func getTree(files map[string][]byte) func(w *testNet) error {
	return func(w *testNet) error {
		target := filepath.Join(w.T.TempDir(), "target")
		source := MirrorSource{URL: URL{Host: transfertest.ServerAddr.String()}, TLS: w.TLS(), KWIK: w.Client()}
		_, err := Mirror(w.Ctx, MirrorOptions{MirrorSource: source, Target: target}, nil)
		for name, want := range files {
			if got, _ := os.ReadFile(filepath.Join(target, name)); err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("%s has %d bytes", name, len(got))
			}
		}
		return err
	}
}
