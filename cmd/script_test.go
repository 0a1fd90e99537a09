//go:build unix

package cmd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/zeebo/blake3"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kwikcp": func() { os.Exit(mainUnderTest()) }})
}

// mainUnderTest is Main, with every event held against the schema.
func mainUnderTest() int {
	if !wantsJSON(os.Args) {
		return Main()
	}
	checked := &schemaWriter{w: os.Stdout}
	code := mainTo(checked)
	if err := checked.close(); err != nil {
		fmt.Fprintln(os.Stderr, "panic:", err)
		return 99
	}
	return code
}

// TestScripts runs the scripts of testdata/script against the real program. Besides the commands of testscript they have:
//
//	serve NAME ARG...         starts "kwikcp serve ARG..." at a port of its own and waits until it is ready;
//	                          sets $URL_NAME, without a path, and $ADDR_NAME
//	start NAME ARG...         starts "kwikcp ARG..." in the background
//	await NAME REGEXP         waits until the output of NAME matches
//	awaitfile PATTERN         waits until there is a file of that name
//	signal NAME SIGNAL        sends INT, TERM, HUP, KILL, STOP or CONT
//	ended NAME CODE           waits for the end of NAME: with that code, within a second of the last signal; its output becomes
//	                          stdout and stderr; the target of a get that failed must be as it was
//	fails CODE [within=D] ARG...  runs "kwikcp ARG...": it must end with that code and one line on stderr, within D (5 s)
//	                          and must leave the work directory as it was
//	genfile NAME SIZE SEED    makes a file; SIZE may end in K or M
//	samehash A B              compares two files
//	only DIR NAME...          checks that a directory has these files and no others; part:NAME is the part file of NAME
//	events FILE [EVENT...]    checks the JSON lines of a get, and that each EVENT is among them
//	delivered FILE N          checks that the result among the JSON lines says that N servers delivered
//	resumed FILE              checks that some of its bytes were there before, and that all are accounted for
//	took FILE D               checks the seconds of the result among the JSON lines: D, 15 % less at most; a busy machine may take up to four times as long
//	listfile FILE LINE...     makes a list for get -i; \t in a line is a tab
//	manylines FILE N URL      makes a list of N lines with that URL, each to a file of its own
//	connected NAME N          waits until the log of a server has N clients that connected, and checks that it has no more
//	freeport NAME             sets $NAME to a UDP port of 127.0.0.1 that nobody has
//	relay NAME ADDR SIZE      starts a relay in front of ADDR that stops after SIZE; sets $ADDR_NAME
//	held NAME...              waits until relays have stopped
//	release NAME...           lets relays pass everything
//	blackhole NAME            sets $ADDR_NAME to a UDP port that never answers
//	fifo NAME                 makes a FIFO
//
// $EXTERN is an address of this machine that is not loopback; [extern] says whether there is one, [mounts] whether "unshare -m"
// works and mounts of a script's own, [reflink] whether one of them can be a file system that shares blocks.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: setupScript,
		Condition: func(name string) (bool, error) {
			switch name {
			case "extern":
				return !outwardAddress().IsLoopback(), nil
			case "mounts":
				return canMount(), nil
			case "reflink":
				return canReflink(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": command(2, cmdServe), "start": command(2, cmdStart), "await": command(2, cmdAwait), "awaitfile": command(1, cmdAwaitFile),
			"signal": command(2, cmdSignal), "ended": command(2, cmdEnded), "fails": command(1, cmdFails),
			"genfile": command(3, cmdGenfile), "samehash": command(2, cmdSameHash), "only": command(1, cmdOnly),
			"events": command(1, cmdEvents), "delivered": command(2, cmdDelivered), "resumed": command(1, cmdResumed), "took": command(2, cmdTook), "listfile": command(2, cmdListFile), "manylines": command(3, cmdManyLines), "connected": command(2, cmdConnected), "freeport": command(1, cmdFreePort),
			"relay": command(3, cmdRelay), "held": command(1, cmdHeld), "release": command(1, cmdRelease),
			"blackhole": command(1, cmdBlackhole), "fifo": command(1, cmdFifo),
		},
	})
}

// A world is what a script has started.
type world struct {
	work      string
	processes map[string]*process
	targets   map[string]standing // of the gets among them
	relays    map[string]*relay
}

