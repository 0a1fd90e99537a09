package cmd

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountSmall mounts a tmpfs for a test, which needs root. The options are those of mount -o;
// remount sets others.
func mountSmall(t *testing.T, dir, options string) (remount func(flags uintptr, options string)) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a tmpfs can be mounted by root only, and not everywhere: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return func(flags uintptr, options string) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, options); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSmallDisk runs gets to a disk that is full, out of inodes or read-only. Exit code, path and
// reason are right, the old file stays, and verified bytes are kept. The same command resumes
// when the cause is gone.
func TestSmallDisk(t *testing.T) {
	work := t.TempDir()
	root, small := filepath.Join(work, "root"), filepath.Join(work, "small")
	remount := mountSmall(t, small, "size=3m")
	const size = 8 << 20
	if err := errors.Join(os.Mkdir(root, 0o755), fillFile(filepath.Join(root, "f"), size, 1)); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(root, "f"))
	if err != nil {
		t.Fatal(err)
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", root)
	url = strings.Replace(url, "/?", "/f?", 1)
	old := string(want[:100_000])
	target := filepath.Join(small, "f")
	holds := func(content string) {
		t.Helper()
		if got, err := os.ReadFile(target); content == "" && !os.IsNotExist(err) || string(got) != content {
			t.Fatalf("the target has %d bytes, want %d, %v", len(got), len(content), err)
		}
	}
	parts := func() int {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(small, ".kwikcp-*.part"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	get := func(url string) *process {
		t.Helper()
		p, err := startProcess(work, testEnv(work), nil, "get", "--json", url, "small/f")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		return p
	}
	fails := func(code int, says string) {
		t.Helper()
		p := get(url)
		if got, err := p.wait(patience); got != code || err != nil {
			t.Fatalf("exit code %d, %v: %s", got, err, p.stderr)
		}
		for _, want := range []string{`"small/f"`, says} {
			if !strings.Contains(p.stderr.String(), want) {
				t.Fatalf("no %s in %s", want, p.stderr)
			}
		}
	}
	succeeds := func() (resumed int64) {
		t.Helper()
		p := get(url)
		if code, err := p.wait(patience); code != 0 || err != nil {
			t.Fatalf("exit code %d, %v: %s", code, err, p.stderr)
		}
		r, _, err := readResult(p.stdout.String())
		if err != nil {
			t.Fatal(err)
		}
		holds(string(want))
		if parts() != 0 {
			t.Fatal("a part file is left")
		}
		return r.Resumed
	}

	for _, before := range []string{"", old} { // too small from the start
		os.Remove(target)
		if before != "" {
			if err := os.WriteFile(target, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fails(exitNoSpace, "no space left on device")
		holds(before)
		kept := parts()
		remount(0, "size=20m")
		if resumed := succeeds(); (resumed > 0) != (kept > 0) {
			t.Errorf("%d part files were kept, and %d bytes of them", kept, resumed)
		}
		os.Remove(target)
		remount(0, "size=3m")
	}

	// It becomes too small in between; then it is read-only; then it is large enough.
	remount(0, "size=20m")
	host, query, _ := strings.Cut(strings.TrimPrefix(url, "kwik://"), "/")
	relay, err := newRelay(netip.MustParseAddrPort(host), 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.close()
	p := get("kwik://" + relay.addr() + "/" + query)
	<-relay.held
	p.signal(syscall.SIGINT)
	if code, err := p.wait(patience); code != exitSignal+int(syscall.SIGINT) || err != nil {
		t.Fatalf("exit code %d, %v: %s", code, err, p.stderr)
	}
	holds("")
	if parts() != 1 {
		t.Fatal("no part file is kept")
	}
	remount(0, "size=4m")
	fails(exitNoSpace, "no space left on device")
	holds("")
	remount(unix.MS_RDONLY, "size=4m")
	fails(exitLocal, "read-only file system")
	holds("")
	if parts() != 1 {
		t.Fatal("the part file is not kept")
	}
	remount(0, "size=20m")
	if resumed := succeeds(); resumed < 1<<20 {
		t.Errorf("only %d bytes were kept", resumed)
	}

	// Bytes, but no inodes.
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	remount(0, "size=20m,nr_inodes=1")
	fails(exitNoSpace, "no space left on device")
	remount(0, "size=20m,nr_inodes=100")
	succeeds()
}
