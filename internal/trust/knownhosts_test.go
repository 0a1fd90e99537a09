package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func knownHosts(t *testing.T, content string) *KnownHosts {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kwikcp", "known_hosts")
	if content != "" {
		os.Mkdir(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return OpenKnownHosts(path)
}

func (k *KnownHosts) want(t *testing.T, hostport string, want Pin) {
	t.Helper()
	if got, ok, err := k.Lookup(hostport); got != want || !ok || err != nil {
		t.Errorf("Lookup(%q) = %v, %v, %v; want %v", hostport, got, ok, err, want)
	}
}

func (k *KnownHosts) wantUnknown(t *testing.T, hostport string) {
	t.Helper()
	if got, ok, err := k.Lookup(hostport); ok || err != nil {
		t.Errorf("Lookup(%q) = %v, %v, %v; want unknown", hostport, got, ok, err)
	}
}

func TestKnownHosts(t *testing.T) {
	k := knownHosts(t, "")
	k.wantUnknown(t, "example.org:4433")
	p1, p2 := Pin{1}, Pin{2}
	for _, r := range []struct {
		host string
		pin  Pin
	}{{"Example.org.:04433", p1}, {"example.org:4434", p2}, {"[2001:DB8:0::1]:4433", p2}, {"example.org:4433", p1}} {
		if err := k.Record(r.host, r.pin); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("example.org:4433 %v\nexample.org:4434 %v\n[2001:db8::1]:4433 %v\n", p1, p2, p2)
	if got, _ := os.ReadFile(k.Path()); string(got) != want {
		t.Errorf("file has\n%s\nwant\n%s", got, want)
	}
	k.want(t, "EXAMPLE.org:4433", p1)
	k.want(t, "example.org.:4434", p2)
	k.want(t, "[2001:db8::0:1]:4433", p2)
	k.wantUnknown(t, "example.org:443")
	k.wantUnknown(t, "www.example.org:4433")

	// A new pin replaces the old one, and back again.
	for _, p := range []Pin{p2, p1} {
		if err := k.Record("example.org:4433", p); err != nil {
			t.Fatal(err)
		}
		k.want(t, "example.org:4433", p)
	}
	if info, err := os.Stat(k.Path()); runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestKnownHostsForms(t *testing.T) {
	k := knownHosts(t, "# a comment\n\n  \t\r\n"+
		"  a:1   "+somePin.String()+"  since May, says Bob # really\r\n"+
		"b:1\tsha256//"+somePin.String()+"=\n"+
		"#c:1 "+somePin.String()+"\n"+
		"::ffff:10.0.0.1 unbracketed\n"+
		"d:1 "+somePin.String()) // no line end
	k.want(t, "a:1", somePin)
	k.want(t, "b:1", somePin)
	k.want(t, "d:1", somePin)
	if err := k.Record("[::ffff:10.0.0.9]:7", Pin{9}); err != nil {
		t.Fatal(err)
	}
	k.want(t, "d:1", somePin)
	k.want(t, "10.0.0.9:7", Pin{9})

	_, ok, err := k.Lookup("c:1")
	var cerr *CorruptLineError
	if ok || !errors.As(err, &cerr) {
		t.Fatalf("Lookup of a host that only a corrupt line could name: %v, %v", ok, err)
	}
	if cerr.Line != 7 || cerr.Path != k.Path() {
		t.Errorf("the corrupt line is %s:%d, want %s:7", cerr.Path, cerr.Line, k.Path())
	}
	if !strings.HasPrefix(err.Error(), k.Path()+":7: ") {
		t.Errorf("the message %q does not start with the place of the line", err)
	}
}

func TestKnownHostsCorrupt(t *testing.T) {
	for name, line := range map[string]string{
		"no pin":        "a:1",
		"bad pin":       "a:1 nonsense",
		"no port":       "a " + somePin.String(),
		"control":       "a\x00b:1 " + somePin.String(),
		"long line":     "a:1 " + somePin.String() + strings.Repeat(" x", maxKnownHostsLine/2),
		"binary":        "\xff\xfe\x00",
		"negative port": "a:-1 " + somePin.String(),
	} {
		k := knownHosts(t, line+"\nb:1 "+somePin.String()+"\n")
		k.want(t, "b:1", somePin)
		var cerr *CorruptLineError
		if _, ok, err := k.Lookup("a:1"); ok || !errors.As(err, &cerr) || cerr.Line != 1 {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if err := k.Record("a:1", Pin{1}); err != nil {
			t.Errorf("%s: Record: %v", name, err)
		}
		k.want(t, "a:1", Pin{1})
	}
}

func TestKnownHostsRefusesNames(t *testing.T) {
	k := knownHosts(t, "")
	for _, host := range []string{
		"", ":", ":1", "a", "a:", "a:0", "a:65536", "a:x", "a:+1", "a b:1", "a\n:1", "a:1\nb:1", "\ta:1", "a\x00:1", "a\u2028b:1", "ä.example:1",
		"#a:1", "[a b]:1", "[fe80::1%a b]:1", "[fe80::1%\n]:1", ".:1", "..:1", "a..:1", ".a:1", "a..b:1", "a/b:1", "::1:1", strings.Repeat("a", 254) + ":1", "a\u00a0:1", "user@a:1", "*:1",
	} {
		if err := k.Record(host, Pin{1}); err == nil {
			t.Errorf("Record(%q) succeeds", host)
		}
		if _, ok, err := k.Lookup(host); ok || err == nil {
			t.Errorf("Lookup(%q): %v, %v", host, ok, err)
		}
	}
	if _, err := os.Stat(k.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	for _, host := range []string{"a:1", "127.0.0.1:65535", "[::1]:1", "[fe80::1%eth0]:1", "xn--nxasmq6b.example:1", "a_b-c.example:4433"} {
		if err := k.Record(host, Pin{1}); err != nil {
			t.Error(err)
		}
		k.want(t, host, Pin{1})
	}
}

func TestKnownHostsTooLong(t *testing.T) {
	line := "# " + strings.Repeat("x", 61) + "\n" // 64 bytes
	full := strings.Repeat(line, maxKnownHosts/len(line))
	k := knownHosts(t, full)
	k.wantUnknown(t, "a:1")
	if err := k.Record("a:1", Pin{1}); err == nil {
		t.Error("the file grows beyond its limit")
	}
	if got, _ := os.ReadFile(k.Path()); string(got) != full {
		t.Error("the file was changed")
	}
	k = knownHosts(t, full+"\n")
	if _, ok, err := k.Lookup("a:1"); ok || err == nil {
		t.Errorf("Lookup in a file beyond its limit: %v, %v", ok, err)
	}
}

func TestKnownHostsUnreadable(t *testing.T) {
	k := OpenKnownHosts(t.TempDir()) // a directory
	if _, ok, err := k.Lookup("a:1"); ok || err == nil {
		t.Errorf("Lookup: %v, %v", ok, err)
	}
	if err := k.Record("a:1", Pin{1}); err == nil {
		t.Error("Record succeeds")
	}
}

func TestKnownHostsAtOnce(t *testing.T) {
	k := knownHosts(t, "# no line end")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 8 {
				// As another process would: with a separate handle.
				if err := OpenKnownHosts(k.Path()).Record(fmt.Sprintf("host%d:%d", i, j+1), Pin{byte(i), byte(j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 16 {
		for j := range 8 {
			k.want(t, fmt.Sprintf("host%d:%d", i, j+1), Pin{byte(i), byte(j)})
		}
	}
	k.wantUnknown(t, "host16:1") // and so no line is corrupt
}

// FuzzKnownHosts: whatever a file has, a host that is recorded is found.
func FuzzKnownHosts(f *testing.F) {
	f.Add([]byte("a:1 "+somePin.String()+"\n# x\n\nb:2"), "a:1")
	f.Add([]byte("\r\r\n\x00"), "[::1]:1")
	f.Add([]byte{}, "A.:01")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, host string) {
		name, err := canonical(host)
		if err != nil {
			find(data, host)
			return
		}
		if again, err := canonical(name); again != name || err != nil {
			t.Fatalf("canonical(%q) = %q, %v", name, again, err)
		}
		if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
			t.Fatalf("canonical(%q) = %q", host, name)
		}
		k := OpenKnownHosts(filepath.Join(dir, "known_hosts"))
		if err := os.WriteFile(k.Path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		pin := Pin{1, 2, 3}
		if err := k.Record(host, pin); err != nil {
			t.Fatal(err)
		}
		k.want(t, host, pin)
	})
}

// A host that was recorded without a question is known, and not confirmed until a user accepts it.
func TestKnownHostsConfirmed(t *testing.T) {
	k := knownHosts(t, "old:1 "+somePin.String()+"\nnoted:1 "+somePin.String()+" since May\n")
	for _, step := range []struct {
		do   func() error
		host string
		want bool
	}{
		{nil, "old:1", true},
		{nil, "noted:1", true},
		{nil, "unknown:1", false},
		{func() error { return k.RecordUnconfirmed("a:1", somePin) }, "a:1", false},
		{func() error { return k.Record("a:1", somePin) }, "a:1", true},
		{func() error { return k.RecordUnconfirmed("a:1", somePin) }, "a:1", true},
		{func() error { return k.RecordUnconfirmed("a:1", Pin{9}) }, "a:1", false},
		{func() error { return k.RecordUnconfirmed("old:1", somePin) }, "old:1", true},
	} {
		if step.do != nil {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
		}
		if got := k.Confirmed(step.host); got != step.want {
			t.Errorf("%s: confirmed %t", step.host, got)
		}
	}
	k.want(t, "a:1", Pin{9})
}
