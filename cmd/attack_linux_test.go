package cmd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/attack"
)

// longAttack reports whether attacks run in their long form.
func longAttack() bool { return os.Getenv("KWIKCP_ATTACK") == "long" }

// An attackedServer is a server process with one file.
type attackedServer struct {
	t       *testing.T
	work    string
	process *process
	url     string
	addr    netip.AddrPort
	gets    int
}

func newAttackedServer(t *testing.T, fileSize int64) *attackedServer {
	t.Helper()
	work := t.TempDir()
	for _, dir := range []string{"root", ".tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := fillFile(filepath.Join(work, "root", "file"), fileSize, 1); err != nil {
		t.Fatal(err)
	}
	p, url := startTestServer(t, work, "--role", "primary", "--root", "root")
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "kwik://"), "/")
	return &attackedServer{t: t, work: work, process: p, url: url, addr: netip.MustParseAddrPort(host)}
}

// get fetches the file once and reports whether that succeeded.
func (s *attackedServer) get() bool {
	s.t.Helper()
	s.gets++
	url := strings.Replace(s.url, "/?", "/file?", 1)
	p, err := startProcess(s.work, testEnv(s.work), nil, "get", url, fmt.Sprintf("out-%d", s.gets))
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.kill()
	code, err := p.wait(patience)
	if err != nil || code != 0 {
		s.t.Logf("get %d: exit code %d, %v\n%s", s.gets, code, err, p.stderr)
	}
	return err == nil && code == 0
}

// peakMemory returns the most resident memory of the server so far, in MiB.
func (s *attackedServer) peakMemory() int {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmHWM:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib >> 10
		}
	}
	s.t.Fatal("no VmHWM")
	return 0
}

// processorTime returns the processor time of the server so far.
func (s *attackedServer) processorTime() time.Duration {
	s.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// A flood sends Initials from many addresses of this machine, which never answer.
type flood struct {
	sources  []*net.UDPConn
	received atomic.Int64 // bytes that the server sent to the sources
	readers  sync.WaitGroup
}

func newFlood(t *testing.T, to netip.AddrPort, sources int) *flood {
	t.Helper()
	f := &flood{}
	for i := range sources {
		local := &net.UDPAddr{IP: net.IPv4(127, 66, byte(i>>8), byte(i))}
		c, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		f.sources = append(f.sources, c)
		f.readers.Go(func() {
			buf := make([]byte, 2048)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				f.received.Add(int64(n))
			}
		})
	}
	t.Cleanup(func() {
		for _, c := range f.sources {
			c.Close()
		}
		f.readers.Wait()
	})
	return f
}

// send sends packets at a rate per second until stop is closed, and repeats them as often as it
// takes. It returns how many packets and bytes it sent.
func (f *flood) send(packets [][]byte, rate int, stop <-chan struct{}) (count, bytes int) {
	start := time.Now()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return count, bytes
		case <-ticker.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); count < due; count++ {
			n, err := f.sources[count%len(f.sources)].Write(packets[count%len(packets)])
			if err == nil {
				bytes += n
			}
		}
	}
}

// A server is flooded with spoofed Initials. It sends fewer bytes than it receives, stays small and
// serves honest clients.
func TestAttackSpoofedInitials(t *testing.T) {
	rate, gets, distinct := 2000, 5, 1000
	if longAttack() {
		rate, gets, distinct = 6000, 20, 40000
	}
	packets, err := attack.Initials(distinct, "kwik/1")
	if err != nil {
		t.Fatal(err)
	}
	s := newAttackedServer(t, 1<<20)
	f := newFlood(t, s.addr, 256)
	stop, done := make(chan struct{}), make(chan struct{})
	before, start := s.processorTime(), time.Now()
	var count, in int
	go func() { // ends with stop
		defer close(done)
		count, in = f.send(packets, rate, stop)
	}()
	good := 0
	for range gets {
		if s.get() {
			good++
		}
	}
	if rest := 10*time.Second - time.Since(start); longAttack() {
		<-time.After(rest)
	}
	close(stop)
	<-done
	took := time.Since(start)
	<-time.After(time.Second) // packets may be on their way
	out, peak := int(f.received.Load()), s.peakMemory()
	t.Logf("%d Initials in %.1f s, %.0f a second: peak %d MiB, %.1f s of processor time", count,
		took.Seconds(), float64(count)/took.Seconds(), peak, (s.processorTime() - before).Seconds())
	t.Logf("%.2f bytes out for each byte in; %d of %d gets", float64(out)/float64(in), good, gets)
	if peak > 100 {
		t.Errorf("the server took %d MiB", peak)
	}
	if out >= in {
		t.Errorf("%d bytes made the server send %d", in, out)
	}
	if good != gets {
		t.Errorf("%d of %d honest clients were served", good, gets)
	}
}

// Connections arrive that complete their handshakes and send nothing: 300 at once, then 100 a
// second. Honest clients at the same address are served.
func TestAttackSilentConnections(t *testing.T) {
	gets := 5
	if longAttack() {
		gets = 20
	}
	s := newAttackedServer(t, 1<<20)
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	ctx, cancel := context.WithCancel(t.Context())
	var dials sync.WaitGroup
	defer func() {
		cancel()
		dials.Wait()
		transport.Close()
		socket.Close()
	}()
	var dialled, refused atomic.Int64
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"kwik/1"}}
	alive := &quic.Config{KeepAlivePeriod: 5 * time.Second}
	dial := func() {
		dialled.Add(1)
		_, err := transport.Dial(ctx, net.UDPAddrFromAddrPort(s.addr), conf, alive)
		if err != nil && ctx.Err() == nil {
			refused.Add(1)
		}
	}
	for range 10 {
		dials.Go(func() {
			for range 30 {
				dial()
			}
		})
	}
	dials.Wait()
	dials.Go(func() { // ends with ctx
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				dial()
			case <-ctx.Done():
				return
			}
		}
	})
	good, start := 0, time.Now()
	for range gets {
		if s.get() {
			good++
		}
		if longAttack() {
			<-time.After(500 * time.Millisecond)
		}
	}
	t.Logf("%d silent connections, %d refused, in %.1f s: peak %d MiB, %d of %d gets\n%s", dialled.Load(),
		refused.Load(), time.Since(start).Seconds(), s.peakMemory(), good, gets, s.process.stderr)
	if good != gets {
		t.Errorf("%d of %d honest clients were served", good, gets)
	}
	if lines := strings.Count(s.process.stderr.String(), "server is busy"); lines > 4 {
		t.Errorf("%d lines were logged", lines)
	}
}