type worldKey struct{}

func setupScript(env *testscript.Env) error {
	w := &world{work: env.WorkDir, processes: make(map[string]*process), targets: make(map[string]standing), relays: make(map[string]*relay)}
	env.Values[worldKey{}] = w
	env.Defer(func() {
		for _, p := range w.processes {
			p.kill()
		}
		for _, r := range w.relays {
			r.close()
		}
	})
	for _, v := range testEnv(env.WorkDir) {
		name, value, _ := strings.Cut(v, "=")
		env.Setenv(name, value)
	}
	env.Setenv("EXTERN", outwardAddress().String())
	return nil
}

// command makes a script command of a function that takes at least n arguments and returns an error.
func command(n int, f func(ts *testscript.TestScript, w *world, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < n {
			ts.Fatalf("at least %d arguments are needed, and ! does not go with this command", n)
		}
		ts.Check(f(ts, ts.Value(worldKey{}).(*world), args))
	}
}

func cmdStart(ts *testscript.TestScript, w *world, args []string) error {
	env := testEnv(w.work)
	for _, name := range []string{"KWIKCP_JOIN_TOKEN"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	if old := w.processes[args[0]]; old != nil {
		old.kill()
	}
	delete(w.targets, args[0])
	if target := receivedInto(ts.MkAbs("."), args[1:]); target != "" {
		w.targets[args[0]] = look(target)
	}
	p, err := startProcess(ts.MkAbs("."), env, nil, args[1:]...)
	if err == nil {
		w.processes[args[0]] = p
	}
	return err
}

func cmdServe(ts *testscript.TestScript, w *world, args []string) error {
	name, args := args[0], args[1:]
	if !slices.Contains(args, "--listen") {
		args = append([]string{"--listen", "127.0.0.1:0"}, args...)
	}
	if err := cmdStart(ts, w, append([]string{name, "serve"}, args...)); err != nil {
		return err
	}
	p := w.processes[name]
	url, err := p.await(`^(kwik://\S+)\n`)
	if err != nil {
		return err
	}
	host, query, _ := strings.Cut(strings.TrimPrefix(url, "kwik://"), "/")
	ts.Setenv("ADDR_"+name, host)
	ts.Setenv("URL_"+name, url)
	ts.Setenv("PIN_"+name, query)
	if text := p.stdout.String(); text != url+"\n" {
		return fmt.Errorf("stdout has more than a URL: %q", text)
	}
	return nil
}

func cmdAwait(_ *testscript.TestScript, w *world, args []string) error {
	_, err := w.processes[args[0]].await(args[1])
	return err
}

func cmdAwaitFile(ts *testscript.TestScript, _ *world, args []string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if found, err := filepath.Glob(ts.MkAbs(args[0])); err != nil || len(found) > 0 {
			return err
		}
	}
	return fmt.Errorf("there is no file %s", args[0])
}

func cmdSignal(_ *testscript.TestScript, w *world, args []string) error {
	signals := map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
		"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}
	return w.processes[args[0]].signal(signals[args[1]])
}

