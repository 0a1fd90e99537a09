//go:build unix

package cmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/internal/escape"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// This file has the commands of scripts that start, watch and end processes.

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
	if err == nil {
		return nil
	}
	for name, p := range w.processes { // the cause may be in the log of another
		if name != args[0] {
			err = fmt.Errorf("%w\n%s:\n%s", err, name, p.stderr.String())
		}
	}
	return err
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
	// With exitExists another process put a file there.
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
	case !ok || strings.Count(rest, "\n") != 1 || !strings.HasSuffix(rest, "\n") || escape.Line(rest) != strings.TrimSuffix(rest, "\n")+"; ":
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
			files[path] = fmt.Sprint(info.Mode()) // a part file that was made and removed changes the time
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
