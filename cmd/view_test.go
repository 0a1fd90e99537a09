package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/escape"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// feed gives a view what a transfer of a file of n bytes from so many servers may give, and awkward names with it.
func feed(v *view, n int64, servers int) {
	v.Hashing(0, n)
	v.Hashing(n/2, n)
	v.Manifest(transfer.Manifest{Size: n, Root: integrity.Root{1}, Group: 65536})
	states := []transfer.ServerState{transfer.ServerJoined, transfer.ServerConnecting, transfer.ServerStalled, transfer.ServerLost, transfer.ServerBanned}
	v.Checking(n/3, n/2)
	v.Resume(n / 4)
	v.Retry(transfer.Retry{Attempt: 1, Of: 3, Delay: time.Second, Err: errors.New(awkward)})
	var all []transfer.ServerStatus
	for i := range servers {
		s := transfer.ServerStatus{
			ID: kwik.ServerID(fmt.Sprint("s", i)), Role: kwik.ServerRoleSecondary, State: states[i%len(states)],
			Addr: fmt.Sprintf("[2001:db8:1111:2222:3333:4444:5555:%x]:65535", i), Bytes: n / int64(servers), Rate: 1e12, Reason: awkward,
		}
		all = append(all, s)
		v.Server(s)
	}
	for _, eta := range []time.Duration{-1, 0, time.Second, 1000 * time.Hour} {
		for i := range int64(5) {
			v.Progress(transfer.Progress{Bytes: n / 4 * i, Total: n, Rate: 1e15, ETA: eta, Servers: all})
			time.Sleep(100 * time.Millisecond)
		}
	}
	v.BadBlock("s1"+awkward, 1<<40, 65536)
	v.Progress(transfer.Progress{Bytes: n, Total: n, ETA: -1, Servers: all})
}

func TestViewOnTerminals(t *testing.T) {
	for _, columns := range []int{20, 40, 80, 200} {
		for _, n := range []int64{0, 1, 1 << 20, 1 << 62} {
			for _, servers := range []int{1, 3, 100} { // both the bar and a server's line have a "%"
				synctest.Test(t, func(t *testing.T) {
					s := newScreen(columns)
					v := newView(&terminal{stderr: s}, false, awkward)
					v.draws, v.columns = true, func() int { return columns }
					feed(v, n, servers)
					if s.strange != "" {
						t.Fatalf("%d columns: strange output %s", columns, s.strange)
					}
					v.end()
					for line := range strings.Lines(s.String()) {
						if strings.Contains(line, "%") {
							t.Errorf("%d columns, %d bytes, %d servers: the drawing left %q", columns, n, servers, line)
						}
					}
				})
			}
		}
	}
}

// TestViewWidth draws nothing but the bar and the servers' lines: none may reach the last column.
func TestViewWidth(t *testing.T) {
	for _, columns := range []int{1, 2, 20, 40, 80, 200} {
		synctest.Test(t, func(t *testing.T) {
			s := newScreen(columns)
			v := newView(&terminal{stderr: s}, false, "f")
			v.draws, v.columns = true, func() int { return columns }
			v.Hashing(1, 1<<40)
			v.Manifest(transfer.Manifest{Size: 1 << 40})
			all := make([]transfer.ServerStatus, 30)
			for i := range all {
				all[i] = transfer.ServerStatus{Addr: "192.0.2.100:65535", State: transfer.ServerStalled, Bytes: 1 << 39, Rate: 1e9}
			}
			for i := range int64(20) {
				v.Progress(transfer.Progress{Bytes: i << 35, Total: 1 << 40, Rate: 1e9, ETA: time.Hour, Servers: all})
				time.Sleep(time.Second)
			}
			if columns >= 40 && !strings.Contains(s.String(), "192.0.2.100:65535") {
				t.Errorf("%d columns: no server in\n%s", columns, s)
			}
			if columns >= 40 && !strings.Contains(s.String(), "[") {
				t.Errorf("%d columns: no bar in\n%s", columns, s)
			}
			if s.wrapped || s.widest >= max(columns, 2) || s.most > maxServerLines+2 {
				t.Errorf("%d columns: up to %d wide, %d lines\n%s", columns, s.widest, s.most, s)
			}
			v.end()
			if s.String() != "" || s.strange != "" {
				t.Errorf("%d columns: left %q, %s", columns, s.String(), s.strange)
			}
		})
	}
}

