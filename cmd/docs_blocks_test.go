//go:build unix

package cmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A docPage is a page whose command blocks are run as a reader would paste them. A shell runs
// each sh block in order, with the program on PATH under the name kwikcp.
//
// The first line of a block names the place where it runs. "# On HOST" is a machine, "# In shell
// N" a shell of one and the same machine. Each machine has a separate working and home directory
// below the test's directory. Its servers listen at a free port of 127.0.0.1 unless the block
// sets KWIKCP_LISTEN. A block that starts a server runs until the server prints its URL, and the
// server stays. "# In shell N, press Ctrl-C" ends the server of that shell.
//
// A text block is the output of the sh block before it, on either stream. Its lines must be
// there, in that order; other lines may stand between them. A line may be shown without its end.
// Numbers, units, hashes and addresses count only by their kind.
type docPage struct {
	file string
	// hosts are the names of machines in commands, which are replaced by the addresses of their
	// servers.
	hosts []string
	// notRun has the blocks that are not run, by their first line, and why.
	notRun map[string]string
}

var docPages = []docPage{
	{
		file:  "README.md",
		hosts: []string{"files.example.org:4433", "mirror.example.org:4433"},
		notRun: map[string]string{
			"go test ./...":                  "this test is a part of it; .ci/run runs it",
			"ok  \tkwikcp/integrity\t2.614s": "what go test ./... prints",
			"go build -o kwikcp .":           "it writes outside the test's directory; .ci/run builds for every system",
			"             what is big.bin? ──────────────►  primary    files/big.bin  knows what the file is,": "a picture",
		},
	},
	{file: "docs/TUTORIAL.md", hosts: []string{"files.example.org:4433", "mirror.example.org:4433"}},
}

// docReplacements stand for what a reader has and the test has not.
var docReplacements = map[string]string{
	"go run . demo": "kwikcp demo", // the program is built already
}

// examplePin stands in the pages for the pin that the page's newest primary printed.
const examplePin = "T64FRuT3GFJBy7g3QdgkgJ0E0VKnRDmyE0GUtpw-S5k"

// fakeSCP copies HOST:FILE to FILE between the directories of two machines of the test.
const fakeSCP = `#!/bin/sh
set -e
exec cp "../${1%%:*}/${1#*:}" "$2"
`

// A docBlock is a fenced block of a page.
type docBlock struct {
	lang string
	line int // of the fence
	text string
}

func (b docBlock) first() string {
	line, _, _ := strings.Cut(b.text, "\n")
	return line
}

// docBlocks returns the fenced blocks of a page in Markdown. Code that is only indented is an
// error: no test would see it.
func docBlocks(page string) (blocks []docBlock, err error) {
	var open *docBlock
	blank := true
	n := 0
	for line := range strings.Lines(page) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &docBlock{lang: fence, line: n}
		case isFence:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		case blank && strings.HasPrefix(line, "    "):
			return nil, fmt.Errorf("line %d: indented code, which no test runs; use a fence", n)
		}
		blank = strings.TrimSpace(line) == ""
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the fence has no end", open.line)
	}
	return blocks, nil
}

func TestDocBlocks(t *testing.T) {
	for _, page := range docPages {
		t.Run(filepath.Base(page.file), func(t *testing.T) {
			blocks, err := docBlocks(readDoc(t, "../"+page.file))
			if err != nil {
				t.Fatal(err)
			}
			r := newDocRun(t, page)
			ran := 0
			for _, b := range blocks {
				if _, listed := page.notRun[b.first()]; listed {
					delete(r.unused, b.first())
					continue
				}
				switch b.lang {
				case "sh":
					r.run(t, b)
					ran++
				case "text":
					r.compare(t, b)
				default:
					t.Errorf("%s:%d: a block %q is neither run nor listed as not run", page.file, b.line, b.lang)
				}
			}
			if ran == 0 {
				t.Error("no block was run")
			}
			for first := range r.unused {
				t.Errorf("%s has no block that begins with %q any more", page.file, first)
			}
		})
	}
}

// A docRun is a page on the way.
type docRun struct {
	page    docPage
	work    string
	bin     string
	listen  map[string]string // by machine: where its servers listen
	servers map[string]*process
	pin     string // of the newest primary
	printed string // by the newest block
	unused  map[string]string
	names   *strings.Replacer
}

func newDocRun(t *testing.T, page docPage) *docRun {
	r := &docRun{page: page, work: t.TempDir(), listen: make(map[string]string), servers: make(map[string]*process), unused: make(map[string]string)}
	for first, why := range page.notRun {
		r.unused[first] = why
	}
	r.bin = filepath.Join(r.work, ".bin")
	if err := os.MkdirAll(r.bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.bin, "scp"), []byte(fakeSCP), 0o700); err != nil {
		t.Fatal(err)
	}
	var names []string
	for from, to := range docReplacements {
		names = append(names, from, to)
	}
	for _, host := range page.hosts {
		machine, _, _ := strings.Cut(host, ":")
		r.listen[machine] = freeAddress(t)
		names = append(names, host, r.listen[machine])
	}
	for _, port := range []string{"4433", "4434", "4435"} { // of the servers on one machine
		names = append(names, "127.0.0.1:"+port, freeAddress(t))
	}
	r.names = strings.NewReplacer(names...)
	t.Cleanup(func() {
		for _, p := range r.servers {
			r.stop(p, syscall.SIGKILL)
			<-p.done
		}
	})
	return r
}

