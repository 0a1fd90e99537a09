package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"kwikcp/transfer/serve"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	kills    = flag.Int("kills", 0, "how often TestKilledGet kills a get, and TestKilledServer a server; 0 means 6, or fewer if they take more than 5 s")
	killSeed = flag.Uint64("killseed", 1, "the seed of the moments at which they are killed")
)

// enough reports whether there were kills enough since a test began.
func enough(killed int, start time.Time) bool {
	if *kills > 0 {
		return killed >= *kills
	}
	return killed >= 6 || killed > 0 && time.Since(start) > 5*time.Second
}

// A killedFile is one file on its way through many gets, and what that cost.
type killedFile struct {
	target   string
	old, new []byte // old is nil if there was no file
	kills    int    // that interrupted it
	// known is how many proved bytes a get found or left, at the last time that it said so; written
	// is what was written since.
	known, written int64
	again          []int64 // bytes written again after each kill
}

// whole fails the test unless the target is absent, the old file or the new one, and nothing is
// beside it but its part file.
func (k *killedFile) whole(t *testing.T) {
	t.Helper()
	got, err := os.ReadFile(k.target)
	switch {
	case k.old == nil && errors.Is(err, fs.ErrNotExist), k.old != nil && bytes.Equal(got, k.old), err == nil && bytes.Equal(got, k.new):
	default:
		t.Fatalf("after %d kills the target is torn: %d bytes, %v", k.kills, len(got), err)
	}
	entries, err := os.ReadDir(filepath.Dir(k.target))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != filepath.Base(k.target) && !strings.HasSuffix(name, ".part") {
			t.Fatalf("there is %q", name)
		}
	}
}

// heard takes in what a get printed, and what it wrote.
func (k *killedFile) heard(text string, written int64) {
	resumed, said := int64(0), false
	for line := range strings.Lines(text) {
		var e struct {
			Event   string `json:"event"`
			Bytes   int64  `json:"bytes"`
			Resumed int64  `json:"resumed_bytes"`
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue // torn by the kill
		}
		switch e.Event {
		case "resume":
			resumed, said = e.Bytes, true
		case "progress":
			said = true // and if nothing was resumed before it, there was nothing
		case "result":
			resumed, said = e.Resumed, true
		}
	}
	if said {
		if k.kills > 0 {
			k.again = append(k.again, max(0, k.known+k.written-resumed))
		}
		k.known, k.written = resumed, 0
	}
	k.written += written
}

