//go:build unix

package cmd

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if isTest := filepath.Base(os.Args[0]) != "kwikcp"; isTest {
		heedSignals()
	}
	testscript.Main(m, map[string]func(){"kwikcp": func() { os.Exit(mainUnderTest()) }})
}

// heedSignals gives the processes of tests the usual signals, although the tester may ignore some,
// as nohup does. A program that is started does not inherit handlers.
func heedSignals() {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
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

// TestScripts runs the scripts of testdata/script against the real program. Besides the commands of
// testscript they have:
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
//	listfile FILE LINE...     makes a list for get -i; \t, \r and \ufeff in a line are these characters
//	manylines FILE N URL      makes a list of N lines with that URL, each to a file of its own
//	connected NAME N          waits until the log of a server has N clients that connected, and checks that it has no more
//	freeport NAME             sets $NAME to a UDP port of 127.0.0.1 that nobody has
//	relay NAME ADDR SIZE      starts a relay in front of ADDR that stops after SIZE; sets $ADDR_NAME
//	held NAME...              waits until relays have stopped
//	release NAME...           lets relays pass everything
//	blackhole NAME            sets $ADDR_NAME to a UDP port that never answers
//	fifo NAME                 makes a FIFO
//
// $EXTERN is an address of this machine that is not loopback; [extern] holds if there is one.
// [keeps] holds if files can have any owner, extended attributes and ACLs, and there is rsync.
// [mounts] holds if "unshare -m" works and a script can mount file systems. [reflink] holds if
// one of these can be a file system that shares blocks. [race] holds under the race detector,
// which multiplies memory.
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
			case "keeps":
				return canKeep(), nil
			case "race":
				return raceDetector(), nil
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

func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
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

// command makes a script command of a function that takes at least n arguments and returns an
// error.
func command(n int, f func(ts *testscript.TestScript, w *world, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < n {
			ts.Fatalf("at least %d arguments are needed, and ! does not go with this command", n)
		}
		ts.Check(f(ts, ts.Value(worldKey{}).(*world), args))
	}
}
