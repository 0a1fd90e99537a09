package cmd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/escape"
	"kwikcp/transfer"
)

// lsOptions are the options of ls.
type lsOptions struct {
	clientOptions
	recursive, hash, json bool
}

func (o *lsOptions) flags() []cli.Flag {
	return append([]cli.Flag{
		boolOption(&o.recursive, "recursive", "also list the directories below", "R"),
		boolOption(&o.hash, "hash", "print the BLAKE3 hash of each file; the server may have to read the files"),
	}, append(o.clientOptions.flags(),
		jsonOption(&o.json, func(e *events, err error) { e.listingResult(&listing{}, err) }),
		stateDirOption(&o.stateDir))...)
}

func lsCommand(t *terminal) *cli.Command {
	o := &lsOptions{clientOptions: newClientOptions()}
	return &cli.Command{
		Name:      "ls",
		Usage:     "list a directory of a primary",
		UsageText: "kwikcp ls [options] kwik://HOST[:PORT]/[DIR/][?pin=PIN]",
		Description: `Prints a line for each entry on stdout: type and mode, size in bytes, modification time, and name. A slash follows
the name of a directory, and -> and the target that of a link. Unprintable characters in a name are escaped (\n, \x1b,
\u202e), and a backslash is doubled.

Entries that the server cannot read are reported on stderr; the exit status is then 1.

` + exitHelp(append([]int{exitNotFound, exitRefused, exitNetwork, exitLocal}, signalCodes...)...),
		Flags:  o.flags(),
		Action: func(c *cli.Context) error { return runLs(c.Context, t, o, c.Args().Slice()) },
	}
}

func runLs(ctx context.Context, t *terminal, o *lsOptions, args []string) error {
	ctx, stop := untilBrokenPipe(ctx)
	defer stop()
	out := bufio.NewWriter(t.stdout)
	err := printListing(ctx, t, out, o, args)
	if flushErr := out.Flush(); flushErr != nil && err == nil {
		err = transfer.LocalError("print the listing", flushErr)
	}
	return silenceBrokenPipe(err)
}

func printListing(ctx context.Context, t *terminal, out io.Writer, o *lsOptions, args []string) error {
	source, err := parseLs(t, o, args)
	l := &listing{}
	if o.json {
		events := newEvents(out)
		events.start(withoutSecret(argument(args, 0)), "")
		if err == nil {
			err = l.run(ctx, source, o, events.entry)
		}
		events.listingResult(l, err)
		return err
	}
	if err != nil {
		return err
	}
	return l.run(ctx, source, o, func(e transfer.Entry, m *transfer.Manifest) error {
		if e.Problem != "" {
			t.warningf("%s: %s", escape.Name(e.Path), escape.Line(e.Problem))
		}
		_, err := fmt.Fprintln(out, entryLine(source.url, o.hash, e, m))
		return err
	})
}

// An lsSource is the directory to list.
type lsSource struct {
	client
	url transfer.URL
}

func parseLs(t *terminal, o *lsOptions, args []string) (s lsSource, err error) {
	switch {
	case len(args) == 0:
		return s, usagef(adviseLs, "ls needs the URL of a directory")
	case len(args) > 1:
		return s, usagef(adviseLs, "ls takes one URL, not also %q", args[1])
	}
	if s.url, err = transfer.ParseTreeURL(args[0]); err != nil {
		return s, usagef(adviseLs, "%q is not the URL of a directory: %w", withoutSecret(args[0]), err)
	}
	s.client, err = o.clientOptions.parse(t)
	return s, err
}

// A listing counts the entries that were listed.
type listing struct {
	entries    int64
	unreadable int64 // entries that the server could not read
	bytes      int64 // of files
	seconds    float64
}

// run lists the directory, a second time if the user at the terminal accepts the server's key.
func (l *listing) run(ctx context.Context, s lsSource, o *lsOptions, entry func(transfer.Entry, *transfer.Manifest) error) error {
	source, err := s.source(s.url)
	if err != nil {
		return err
	}
	start := time.Now()
	options := transfer.ListOptions{MirrorSource: source, Recursive: o.recursive, Roots: o.hash}
	count := func(e transfer.Entry, m *transfer.Manifest) error {
		l.entries++
		l.bytes += e.Size
		if e.Problem != "" {
			l.unreadable++
		}
		return entry(e, m)
	}
	err = transfer.List(ctx, options, count)
	if err != nil && s.policy.accepted(err) {
		err = transfer.List(ctx, options, count)
	}
	l.seconds = time.Since(start).Seconds()
	if err == nil && l.unreadable > 0 {
		err = &transfer.Error{
			Kind: transfer.KindOther, Op: "list",
			Err: fmt.Errorf("the server could not read %s", counted(l.unreadable, "entry", "entries")),
		}
	}
	return err
}

// entryLine returns the line of an entry. Listing a file has one entry, without a path.
func entryLine(u transfer.URL, hash bool, e transfer.Entry, m *transfer.Manifest) string {
	kind, name := "?", escape.Name(e.Path)
	switch e.Type {
	case transfer.EntryFile:
		if kind = "-"; e.Path == "" {
			name = escape.Name(u.Path)
		}
	case transfer.EntryDir:
		kind, name = "d", name+"/"
	case transfer.EntryLink:
		kind, name = "l", name+" -> "+escape.Name(e.Target)
	}
	root := ""
	if hash {
		if root = fmt.Sprintf("%-64s  ", "-"); m != nil {
			root = m.Root.String() + "  "
		}
	}
	mtime := fmt.Sprintf("%-19s", "-")
	if !e.MTime.IsZero() {
		mtime = e.MTime.Format("2006-01-02 15:04:05")
	}
	return fmt.Sprintf("%s%03o %12d  %s  %s%s", kind, e.Mode, e.Size, mtime, root, name)
}

// entry prints an entry of a listing.
func (e *events) entry(x transfer.Entry, m *transfer.Manifest) error {
	root := ""
	if m != nil {
		root = m.Root.String()
	}
	var target *nameJSON
	if x.Type == transfer.EntryLink {
		name := newName(x.Target)
		target = &name
	}
	mtime := ""
	if !x.MTime.IsZero() {
		mtime = jsonTime(x.MTime)
	}
	return e.enc.Encode(struct {
		event
		nameJSON
		Type   string    `json:"type"`
		Size   int64     `json:"size"`
		MTime  string    `json:"mtime,omitempty"` // jsonTime
		Mode   string    `json:"mode"`            // octal
		Target *nameJSON `json:"target,omitempty"`
		BLAKE3 string    `json:"blake3,omitempty"`
		Error  string    `json:"message,omitempty"`
	}{newEvent("entry"), newName(x.Path), x.Type.String(), x.Size, mtime,
		fmt.Sprintf("%04o", x.Mode), target, root, x.Problem})
}

// listingResult prints the last event of a listing, exactly once.
func (e *events) listingResult(l *listing, err error) {
	e.print(struct {
		outcome
		Entries int64   `json:"entries"`
		Bytes   int64   `json:"bytes"`
		Seconds float64 `json:"seconds"`
	}{newOutcome("result", err), l.entries, l.bytes, l.seconds})
}
