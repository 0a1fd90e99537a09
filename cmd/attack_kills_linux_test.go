package cmd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAttackKilledServers kills a primary and its secondaries at random moments (SIGKILL), one at a
// time, and starts each again at its address. Gets that run meanwhile must all succeed: at every
// moment at least one of their servers lives. The long form runs 200 gets.
func TestAttackKilledServers(t *testing.T) {
	rounds, gets, seconds := 1, 3, 2
	if os.Getenv("KWIKCP_ATTACK") == "long" {
		rounds, gets, seconds = 20, 10, 6
	}
	const rate = 2 << 20 // bytes per second of a get
	work := t.TempDir()
	root := filepath.Join(work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fillFile(filepath.Join(root, "f"), int64(seconds*rate), 1); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "f"))
	if err != nil {
		t.Fatal(err)
	}
	primary, url := startTestServer(t, work, "--role", "primary", "--root", root)
	servers := []*killable{{t: t, work: work, p: primary, args: []string{"--role", "primary", "--root", root}}}
	servers[0].addr = addressIn(url)
	for range 2 {
		args := []string{"--role", "secondary", "--primary", url, "--root", root}
		p, at := startTestServer(t, work, args...)
		servers = append(servers, &killable{t: t, work: work, p: p, args: args, addr: addressIn(at)})
	}
	r := rand.New(rand.NewPCG(*killSeed, 2))
	url = strings.Replace(url, "/?", "/f?", 1)
	killed, failed := 0, 0
	for round := range rounds {
		running := make([]*process, gets)
		for i := range running {
			out := fmt.Sprintf("out%d", i)
			p, err := startProcess(work, testEnv(work), nil, "get", "--json", "--limit-rate", "2M", url, out)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.kill)
			running[i] = p
		}
		for _, p := range running { // a get that has not reached its primary may fail
			if _, err := p.await(`"event":"progress","bytes":([1-9])`); err != nil {
				t.Fatal(err)
			}
		}
		for start := time.Now(); isRunning(running) && time.Since(start) < patience; killed++ {
			victim := servers[r.IntN(len(servers))]
			victim.p.kill()
			time.Sleep(time.Duration(r.Int64N(int64(500 * time.Millisecond))))
			victim.start()
		}
		for i, p := range running {
			code, err := p.wait(patience)
			got, readErr := os.ReadFile(filepath.Join(work, fmt.Sprintf("out%d", i)))
			if isRight := readErr == nil && bytes.Equal(got, content); code != 0 || err != nil || !isRight {
				failed++
				t.Errorf("round %d, get %d: exit code %d, %v, %d bytes, %v\n%s%s", round, i, code, err, len(got),
					readErr, lastLines(p.stdout.String()), p.stderr)
			}
			os.Remove(filepath.Join(work, fmt.Sprintf("out%d", i)))
		}
	}
	t.Logf("%d of %d gets failed; %d servers were killed", failed, rounds*gets, killed)
}

// A killable is a server that is killed and started again at the same address.
type killable struct {
	t    *testing.T
	work string
	args []string
	addr string
	p    *process
}

// start starts the server again, and waits until it serves.
func (k *killable) start() {
	k.t.Helper()
	p, err := startProcess(k.work, testEnv(k.work), nil, append([]string{"serve", "--listen", k.addr}, k.args...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(p.kill)
	if k.p = p; k.args[1] == "primary" {
		_, err = p.await(`^(kwik://\S+)\n`)
	} else {
		_, err = p.await(`(joined)`)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// addressIn returns the address in a URL.
func addressIn(url string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "kwik://"), "/")
	return host
}

func isRunning(all []*process) bool {
	for _, p := range all {
		select {
		case <-p.done:
		default:
			return true
		}
	}
	return false
}

// lastLines returns the end of an output.
func lastLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "")
}