func cmdEnded(ts *testscript.TestScript, w *world, args []string) error {
	p := w.processes[args[0]]
	code, err := p.wait(patience)
	if err != nil {
		return err
	}
	stdout, stderr := p.stdout.String(), p.stderr.String()
	io.WriteString(ts.Stdout(), stdout)
	io.WriteString(ts.Stderr(), stderr)
	if strconv.Itoa(code) != args[1] {
		return fmt.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if crashed.MatchString(stderr) {
		return fmt.Errorf("it crashed: %s", stderr)
	}
	// With exitExists it is somebody else who put a file there.
	if before, ok := w.targets[args[0]]; ok && code != exitOK && code != exitExists && look(before.path) != before {
		return fmt.Errorf("it failed, and what stood at %s does not stand there any more", before.path)
	}
	if took := p.ended.Sub(p.signalled); !p.signalled.IsZero() && took > time.Second {
		return fmt.Errorf("it took %v from the signal to the end", took)
	}
	return nil
}

var crashed = regexp.MustCompile(`(?m)goroutine \d|^panic|DATA RACE|SIGSEGV`)

func cmdFails(ts *testscript.TestScript, w *world, args []string) error {
	code, args := args[0], args[1:]
	limit := 5 * time.Second
	if len(args) > 0 && strings.HasPrefix(args[0], "within=") {
		var err error
		if limit, err = time.ParseDuration(args[0][len("within="):]); err != nil {
			return err
		}
		args = args[1:]
	}
	before, err := snapshot(w.work)
	if err != nil {
		return err
	}
	start := time.Now()
	err = ts.Exec("kwikcp", args...)
	took := time.Since(start)
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || strconv.Itoa(exit.ExitCode()) != code {
		return fmt.Errorf("it ended with %v", err)
	}
	after, err := snapshot(w.work)
	if err != nil {
		return err
	}
	switch rest, ok := strings.CutPrefix(stderr, "kwikcp: error: "); {
	case took > limit:
		return fmt.Errorf("it took %v", took)
	case !ok || strings.Count(rest, "\n") != 1 || !strings.HasSuffix(rest, "\n") || oneLine(rest) != strings.TrimSuffix(rest, "\n")+"; ":
		return fmt.Errorf("not one line on stderr: %q", stderr)
	case crashed.MatchString(stderr):
		return errors.New("it crashed")
	case fmt.Sprint(before) != fmt.Sprint(after):
		return fmt.Errorf("files were %v, are %v", before, after)
	case wantsJSON(args) || ts.Getenv("KWIKCP_JSON") == "true":
		return checkEvents(stdout, []string{"start", "result"})
	case stdout != "" && !slices.Contains(args, "-"):
		return fmt.Errorf("stdout has %q", stdout)
	}
	return nil
}

// snapshot returns what is in a directory, but for the state that kwikcp keeps.
func snapshot(dir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == ".home" || name == ".state") {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
		if strings.HasSuffix(path, ".part") && isLive(path) {
			files[path] = "being received"
		}
		if d.IsDir() {
			files[path] = fmt.Sprint(info.Mode()) // a part file that came and went changes the time
		}
		return nil
	})
	return files, err
}

// isLive reports whether a get holds the lock of a part file.
func isLive(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

func cmdGenfile(ts *testscript.TestScript, _ *world, args []string) error {
	n, err := parseBytes(args[1])
	if err != nil {
		return err
	}
	return fillFile(ts.MkAbs(args[0]), n, args[2][0])
}

func parseBytes(text string) (int64, error) {
	number, shift := text, 0
	if s, ok := strings.CutSuffix(text, "K"); ok {
		number, shift = s, 10
	} else if s, ok := strings.CutSuffix(text, "M"); ok {
		number, shift = s, 20
	}
	n, err := strconv.ParseInt(number, 10, 64)
	return n << shift, err
}

func cmdSameHash(ts *testscript.TestScript, _ *world, args []string) error {
	var sums [2][sha256.Size]byte
	for i, name := range args[:2] {
		data := []byte(ts.ReadFile(name))
		sums[i] = sha256.Sum256(data)
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("%s and %s differ", args[0], args[1])
	}
	return nil
}

func cmdOnly(ts *testscript.TestScript, _ *world, args []string) error {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	var want []string
	for _, name := range args[1:] {
		if of, ok := strings.CutPrefix(name, "part:"); ok {
			sum := blake3.Sum256([]byte(of))
			name = ".kwikcp-" + hex.EncodeToString(sum[:10]) + ".part"
		}
		want = append(want, name)
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		return fmt.Errorf("%s has %q", args[0], names)
	}
	return nil
}

func cmdEvents(ts *testscript.TestScript, _ *world, args []string) error {
	return checkEvents(ts.ReadFile(args[0]), args[1:])
}

// checkEvents checks the contract of --json, and that every wanted event is there.
func checkEvents(text string, want []string) error {
	var names []string
	for line := range strings.Lines(text) {
		var e struct {
			V     int    `json:"v"`
			Event string `json:"event"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.V != 1 || e.Event == "" || !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("not an event: %q (%v)", line, err)
		}
		if err := checkAgainstSchema(line); err != nil {
			return err
		}
		names = append(names, e.Event)
	}
	for i, name := range names {
		if (name == "start") != (i == 0) || (name == "result") != (i == len(names)-1) {
			return fmt.Errorf("out of order: %v", names)
		}
	}
	for _, name := range append(want, "start", "result") {
		if !slices.Contains(names, name) {
			return fmt.Errorf("no event %q among %v", name, names)
		}
	}
	return nil
}

// A resultLine is the last of the JSON lines of a get.
type resultLine struct {
	Bytes   int64 `json:"bytes"`
	Resumed int64 `json:"resumed_bytes"`
	Servers []struct {
		Bytes int64 `json:"bytes"`
	} `json:"servers"`
}

// readResult reads it and checks that every byte was delivered or there before.
func readResult(text string) (r resultLine, delivering int, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return r, 0, err
	}
	sum := r.Resumed
	for _, s := range r.Servers {
		sum += s.Bytes
		if s.Bytes > 0 {
			delivering++
		}
	}
	if sum != r.Bytes {
		err = fmt.Errorf("%d of %d bytes were delivered or there before", sum, r.Bytes)
	}
	return r, delivering, err
}

func cmdDelivered(ts *testscript.TestScript, _ *world, args []string) error {
	_, delivering, err := readResult(ts.ReadFile(args[0]))
	if err == nil && strconv.Itoa(delivering) != args[1] {
		err = fmt.Errorf("%d servers delivered", delivering)
	}
	return err
}

func cmdResumed(ts *testscript.TestScript, _ *world, args []string) error {
	text := ts.ReadFile(args[0])
	r, _, err := readResult(text)
	if err == nil && (r.Resumed == 0 || !strings.Contains(text, fmt.Sprintf(`"event":"resume","bytes":%d}`, r.Resumed))) {
		err = fmt.Errorf("%d bytes were resumed, or another event says so", r.Resumed)
	}
	return err
}

func cmdTook(ts *testscript.TestScript, _ *world, args []string) error {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	var result struct {
		Seconds float64 `json:"seconds"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil {
		return err
	}
	want, err := time.ParseDuration(args[1])
	if err == nil && (result.Seconds < 0.85*want.Seconds() || result.Seconds > 4*want.Seconds()) {
		err = fmt.Errorf("it took %.2f s", result.Seconds)
	}
	return err
}

func cmdListFile(ts *testscript.TestScript, _ *world, args []string) error {
	text := strings.ReplaceAll(strings.Join(args[1:], "\n"), `\t`, "\t")
	return os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600)
}

func cmdManyLines(ts *testscript.TestScript, _ *world, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s\tmany-%d\n", args[2], i)
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o600)
}

