package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A routedNetwork is a client and a server in two network namespaces, with a router between
// them. The client is 192.0.2.2 and 2001:db8:1::2, the server 198.51.100.2 and
// 2001:db8:2::2.
type routedNetwork struct{ client, router, server string } // namespaces

// routedNetworkScript makes the namespaces $c, $r and $s. It exits with 77 if there can be none.
const routedNetworkScript = `set -e
for n in $c $r $s; do ip netns add $n || exit 77; ip -n $n link set lo up; done
ip link add left netns $c type veth peer name left netns $r
ip link add right netns $s type veth peer name right netns $r
ip netns exec $r sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
for l in "$c left 192.0.2.2/24 2001:db8:1::2/64" "$r left 192.0.2.1/24 2001:db8:1::1/64" \
	"$s right 198.51.100.2/24 2001:db8:2::2/64" "$r right 198.51.100.1/24 2001:db8:2::1/64"; do
	set -- $l
	ip -n $1 addr add $3 dev $2
	ip -n $1 addr add $4 dev $2 nodad
	ip -n $1 link set $2 up
done
ip -n $c route add default via 192.0.2.1
ip -n $c route add default via 2001:db8:1::1
ip -n $s route add default via 198.51.100.1
ip -n $s route add default via 2001:db8:2::1
`

// newRoutedNetwork makes a network that ends with the test. It needs root and iproute2.
func newRoutedNetwork(t *testing.T) routedNetwork {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("making network namespaces needs ip, of iproute2")
	}
	name := strings.ToLower(filepath.Base(t.Name()))
	at := func(host string) string { return fmt.Sprintf("kwikcp-%d-%s-%s", os.Getpid(), name, host) }
	n := routedNetwork{at("client"), at("router"), at("server")}
	t.Cleanup(func() {
		for _, namespace := range []string{n.client, n.router, n.server} {
			exec.Command("ip", "netns", "del", namespace).Run()
		}
	})
	script := exec.Command("sh", "-c", routedNetworkScript)
	script.Env = append(os.Environ(), "c="+n.client, "r="+n.router, "s="+n.server)
	out, err := script.CombinedOutput()
	if script.ProcessState != nil && script.ProcessState.ExitCode() == 77 {
		t.Skipf("this machine makes no network namespaces: %s", out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n
}

// setMTU sets the MTU of an interface.
func (n routedNetwork) setMTU(t *testing.T, namespace, device string, mtu int) {
	t.Helper()
	set := exec.Command("ip", "-n", namespace, "link", "set", device, "mtu", fmt.Sprint(mtu))
	if out, err := set.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// start starts kwikcp in a namespace and ends it with the test.
func (n routedNetwork) start(t *testing.T, namespace, dir string, args ...string) *process {
	t.Helper()
	command := exec.Command("ip", append([]string{"netns", "exec", namespace, "kwikcp"}, args...)...)
	p := newCommand(dir, testEnv(dir), command)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// TestPathMTU gets a file over a router whose links have an MTU of 1280, or get it meanwhile.
func TestPathMTU(t *testing.T) {
	const size = 8 << 20
	both := func(n routedNetwork, t *testing.T) {
		n.setMTU(t, n.router, "left", 1280)
		n.setMTU(t, n.router, "right", 1280)
	}
	for name, tt := range map[string]struct {
		listen string
		before func(n routedNetwork, t *testing.T)
		during func(n routedNetwork, t *testing.T)
		slower time.Duration // than without an event
	}{
		"narrow":  {"[2001:db8:2::2]:4433", both, nil, 0},
		"falling": {"198.51.100.2:4433", nil, both, 5 * time.Second},
		"own": {"198.51.100.2:4433", nil, func(n routedNetwork, t *testing.T) { // the server's own interface
			n.setMTU(t, n.server, "right", 1280)
		}, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newRoutedNetwork(t)
			if tt.before != nil {
				tt.before(n, t)
			}
			root := filepath.Join(t.TempDir(), "root")
			if err := errors.Join(os.Mkdir(root, 0o755), fillFile(filepath.Join(root, "f"), size, 1)); err != nil {
				t.Fatal(err)
			}
			server := n.start(t, n.server, root, "serve", "--role", "primary", "--root", root,
				"--listen", tt.listen, "--limit-rate", "8M")
			url, err := server.await(`^(kwik://\S+)\n`)
			if err != nil {
				t.Fatal(err)
			}
			host, rest, _ := strings.Cut(strings.TrimPrefix(url, "kwik://"), "/")
			url = "kwik://" + host + "/f" + rest
			dir := t.TempDir()
			begun := time.Now()
			get := n.start(t, n.client, dir, "get", "--json", url, "f")
			if tt.during != nil {
				if _, err := get.await(`"progress".*"bytes":[1-9]`); err != nil {
					t.Fatal(err)
				}
				tt.during(n, t)
			}
			code, err := get.wait(patience)
			took := time.Since(begun)
			if err != nil || code != 0 {
				t.Fatalf("exit code %d, %v: %s%s", code, err, get.stderr, server.stderr)
			}
			want, _ := os.ReadFile(filepath.Join(root, "f"))
			if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("another file: %d bytes, %v", len(got), err)
			}
			t.Logf("8 MiB at 8 MiB/s took %v", took.Round(10*time.Millisecond))
			if most := 5*time.Second + tt.slower; took > most {
				t.Errorf("it took more than %v", most)
			}
		})
	}
}
