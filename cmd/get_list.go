package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"kwikcp/transfer"
)

// This file is get -i: the files of a list.

const (
	defaultJobs = 4
	maxJobs     = 64
	// maxMalformed bounds the errors about lines that are malformed; --json has all of them.
	maxMalformed = 20
)

// parseJobs reads --jobs, and refuses arguments and the options of a single file.
func parseJobs(o *getOptions, args []string) (int, error) {
	switch {
	case len(args) > 0:
		return 0, usagef(adviseList, "with --input-file get takes no argument such as %q", args[0])
	case o.jobs.int < 1 || o.jobs.int > maxJobs:
		return 0, usagef(adviseJobs, "--jobs %d is not 1 to %d", o.jobs.int, maxJobs)
	case len(o.checksums.list) > 0:
		return 0, usagef(adviseListHash, "--checksum is for a single file, not for a list")
	case o.byteRange != "":
		return 0, usagef(adviseListHash, "--range is for a single file, not for a list")
	case o.seed != "":
		return 0, usagef(adviseListHash, "--seed is for a single file, not for a list")
	}
	return o.jobs.int, nil
}

// A listGet fetches the files of a list. Its goroutines end with run.
type listGet struct {
	each   fileGet // how to fetch; without URL and target
	quiet  bool
	events *events // nil without --json

	mu        sync.Mutex // guards the rest while run is running
	view      *view      // nil if quiet or with --json
	active    []*listFile
	lines     int // that name a file
	complete  int // files
	repeated  int // lines that are the same as an earlier one
	malformed int // lines
	bytes     int64
	resumable bool // a part file is left
	warned    warningMemory
	worst     error // of the line with the highest exit code; nil if there is none
	started   time.Time
}

// A lineSource passes the lines of a list to a channel. It returns an error of reading the list.
type lineSource func(ctx context.Context, l *listGet, lines chan<- listLine) error

// runGetLines fetches the files of --input-file.
func runGetLines(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	return runGetList(ctx, t, o, func(ctx context.Context, l *listGet, lines chan<- listLine) error {
		list := io.Reader(os.Stdin)
		if o.inputFile != "-" {
			f, err := os.Open(o.inputFile)
			if err != nil {
				return err
			}
			defer f.Close()
			list = f
		}
		return l.readAll(ctx, list, lines)
	}, args...)
}

// runGetList fetches the files of a list.
func runGetList(ctx context.Context, t *terminal, o *getOptions, source lineSource, args ...string) error {
	l := &listGet{quiet: o.quiet, started: time.Now()}
	if o.json {
		l.events = newEvents(t.stdout)
		l.events.start("", "")
	} else if !l.quiet {
		l.view = newView(t, false, "")
	}
	err := l.run(ctx, t, o, source, args)
	if l.events != nil {
		l.events.listSummary(l, err)
	}
	if !l.quiet && l.lines > 0 {
		l.each.checksums.warnOfMalformed(t)
		t.printf("%s", l.summary())
	}
	return err
}

func (l *listGet) run(ctx context.Context, t *terminal, o *getOptions, source lineSource, args []string) error {
	jobs, err := parseJobs(o, args)
	if err != nil {
		return err
	}
	if l.each, err = parseFileOptions(t, o); err != nil {
		return err
	}
	l.each.inList = true
	if o.inputFile == "-" && o.checksumFile == "-" {
		return usagef(adviseList, "--input-file and --checksum-file cannot both be stdin")
	}
	if err := l.each.readChecksums(ctx); err != nil {
		return err
	}
	var pool transfer.Pool
	defer pool.Close()
	l.each.pool = &pool

	if err := l.fetchAll(ctx, source, jobs); isUsage(err) {
		return usagef(adviseList, "the list %q is malformed: %w", o.inputFile, err)
	} else if err != nil {
		return localFileError(fmt.Sprintf("read the list %q", o.inputFile), err)
	}
	l.countMalformed()
	interrupted := context.Cause(ctx)
	switch {
	case interrupted != nil && l.resumable:
		return resumableError{interrupted}
	case interrupted != nil:
		return interrupted
	case l.lines == 0:
		return usagef(adviseList, "the list %q names no file", o.inputFile)
	case l.worst != nil:
		return reportedError{l.worst}
	}
	return nil
}

// fetchAll fetches the files of a list, so many at once. It returns an error of reading the list;
// after the end of ctx it returns nil.
func (l *listGet) fetchAll(ctx context.Context, source lineSource, jobs int) error {
	lines, read := make(chan listLine), make(chan error, 1)
	// Ends at the end of the list, or at the next line after the end of ctx. If standard input has
	// no further line the goroutine is left to the process, which is about to end.
	go func() {
		defer close(lines)
		read <- source(ctx, l, lines)
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
		return nil
	}
	return <-read
}