// freeAddress returns an address of loopback at a free UDP port.
func freeAddress(t *testing.T) string {
	t.Helper()
	conn, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

var docPlace = regexp.MustCompile(`^# (?:On ([a-z.]+)|In (shell [0-9]+))(, press Ctrl-C)?`)

// place returns where a block runs: the shell, its machine, and whether the block only ends the
// shell's server.
func (b docBlock) place() (shell, machine string, ctrlC bool) {
	m := docPlace.FindStringSubmatch(b.first())
	switch {
	case m == nil:
		return "here", "here", false
	case m[2] != "":
		return m[2], "here", m[3] != ""
	}
	machine = m[1]
	if machine == "the" {
		machine = "client"
	}
	return machine, machine, m[3] != ""
}

// run runs a block of commands to its end, or until its server is ready.
func (r *docRun) run(t *testing.T, b docBlock) {
	t.Helper()
	shell, machine, ctrlC := b.place()
	where := fmt.Sprintf("%s:%d", r.page.file, b.line)
	if ctrlC {
		r.endServer(t, where, shell)
		return
	}
	dir := filepath.Join(r.work, machine)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := r.names.Replace(b.text)
	if r.pin != "" {
		text = strings.ReplaceAll(text, examplePin, r.pin)
	}
	both := newOutput() // in the order in which it is printed
	p := &process{cmd: exec.Command("sh", "-e", "-c", text), stdout: both, stderr: both, done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.stdout, p.stderr
	p.cmd.Env = append(testEnv(dir), "PATH="+r.bin+":"+os.Getenv("PATH"), "TMPDIR="+dir)
	if listen := r.listen[machine]; listen != "" {
		p.cmd.Env = append(p.cmd.Env, "KWIKCP_LISTEN="+listen)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that the shell's server is reached as well
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the clean-up or the wait below ends
		p.cmd.Wait()
		p.ended = time.Now()
		close(p.done)
	}()
	if strings.Contains(text, "kwikcp serve ") {
		r.servers[shell] = p
		pin, err := p.await(`^kwik://\S+\?pin=(\S+)\n`)
		if err != nil {
			t.Fatalf("%s: the server is not ready: %v", where, err)
		}
		if strings.Contains(text, "--role primary") {
			r.pin = pin
		}
	} else if code, err := p.wait(2 * patience); err != nil || code != 0 {
		r.stop(p, syscall.SIGKILL)
		t.Fatalf("%s: exit code %d, %v\n%s", where, code, err, both)
	}
	r.printed = both.String()
	if crashed.MatchString(r.printed) {
		t.Fatalf("%s: it crashed: %s", where, r.printed)
	}
}

func (r *docRun) stop(p *process, s syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, s) }

func (r *docRun) endServer(t *testing.T, where, shell string) {
	t.Helper()
	p := r.servers[shell]
	if p == nil {
		t.Fatalf("%s: %s has no server", where, shell)
	}
	r.stop(p, syscall.SIGINT)
	if code, err := p.wait(patience); err != nil || (code != 0 && code != 128+int(syscall.SIGINT)) { // the shell's own
		t.Fatalf("%s: the server ended with %d, %v\n%s", where, code, err, p.stderr)
	}
	delete(r.servers, shell)
}

// docKinds are what differs from run to run, and what stands for it in a comparison.
var docKinds = []struct {
	what *regexp.Regexp
	kind string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH"},
	{regexp.MustCompile(`pin=[A-Za-z0-9_-]{43}`), "pin=PIN"},
	{regexp.MustCompile(`\d+(\.\d+)+:\d+`), "ADDR"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(`\d+(\.\d+)?`), "N"},
	{regexp.MustCompile(`N ([KMG]i)?B\b`), "N B"},
	{regexp.MustCompile(`\bservers?\b`), "servers"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

var docExitCode = regexp.MustCompile(`exit code \d+`)

// docKind returns what of a line must be the same in every run. An exit code is no number like
// others: its digits become letters.
func docKind(line string) string {
	line = docExitCode.ReplaceAllStringFunc(strings.TrimSpace(line), func(code string) string {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return r - '0' + 'A'
			}
			return r
		}, code)
	})
	for _, k := range docKinds {
		line = k.what.ReplaceAllString(line, k.kind)
	}
	return line
}

// compare checks that what a page shows was printed.
func (r *docRun) compare(t *testing.T, b docBlock) {
	t.Helper()
	rest := strings.Split(r.printed, "\n")
	for want := range strings.Lines(b.text) {
		if want = docKind(want); want == "" {
			continue
		}
		for len(rest) > 0 && !strings.HasPrefix(docKind(rest[0]), want) {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Errorf("%s:%d: there is no %q, in that order, in\n%s", r.page.file, b.line, want, r.printed)
			return
		}
		rest = rest[1:]
	}
}

// The comparison takes numbers for numbers, and nothing else.
func TestDocComparison(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"64 MiB in 0.40 s", "64 MiB in 12 s", true},
		{"962 KiB", "1.0 MiB", true},
		{"127.0.0.1:4433  primary    5", "127.0.0.1:40001 primary 7", true},
		{"exit code 6", "exit code 11", false},
		{"differs", "missing", false},
	} {
		if (docKind(test.a) == docKind(test.b)) != test.same {
			t.Errorf("%q and %q: %q, %q", test.a, test.b, docKind(test.a), docKind(test.b))
		}
	}
	if _, err := docBlocks("text\n\n    code\n"); err == nil {
		t.Error("indented code passes")
	}
	if _, err := docBlocks("```sh\ntrue\n"); err == nil {
		t.Error("an open fence passes")
	}
}