// A terminal whose width changes has one drawing on it, of its width.
func TestViewResized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(200)
		v := newView(&terminal{stderr: s}, false, "f")
		v.draws, v.columns = true, func() int { return s.columns }
		v.t.printf("before")
		v.Manifest(transfer.Manifest{Size: 1 << 40})
		servers := []transfer.ServerStatus{
			{Role: kwik.ServerRolePrimary, Addr: "192.0.2.100:65535", State: transfer.ServerJoined, Bytes: 1 << 39, Rate: 1e9},
			{Role: kwik.ServerRoleSecondary, Addr: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", State: transfer.ServerStalled, Bytes: 1 << 38, Rate: 1e9},
		}
		for i, columns := range []int{200, 80, 40, 20, 40, 80, 200} {
			s.resize(columns)
			v.Progress(transfer.Progress{Bytes: int64(i+1) << 35, Total: 1 << 40, Rate: 1e9, ETA: time.Hour, Servers: servers})
			time.Sleep(redrawInterval)
			lines := strings.Split(s.String(), "\n")
			if len(lines) != 4 || lines[0] != "kwikcp: before" || !strings.Contains(lines[1], "[") || s.strange != "" || s.wrapped {
				t.Errorf("%d columns: %s\n%s", columns, s.strange, s)
			}
			if columns >= 40 && (!strings.Contains(lines[1], "1h0m") || !strings.HasSuffix(lines[3], "stalled") || !strings.Contains(lines[3], ":65535") || !strings.Contains(lines[2], "192.0.2.100:65535")) {
				t.Errorf("%d columns: something is not to be seen:\n%s", columns, s)
			}
			t.Logf("%d columns:\n%s", columns, s)
		}
		v.end()
		if s.String() != "kwikcp: before" {
			t.Errorf("left:\n%s", s)
		}
	})
}

// However often the transfer reports, there are ten drawings a second.
func TestViewRedraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stderr bytes.Buffer
		v := newView(&terminal{stderr: &stderr}, false, "f")
		v.draws, v.columns = true, func() int { return 80 }
		for i := range int64(100) {
			v.Checking(i, 100)
			time.Sleep(10 * time.Millisecond)
		}
		v.Manifest(transfer.Manifest{Size: 1 << 20})
		for i := range int64(100) {
			v.Progress(transfer.Progress{Bytes: i, Total: 1 << 20})
			time.Sleep(10 * time.Millisecond)
		}
		if n := strings.Count(stderr.String(), "\n"); n < 18 || n > 20 {
			t.Errorf("%d drawings in two seconds", n)
		}
	})
}

func TestViewPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stderr bytes.Buffer
		v := newView(&terminal{stderr: &stderr}, false, awkward)
		feed(v, 1<<30, 5)
		time.Sleep(plainInterval)
		v.Progress(transfer.Progress{Bytes: 1 << 29, Total: 1 << 30, Rate: 1 << 20})
		v.Progress(transfer.Progress{Bytes: 1 << 29, Total: 1 << 30, Rate: 1 << 20})
		v.end()
		text := stderr.String()
		if strings.Count(text, "512 MiB of 1.0 GiB, 1.0 MiB/s\n") != 1 {
			t.Errorf("not one line of progress in\n%s", text)
		}
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "kwikcp: ") || escape.Line(line) != strings.TrimSuffix(line, "\n")+"; " {
				t.Errorf("line %q", line)
			}
		}
	})
}

func TestViewQuiet(t *testing.T) {
	for _, draws := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var stderr bytes.Buffer
			v := newView(&terminal{stderr: &stderr}, true, "f")
			v.draws = draws
			feed(v, 1<<30, 5)
			v.end()
			if stderr.Len() > 0 {
				t.Errorf("%q", stderr.String())
			}
		})
	}
}