// ioCount returns a counter of /proc/PID/io.
func ioCount(t *testing.T, p *process, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `: (\d+)$`).FindSubmatch(text)
	if m == nil {
		t.Skipf("no %s in %q", name, text)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKilledGet kills gets at random moments (SIGKILL), and the same command resumes each time.
// After each kill the target is whole or not there. In the end it is right, and next to nothing
// is fetched twice.
func TestKilledGet(t *testing.T) {
	const size = 96 << 20
	work := t.TempDir()
	root, out := filepath.Join(work, "root"), filepath.Join(work, "out")
	if err := errors.Join(os.Mkdir(root, 0o755), os.Mkdir(out, 0o755), fillFile(filepath.Join(root, "f"), size, 1)); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "f"))
	if err != nil {
		t.Fatal(err)
	}
	primary, url := startTestServer(t, work, "--role", "primary", "--root", root)
	servers := []*process{primary}
	for range 2 {
		secondary, _ := startTestServer(t, work, "--role", "secondary", "--primary", url, "--root", root)
		servers = append(servers, secondary)
	}
	sent := func() (n int64) { // bytes of the file that servers read, which is what they send
		for _, s := range servers {
			n += ioCount(t, s, "rchar")
		}
		return n
	}
	url = strings.Replace(url, "/?", "/f?", 1)
	get := func() *process {
		p, err := startProcess(work, testEnv(work), nil, "get", "--json", url, "out/f")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		return p
	}
	file := func(i int) *killedFile { // every other one replaces another
		k := &killedFile{target: filepath.Join(out, "f"), new: content}
		if err := os.Remove(k.target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if i%2 == 1 {
			k.old = content[1000:2000000]
			if err := os.WriteFile(k.target, k.old, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return k
	}

	// Until every server has hashed the file, one that hashes it reads all of it besides.
	var start time.Time
	var whole time.Duration
	for tries, isHashing := 0, true; isHashing; tries++ {
		first, before := file(0), sent()
		start = time.Now()
		if code, err := get().wait(patience); code != 0 || err != nil || tries == 10 {
			t.Fatal(code, err, tries)
		}
		whole = time.Since(start)
		first.whole(t)
		isHashing = tries == 0 || sent()-before > size*3/2
	}

	r := rand.New(rand.NewPCG(*killSeed, 0))
	var again, inVain []int64
	killed, files := 0, 0
	start = time.Now()
	for before := sent(); !enough(killed, start); before = sent() {
		k := file(files)
		for over := false; !over; {
			p := get()
			select {
			case <-p.done:
				over = true
			case <-time.After(time.Duration(r.Int64N(int64(whole)))):
				p.signal(syscall.SIGSTOP) // so that what it wrote can be read
				var written int64
				if _, err := os.Stat(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid)); err == nil {
					written = ioCount(t, p, "wchar")
				}
				p.kill()
				if over = p.cmd.ProcessState.Exited(); !over {
					killed++
					k.heard(p.stdout.String(), max(0, written-int64(len(p.stdout.String()))))
					k.kills++
				}
			}
			k.whole(t)
			if over {
				if code, err := p.wait(patience); code != 0 || err != nil {
					t.Fatalf("after %d kills: exit code %d, %v\n%s%s", k.kills, code, err, p.stdout, p.stderr)
				}
				k.heard(p.stdout.String(), 0)
				if got, err := os.ReadFile(k.target); err != nil || !bytes.Equal(got, content) {
					t.Fatalf("after %d kills %d bytes are there, %v", k.kills, len(got), err)
				}
				if entries, err := os.ReadDir(out); err != nil || len(entries) != 1 {
					t.Fatal(entries, err)
				}
			}
		}
		files++
		again = append(again, k.again...)
		if k.kills > 0 {
			inVain = append(inVain, max(0, sent()-before-size)/int64(k.kills))
		}
	}
	if len(again) == 0 || len(inVain) == 0 {
		t.Fatalf("nothing was interrupted: a get takes %v", whole)
	}
	slices.Sort(again)
	slices.Sort(inVain)
	t.Logf("%d kills of gets of %d MiB, %d files; a get takes %v", killed, size>>20, files, whole)
	t.Logf("written again after a kill: median %d bytes, at most %d", again[len(again)/2], again[len(again)-1])
	usual := inVain[(len(inVain)-1)/2] // of two files the lower one: a single kill may cost half a file
	t.Logf("sent again by the servers for each kill: median %d bytes, at most %d", usual, inVain[len(inVain)-1])
	if worst := again[len(again)-1]; worst > 16<<20 || usual > 16<<20 {
		t.Errorf("after a kill %d bytes were written again, or %d sent again", worst, usual)
	}
}

// TestKilledServer kills servers at random moments, also while they start, hash files and record
// the hashes. Each time the next one serves, and its index can be read.
func TestKilledServer(t *testing.T) {
	work := t.TempDir()
	root, state := filepath.Join(work, "root"), filepath.Join(work, ".state", "kwikcp")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	const files = 12
	name := func(i int) string { return fmt.Sprintf("f%d", i) }
	for i := range files {
		if err := fillFile(filepath.Join(root, name(i)), int64(1+i%4)<<20+int64(i), byte(i)); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(*killSeed, 1))
	recorded, round := 0, 0
	made := time.Now() // the index does not record files younger than two seconds
	for ; !enough(round, made) || recorded == 0 && time.Since(made) < patience; round++ {
		if round%8 == 7 { // with a new state directory and key
			if err := os.RemoveAll(state); err != nil {
				t.Fatal(err)
			}
		}
		if round%3 == 2 {
			p, err := startProcess(work, testEnv(work), nil, "serve", "--role", "primary", "--root", root, "--listen", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.done:
				t.Fatalf("it ended: %s", p.stderr)
			case <-time.After(time.Duration(r.Int64N(int64(60 * time.Millisecond)))):
			}
			p.kill()
		}
		server, url := startTestServer(t, work, "--role", "primary", "--root", root)
		fetch := func(i int) *process {
			p, err := startProcess(work, testEnv(work), nil, "get", "-q", strings.Replace(url, "/?", "/"+name(i)+"?", 1), fmt.Sprintf("out%d", i))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		i := r.IntN(files)
		if code, err := fetch(i).wait(patience); code != 0 || err != nil {
			t.Fatalf("round %d: exit code %d, %v; the server says %s", round, code, err, server.stderr)
		}
		want, err := os.ReadFile(filepath.Join(root, name(i)))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(work, fmt.Sprintf("out%d", i))
		if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: %d bytes, %v", round, len(got), err)
		}
		os.Remove(target)
		var gets []*process
		for range 3 {
			gets = append(gets, fetch(r.IntN(files)))
		}
		select {
		case <-server.done:
			t.Fatalf("round %d: the server ended: %s", round, server.stderr)
		case <-time.After(time.Duration(r.Int64N(int64(120 * time.Millisecond)))):
		}
		server.kill()
		for _, p := range gets {
			p.kill()
		}
		recorded = max(recorded, readIndex(t, state))
	}
	if recorded == 0 {
		t.Error("nothing was ever recorded")
	}
	t.Logf("%d kills; up to %d files in the index", round, recorded)
}

// readIndex fails the test unless the index in a state directory can be opened. It returns how many
// records there are.
func readIndex(t *testing.T, state string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(state, "trees-*.db"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	trees, err := serve.OpenTreeStore(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer trees.Close()
	return trees.Len()
}
