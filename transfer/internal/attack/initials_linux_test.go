package attack

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/internal/attack"
)

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
	rate, gets := scale(2000, 6000), scale(5, 20)
	packets, err := attack.Initials(scale(1000, 40000), "kwik/1")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	s.fill("f", 1<<20)
	s.start("")
	f := newFlood(t, s.addr, 256)
	stop, done := make(chan struct{}), make(chan struct{})
	before, start := s.usage().cpu, time.Now()
	var count, in int
	go func() { // ends with stop
		defer close(done)
		count, in = f.send(packets, rate, stop)
	}()
	good := 0
	for range gets {
		if r := s.get("f"); r.code == 0 {
			good++
		} else {
			t.Logf("exit code %d: %s", r.code, r.text)
		}
	}
	if rest := 10*time.Second - time.Since(start); isLong {
		time.Sleep(rest) // of the flood
	}
	close(stop)
	<-done
	took := time.Since(start)
	time.Sleep(500 * time.Millisecond) // packets may be on their way
	out, u := int(f.received.Load()), s.usage()
	t.Logf("%d Initials in %.1f s, %.0f a second: %v, %.1f s of it in the flood", count,
		took.Seconds(), float64(count)/took.Seconds(), u, (u.cpu - before).Seconds())
	t.Logf("%.2f bytes out for each byte in; %d of %d gets", float64(out)/float64(in), good, gets)
	if limit := int64(100 << 20); u.peak > limit {
		t.Errorf("the server used %d MiB of memory, more than %d", u.peak>>20, limit>>20)
	}
	if out >= in {
		t.Errorf("%d bytes made the server send %d", in, out)
	}
	if good != gets {
		t.Errorf("%d of %d honest clients were served", good, gets)
	}
}