// readAll passes the lines of a list on, except those that repeat an earlier one.
func (l *listGet) readAll(ctx context.Context, list io.Reader, lines chan<- listLine) error {
	r := newListReader(list, l.each.destination)
	r.allowHTTP = l.each.web.AllowHTTP
	for {
		line, err := r.next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case line.repeats > 0:
			l.mu.Lock()
			l.repeated++
			l.mu.Unlock()
			continue
		}
		l.each.tokens.bindTo(line.url)
		select {
		case lines <- line:
		case <-ctx.Done():
			return nil
		}
	}
}

// fetch fetches the file of a line and reports the result.
func (l *listGet) fetch(ctx context.Context, line listLine) {
	g, err := l.each, line.err
	switch {
	case err != nil:
	case line.file != nil:
		err = g.describe(*line.file, line.target)
	default:
		err = g.aim(line.url, line.target)
		g.webFile.Mirrors = line.mirrors
	}
	if err == nil && g.stdout {
		err = usagef(adviseList, "%q is not the name of a file", line.target)
	}
	var result transfer.Result
	f := l.begin(g.target)
	if err == nil {
		result, err = g.run(ctx, f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f.end()
	if l.view != nil {
		l.view.clear()
	}
	l.lines++
	if err == nil {
		l.complete++
		l.bytes += result.Bytes
	}
	l.resumable = l.resumable || result.Kept
	err = adviseForList(err)
	if l.events != nil {
		l.events.lineResult(line, result, err)
	}
	if exitCodeOf(err) > exitCodeOf(l.worst) {
		l.worst = err
	}
	switch {
	case err == nil && !l.quiet && l.events == nil:
		l.warned.print(g.t, result.Warnings)
		g.t.printf("%s", g.summary(result))
	case line.err != nil && l.hasEnoughMalformed():
	case err != nil && ctx.Err() == nil: // an interruption is printed once, at the end
		_, message, hint := explain(err)
		g.t.errorWithHint(line.label()+": "+message, hint)
	}
}

// label names the line in messages.
func (l *listLine) label() string {
	if l.file != nil {
		return fmt.Sprintf("file %q", l.file.name)
	}
	return fmt.Sprintf("line %d", l.number)
}

// hasEnoughMalformed counts a malformed line, and reports whether there were many before. The
// caller holds the lock.
func (l *listGet) hasEnoughMalformed() bool {
	l.malformed++
	return l.malformed > maxMalformed
}

// countMalformed prints how many malformed lines were not printed.
func (l *listGet) countMalformed() {
	if n := l.malformed - maxMalformed; n > 0 {
		lines := counted(int64(n), "more line is", "more lines are")
		l.each.t.printf("error: %s malformed; --json lists all of them", lines)
	}
}

// adviseForList replaces the hint that shows the form of a get by the one that shows the form of a
// line.
func adviseForList(err error) error {
	if e, ok := errors.AsType[usageError](err); ok && e.about == adviseGet {
		return usageError{adviseList, e.err}
	}
	return err
}

// summary describes a finished list in one line.
func (l *listGet) summary() string {
	text := fmt.Sprintf("%d of %d files complete, %s in %.2f s", l.complete, l.lines, size(l.bytes), time.Since(l.started).Seconds())
	if failed := l.lines - l.complete; failed > 0 {
		text += fmt.Sprintf("; %d failed", failed)
	}
	if l.repeated > 0 {
		text += "; " + counted(int64(l.repeated), "repeated line", "repeated lines") + " left out"
	}
	return text
}

// lineResult prints the result of a line.
func (e *events) lineResult(line listLine, r transfer.Result, err error) {
	e.print(struct {
		resultJSON
		Line int    `json:"line"`
		URL  string `json:"url"`
	}{newResult(r, err), line.number, withoutSecret(line.url)})
}

// listSummary prints the last event of a list.
func (e *events) listSummary(l *listGet, err error) {
	e.print(struct {
		outcome
		Files   int     `json:"files"`
		Failed  int     `json:"failed"`
		Bytes   int64   `json:"bytes"`
		Seconds float64 `json:"seconds"`
		// Repeated counts the lines that are the same as an earlier one. They are not among Files.
		Repeated int `json:"repeated_lines,omitempty"`
	}{newOutcome("summary", err), l.lines, l.lines - l.complete, l.bytes, time.Since(l.started).Seconds(), l.repeated})
}