// What was there before has no part in the rate and in the time that is left.
func TestViewOfAResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(80)
		v := newView(&terminal{stderr: s}, false, "f")
		v.draws, v.columns = true, func() int { return 80 }
		v.Manifest(transfer.Manifest{Size: 100 << 20})
		v.Resume(50 << 20)
		v.Progress(transfer.Progress{Bytes: 60 << 20, Total: 100 << 20, Rate: 4 << 20, ETA: 10 * time.Second})
		for _, want := range []string{"60%", "60 MiB of 100 MiB, 4.0 MiB/s, 10s left"} {
			if !strings.Contains(s.String(), want) {
				t.Errorf("no %q in\n%s", want, s)
			}
		}
	})
}

// Of a range the bar is full when its groups are here.
func TestViewOfARange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(80)
		v := newView(&terminal{stderr: s}, false, "f")
		v.draws, v.columns = true, func() int { return 80 }
		v.Manifest(transfer.Manifest{Size: 100 << 20})
		v.Progress(transfer.Progress{Bytes: 6 << 20, Total: 10 << 20, Rate: 4 << 20, ETA: time.Second})
		for _, want := range []string{"60%", "6.0 MiB of 10 MiB, 4.0 MiB/s, 1s left"} {
			if !strings.Contains(s.String(), want) {
				t.Errorf("no %q in\n%s", want, s)
			}
		}
	})
}

func TestRemaining(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1499 * time.Millisecond: "1s", 90 * time.Second: "1m30s", time.Hour: "1h0m", 100*time.Hour + 29*time.Second: "100h0m",
	} {
		if got := remaining(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestSummary(t *testing.T) {
	got := (fileGet{target: awkward}).summary(transfer.Result{Bytes: 1 << 20, Wasted: 3})
	if strings.ContainsAny(got, "\x1b\n\r\u202e") || !strings.Contains(got, "1.0 MiB") || !strings.Contains(got, "(3 B discarded)") {
		t.Errorf("%q", got)
	}
	if strings.Contains(got, "already") {
		t.Errorf("%q", got)
	}
	if got := (fileGet{target: "f"}).summary(transfer.Result{Bytes: 1 << 20, Resumed: 1 << 19}); !strings.Contains(got, "1.0 MiB in 0.00 s (512 KiB were already here), verified") {
		t.Errorf("%q", got)
	}
}

func TestSummaryOfARange(t *testing.T) {
	o := fileGet{target: "f", part: &transfer.ByteRange{}}
	if got := o.summary(transfer.Result{Bytes: 1 << 10, Offset: 77}); !strings.Contains(got, `"f": 1.0 KiB from byte 77 on in 0.00 s, verified`) {
		t.Errorf("%q", got)
	}
}

func TestPrintDemo(t *testing.T) {
	var out bytes.Buffer
	result := transfer.Result{Bytes: 0, Seconds: 0, Servers: []transfer.ServerStatus{{Addr: "127.0.0.1:1"}}}
	if err := printDemo(&out, "it's "+awkward, result); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\r\u202e") || strings.Contains(out.String(), "NaN") {
		t.Errorf("%q", out.String())
	}
	if err := printDemo(brokenWriter{}, "f", result); err == nil {
		t.Error("a table that was not written went unnoticed")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

// The lines of --dry-run go to stdout, which may be the terminal that the bar is on: they stand above it, and nothing is lost.
func TestDryRunOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(80)
		v := &mirrorView{view: newView(&terminal{stdout: s, stderr: s}, false, "d"), dryRun: true}
		v.draws, v.columns = true, func() int { return 80 }
		for i := range int64(3) {
			v.Progress(transfer.Progress{Bytes: i, Total: 3, ETA: -1, Files: i, OfFiles: 3})
			v.File(transfer.FileReport{Path: fmt.Sprint("f", i), Action: transfer.FileFetched})
			time.Sleep(redrawInterval)
		}
		v.end()
		if got, want := s.String(), "fetch    f0\nfetch    f1\nfetch    f2"; got != want || s.strange != "" {
			t.Errorf("%s, want %s; %s", got, want, s.strange)
		}
	})
}
