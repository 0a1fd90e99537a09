package cmd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

const (
	defaultJobs = 4
	maxJobs     = 64
	// maxListLine bounds a line of a list, in bytes: a URL and a path of the greatest lengths, and more.
	maxListLine = 64 << 10
)

// A listLine is a line of a list that names a file.
type listLine struct {
	number int // from 1
	url    string
	target string // empty for the last component of the URL's path
	err    error  // what is wrong with it
}

// readList calls found for each line of a list but comments, which begin with #, and empty ones, until that returns false.
func readList(r io.Reader, found func(listLine) bool) error {
	b := bufio.NewReaderSize(r, maxListLine)
	targets := make(map[string]int) // the numbers of the lines that name them
	for number := 1; ; number++ {
		text, err := b.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			_, err = b.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return err
		}
		text = bytes.TrimRight(text, "\r\n")
		if line := (listLine{number: number}); long || (len(bytes.TrimSpace(text)) > 0 && text[0] != '#') {
			url, target, named := strings.Cut(string(text), "\t")
			line.url, line.target = strings.TrimSpace(url), target
			switch {
			case long:
				line.url, line.err = "", usageError{fmt.Errorf("it is longer than %d bytes", maxListLine), listHelp}
			case named && (target == "" || target == "-"):
				line.err = usageError{fmt.Errorf("%q is no name for a file", target), listHelp}
			}
			if name, place := line.file(); line.err == nil && name != "" {
				if before, twice := targets[place]; twice {
					line.err = usageError{fmt.Errorf("it writes to %q as line %d does", name, before), "name another file behind a tab"}
				}
				targets[place] = number
			}
			if !found(line) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

const listHelp = "each line is a URL, and perhaps a tab and the name of a file"

// file returns the file that a line writes to, empty if the line is not valid, and where that is, however it is spelled: its absolute name in
// its real directory, if there is one.
func (l listLine) file() (name, place string) {
	var o getCmd
	if o.aim(l.url, l.target) != nil {
		return "", ""
	}
	name = filepath.Clean(o.target)
	place, err := filepath.Abs(name)
	if err != nil {
		return name, name
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(place)); err == nil {
		place = filepath.Join(dir, filepath.Base(place))
	}
	return name, place
}

// parseJobs reads --jobs, and refuses what is about one file only.
func parseJobs(c *cli.Context) (int, error) {
	jobs := c.Int("jobs")
	switch {
	case c.Args().Present():
		return 0, usageError{fmt.Errorf("with --input-file get takes no argument such as %q", c.Args().First()), listHelp}
	case jobs < 1 || jobs > maxJobs:
		return 0, usageError{fmt.Errorf("--jobs %d is not 1 to %d", jobs, maxJobs), "that many files are fetched at once"}
	}
	for _, flag := range []string{"checksum", "range", "seed"} {
		if c.String(flag) != "" {
			return 0, usageError{fmt.Errorf("--%s is for a single file, not for a list", flag), "a URL may end in #b3=HEX"}
		}
	}
	return jobs, nil
}

// A listRun fetches the files of a list. Its goroutines end with run.
type listRun struct {
	get    getCmd // the options; no URL and no target
	quiet  bool
	events *events // nil without --json

	mu      sync.Mutex
	view    *view // nil if quiet or with --json
	active  []*listFile
	lines   int // that name a file
	here    int // files that are
	bytes   int64
	kept    bool  // something is left that the next get goes on from
	worst   error // nil, or what the worst line ended with
	started time.Time
}

func runList(ctx context.Context, c *cli.Context, t *terminal) error {
	l := &listRun{quiet: c.Bool("quiet"), started: time.Now()}
	if c.Bool("json") {
		l.events = newEvents(t.stdout)
		l.events.start("", "")
	} else if !l.quiet {
		l.view = newView(t, false, "")
	}
	err := l.run(ctx, c, t)
	if l.events != nil {
		l.events.summary(l, err)
	}
	if !l.quiet && l.lines > 0 {
		t.printf("%s", l.summary())
	}
	return err
}

func (l *listRun) run(ctx context.Context, c *cli.Context, t *terminal) error {
	jobs, err := parseJobs(c)
	if err != nil {
		return err
	}
	if l.get, err = parseGetOptions(c, t); err != nil {
		return err
	}
	name := c.String("input-file")
	list := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return localFileError(fmt.Sprintf("read the list %q", name), err)
		}
		defer f.Close()
		list = f
	}
	var pool transfer.Pool
	defer pool.Close()
	l.get.pool = &pool

	lines, read := make(chan listLine), make(chan error, 1)
	// Ends at the end of the list, or at the next line after the end of ctx. Standard input may have none; then the goroutine is left to the
	// process, which is about to end.
	go func() {
		defer close(lines)
		read <- readList(list, func(line listLine) bool {
			select {
			case lines <- line:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for {
				select {
				case line, ok := <-lines:
					if !ok {
						return
					}
					l.fetch(ctx, line)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		if err := context.Cause(ctx); !l.kept {
			return err
		}
		return keptError{context.Cause(ctx)}
	}
	switch err := <-read; {
	case err != nil:
		return localFileError(fmt.Sprintf("read the list %q", name), err)
	case l.lines == 0:
		return usageError{fmt.Errorf("the list %q names no file", name), listHelp}
	case l.worst != nil:
		return saidError{l.worst}
	}
	return nil
}

// fetch fetches the file of a line and says what became of it.
func (l *listRun) fetch(ctx context.Context, line listLine) {
	o, err := l.get, line.err
	if err == nil {
		err = o.aim(line.url, line.target)
	}
	if err == nil && o.stdout {
		err = usageError{fmt.Errorf("%q is no name for a file", line.target), listHelp}
	}
	var result transfer.Result
	f := l.begin(o.target)
	if err == nil {
		result, err = o.get(ctx, f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f.end()
	if l.view != nil {
		l.view.clear()
	}
	l.lines++
	if err == nil {
		l.here++
		l.bytes += result.Bytes
	}
	l.kept = l.kept || result.Kept
	if l.events != nil {
		l.events.resultOf(line, result, err)
	}
	code, message, hint := explain(err)
	if worst, _, _ := explain(l.worst); code > worst {
		l.worst = err
	}
	switch {
	case err == nil && !l.quiet && l.events == nil:
		o.t.printf("%s", o.summary(result))
	case err != nil && ctx.Err() == nil: // an interruption is said once
		if hint == getHelp {
			hint = listHelp
		}
		o.t.errorWithHint(fmt.Sprintf("line %d: %s", line.number, message), hint)
	}
}

// summary says in a line what became of the list.
func (l *listRun) summary() string {
	text := fmt.Sprintf("%d of %d files are here, %s in %.2f s", l.here, l.lines, size(l.bytes), time.Since(l.started).Seconds())
	if failed := l.lines - l.here; failed > 0 {
		text += fmt.Sprintf("; %d failed", failed)
	}
	return text
}

// resultOf prints what became of a line of a list.
func (e *events) resultOf(line listLine, r transfer.Result, err error) {
	e.enc.Encode(struct {
		resultJSON
		Line int    `json:"line"`
		URL  string `json:"url"`
	}{newResult(r, err), line.number, withoutSecret(line.url)})
}

// summary prints the last event of a list.
func (e *events) summary(l *listRun, err error) {
	code, message, _ := explain(err)
	e.enc.Encode(struct {
		event
		OK        bool    `json:"ok"`
		ExitCode  int     `json:"exit_code"`
		ErrorCode string  `json:"error_code"`
		Message   string  `json:"message"`
		Files     int     `json:"files"`
		Failed    int     `json:"failed"`
		Bytes     int64   `json:"bytes"`
		Seconds   float64 `json:"seconds"`
	}{event{1, "summary"}, err == nil, code, errorCode(err), message, l.lines, l.lines - l.here, l.bytes, time.Since(l.started).Seconds()})
}
