//go:build unix

package cmd

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// TestConnectTimeout checks that every command that connects waits as long as --connect-timeout
// says for a port that never answers. Package kwik tests more values, by a virtual clock.
func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	work := terminalWork(t)
	url := fmt.Sprintf("kwik://%s/f", socket.LocalAddr())
	const want = 7 * time.Second
	var wg sync.WaitGroup
	for _, args := range [][]string{
		{"get", url, "out/f"}, {"get", "--range", "0-9", url, "out/r"}, {"get", "-r", url + "/", "out/d"}, {"ls", url},
		{"verify", "A/f", "--from", url}, {"doctor", url},
	} {
		wg.Go(func() {
			start := time.Now()
			p, err := startProcess(work, testEnv(work), nil, append(args, "--connect-timeout", want.String())...)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.kill()
			code, err := p.wait(patience)
			if code != exitNetwork || err != nil {
				t.Errorf("%q: exit %d, %v, %s", args, code, err, p.stderr)
			}
			// A busy machine needs seconds to start a process.
			if took := p.ended.Sub(start); took < want || took > want*11/10+15*time.Second {
				t.Errorf("%q took %v", args, took)
			}
		})
	}
	wg.Wait()
}
