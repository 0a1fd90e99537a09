//go:build unix

package cmd

import (
	"strings"
	"syscall"
	"testing"
)

// TestHangup checks that SIGHUP reloads while a server's terminal is there, and ends the server
// in order when the terminal was closed.
func TestHangup(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	control, terminal := openPTY(t, 80)
	args := []string{"serve", "--role", "primary", "--root", "A", "--listen", "127.0.0.1:0"}
	p, err := startProcess(work, testEnv(work), terminal, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	terminal.Close()
	if _, err := p.await(`^kwik://`); err != nil {
		t.Fatal(err)
	}
	if err := p.signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for buf := make([]byte, 1024); !strings.Contains(text.String(), "SIGHUP: reloading"); {
		n, err := control.Read(buf)
		if err != nil {
			t.Fatalf("the server ended: %v, %s", err, &text)
		}
		text.Write(buf[:n])
	}
	select {
	case <-p.done:
		t.Fatal("SIGHUP ended the server")
	default:
	}
	control.Close()
	if err := p.signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code, err := p.wait(patience); code != 0 || err != nil {
		t.Errorf("after the terminal was closed: exit %d, %v", code, err)
	}
}

// TestHangupWithoutATerminal checks that a server whose log is a file or a pipe outlives SIGHUP.
func TestHangupWithoutATerminal(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	p, url := startTestServer(t, work, "--role", "primary", "--root", "A")
	for range 3 {
		if err := p.signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.await(`SIGHUP: reloading`); err != nil {
		t.Fatal(err)
	}
	get, err := startProcess(work, testEnv(work), nil, "get", "-q", strings.Replace(url, "/?", "/f?", 1), "out/f")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(get.kill)
	if code, err := get.wait(patience); code != 0 || err != nil {
		t.Errorf("get: exit %d, %v", code, err)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := p.wait(patience); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit %d, %v", code, err)
	}
}