func cmdConnected(_ *testscript.TestScript, w *world, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	p := w.processes[args[0]]
	if _, err := p.await(`(?s)(.*client connected){` + args[1] + `}`); err != nil {
		return err
	}
	if got := strings.Count(p.stderr.String(), "client connected"); got != n {
		return fmt.Errorf("%d clients connected", got)
	}
	return nil
}

func cmdFreePort(ts *testscript.TestScript, w *world, args []string) error {
	conn, err := listenLoopback()
	if err != nil {
		return err
	}
	ts.Setenv(args[0], strconv.Itoa(conn.LocalAddr().(*net.UDPAddr).Port))
	return conn.Close()
}

func listenLoopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
}

func cmdRelay(ts *testscript.TestScript, w *world, args []string) error {
	target, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	budget, err := parseBytes(args[2])
	if err != nil {
		return err
	}
	r, err := newRelay(target, budget)
	if err != nil {
		return err
	}
	w.relays[args[0]] = r
	ts.Setenv("ADDR_"+args[0], r.addr())
	return nil
}

func cmdHeld(_ *testscript.TestScript, w *world, args []string) error {
	deadline := time.After(patience)
	for _, name := range args {
		select {
		case <-w.relays[name].held:
		case <-deadline:
			return fmt.Errorf("relay %s lets %d more bytes pass", name, w.relays[name].budget.Load())
		}
	}
	return nil
}

func cmdRelease(_ *testscript.TestScript, w *world, args []string) error {
	for _, name := range args {
		w.relays[name].release()
	}
	return nil
}

func cmdBlackhole(ts *testscript.TestScript, _ *world, args []string) error {
	conn, err := listenLoopback()
	if err != nil {
		return err
	}
	ts.Defer(func() { conn.Close() })
	ts.Setenv("ADDR_"+args[0], conn.LocalAddr().String())
	return nil
}

func cmdFifo(ts *testscript.TestScript, _ *world, args []string) error {
	return syscall.Mkfifo(ts.MkAbs(args[0]), 0o600)
}
