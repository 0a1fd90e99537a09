//go:build unix

package cmd

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// shares returns the bytes from the primary and those from secondaries.
func shares(sources []sourceBytes) (primary, secondary int64) {
	for _, s := range sources {
		if s.Role == "primary" {
			primary += s.Bytes
		} else {
			secondary += s.Bytes
		}
	}
	return primary, secondary
}

// TestVersitygwSecondary has a primary on a directory and a secondary on a bucket. The secondary
// hashes nothing: it reads only what its clients want. In the middle of a transfer an object
// is replaced, or no longer allowed: the client has the content of the primary.
func TestVersitygwSecondary(t *testing.T) {
	g := startGateway(t)
	const size, large = 12 << 20, 32 << 20
	work := t.TempDir()
	for _, dir := range []string{filepath.Join(g.dir, "bucket"), filepath.Join(work, "A")} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	sizes := map[string]int64{"large": large, "replaced": size, "denied": size}
	for name, n := range sizes {
		err := errors.Join(g.put(t, name, n, 1), fillFile(filepath.Join(work, "A", name), n, 1))
		if err != nil {
			t.Fatal(err)
		}
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", "A", "--limit-rate", "24M")
	secondary, err := g.serveAs(t, gatewaySecret, "--role", "secondary", "--primary", url, "--root", "s3://bucket")
	if err == nil {
		_, err = secondary.await("joined|msg=ready")
	}
	if err != nil {
		t.Fatal(err)
	}

	_, fromBucket := shares(getSources(t, work, "--range", "0-8388607", pathOn(url, "large"), "part"))
	if fromBucket == 0 {
		t.Error("no byte of the range is from the bucket")
	}
	for name, fault := range map[string]func() error{
		"replaced": func() error { return g.put(t, "replaced", size, 2) },
		"denied":   func() error { return errors.New("denied") },
	} {
		before := g.gets.Load()
		hook := func(n int64) error {
			switch isSecond := n == before+2; {
			case name == "denied" && n < before+2, name == "replaced" && !isSecond:
				return nil
			}
			return fault()
		}
		g.beforeGet.Store(&hook)
		primary, _ := shares(getSources(t, work, pathOn(url, name), name))
		g.beforeGet.Store(nil)
		if primary == 0 || g.gets.Load() < before+2 {
			t.Errorf("%s: %d bytes are from the primary, %d requests were sent", name, primary, g.gets.Load()-before)
		}
		if !isNoise(t, filepath.Join(work, name), size, 1) {
			t.Errorf("%s: the content is not that of the primary", name)
		}
	}
	if sent := g.sent.Load(); sent >= large {
		t.Errorf("the secondary read %d bytes for a range of 8 MiB and what was replaced: %s", sent, secondary.stderr)
	}
}
