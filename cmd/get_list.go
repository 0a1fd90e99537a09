package cmd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kwikcp/transfer"
)

// This file is get -i: the files of a list.

const (
	defaultJobs = 4
	maxJobs     = 64
	// maxListLine bounds a line of a list, in bytes. A URL and a path of the greatest lengths fit.
	maxListLine = 64 << 10
)

// A listLine is a line of a list that names a file.
type listLine struct {
	number int // from 1
	url    string
	target string // empty for the last component of the URL's path
	err    error  // the line is malformed
}

// readList calls found for each line of a list except comments (#) and empty ones, until found
// returns false.
func readList(r io.Reader, found func(listLine) bool) error {
	b := bufio.NewReaderSize(r, maxListLine)
	writers := make(map[string]int) // the numbers of the lines that write to a file
	for number := 1; ; number++ {
		text, tooLong, err := readListLine(b)
		if err != nil && err != io.EOF {
			return err
		}
		if tooLong || isEntry(text) {
			line := parseListLine(number, string(text))
			if tooLong {
				line = listLine{number: number, err: usagef(adviseList, "the line is longer than %d bytes", maxListLine)}
			}
			if name, place := line.file(); line.err == nil && name != "" {
				if before, twice := writers[place]; twice {
					line.err = usagef(adviseList, "it writes to %q as line %d does", name, before)
				}
				writers[place] = number
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

// readListLine reads a line without its end. Of a line that is too long it returns the last piece.
func readListLine(b *bufio.Reader) (text []byte, tooLong bool, err error) {
	text, err = b.ReadSlice('\n')
	for err == bufio.ErrBufferFull {
		tooLong = true
		text, err = b.ReadSlice('\n')
	}
	return bytes.TrimRight(text, "\r\n"), tooLong, err
}

// isEntry reports whether a line is neither empty nor a comment.
func isEntry(text []byte) bool { return len(bytes.TrimSpace(text)) > 0 && text[0] != '#' }

func parseListLine(number int, text string) listLine {
	url, target, named := strings.Cut(text, "\t")
	line := listLine{number: number, url: strings.TrimSpace(url), target: target}
	if named && (target == "" || target == "-") {
		line.err = usagef(adviseList, "%q is not the name of a file", target)
	}
	return line
}

// file returns the file that a line writes to, empty if the line is malformed, and its place. The
// place is the absolute name in its real directory, the same for every spelling.
func (l listLine) file() (name, place string) {
	var g fileGet
	if g.aim(l.url, l.target) != nil {
		return "", ""
	}
	name = filepath.Clean(g.target)
	place, err := filepath.Abs(name)
	if err != nil {
		return name, name
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(place)); err == nil {
		place = filepath.Join(dir, filepath.Base(place))
	}
	return name, place
}

// parseJobs reads --jobs, and refuses arguments and the options of a single file.
func parseJobs(o *getOptions, args []string) (int, error) {
	switch {
	case len(args) > 0:
		return 0, usagef(adviseList, "with --input-file get takes no argument such as %q", args[0])
	case o.jobs < 1 || o.jobs > maxJobs:
		return 0, usagef(adviseJobs, "--jobs %d is not 1 to %d", o.jobs, maxJobs)
	case len(o.checksums.list) > 0:
		return 0, usagef(adviseListHash, "--checksum is for a single file, not for a list")
	case o.byteRange != "":
		return 0, usagef(adviseListHash, "--range is for a single file, not for a list")
	case o.seed != "":
		return 0, usagef(adviseListHash, "--seed is for a single file, not for a list")
	}
	return o.jobs, nil
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
	bytes     int64
	resumable bool // a part file is left
	warned    warningMemory
	worst     error // of the line with the highest exit code; nil if there is none
	started   time.Time
}

func runGetList(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	l := &listGet{quiet: o.quiet, started: time.Now()}
	if o.json {
		l.events = newEvents(t.stdout)
		l.events.start("", "")
	} else if !l.quiet {
		l.view = newView(t, false, "")
	}
	err := l.run(ctx, t, o, args)
	if l.events != nil {
		l.events.listSummary(l, err)
	}
	if !l.quiet && l.lines > 0 {
		l.each.checksums.warnOfMalformed(t)
		t.printf("%s", l.summary())
	}
	return err
}

func (l *listGet) run(ctx context.Context, t *terminal, o *getOptions, args []string) error {
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
	list := io.Reader(os.Stdin)
	if o.inputFile != "-" {
		f, err := os.Open(o.inputFile)
		if err != nil {
			return localFileError(fmt.Sprintf("read the list %q", o.inputFile), err)
		}
		defer f.Close()
		list = f
	}
	var pool transfer.Pool
	defer pool.Close()
	l.each.pool = &pool

	if err := l.fetchAll(ctx, list, jobs); err != nil {
		return localFileError(fmt.Sprintf("read the list %q", o.inputFile), err)
	}
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
func (l *listGet) fetchAll(ctx context.Context, list io.Reader, jobs int) error {
	lines, read := make(chan listLine), make(chan error, 1)
	// Ends at the end of the list, or at the next line after the end of ctx. If standard input has
	// no further line the goroutine is left to the process, which is about to end.
	go func() {
		defer close(lines)
		read <- readList(list, func(line listLine) bool {
			l.each.tokens.bindTo(line.url)
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
		return nil
	}
	return <-read
}

// fetch fetches the file of a line and reports the result.
func (l *listGet) fetch(ctx context.Context, line listLine) {
	g, err := l.each, line.err
	if err == nil {
		err = g.aim(line.url, line.target)
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
	case err != nil && ctx.Err() == nil: // an interruption is printed once, at the end
		_, message, hint := explain(err)
		g.t.errorWithHint(fmt.Sprintf("line %d: %s", line.number, message), hint)
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
	}{newOutcome("summary", err), l.lines, l.lines - l.complete, l.bytes, time.Since(l.started).Seconds()})
}
