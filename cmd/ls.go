package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

func lsCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list what is in a directory of a primary",
		UsageText: "kwikcp ls [options] kwik://HOST[:PORT]/[DIR/][?pin=PIN]",
		Description: `Prints a line for each entry on stdout: its kind and mode, size in bytes, modification time, and name. The name of a directory
ends with a slash, and that of a link has its target behind it. With --hash the file's BLAKE3 hash comes before the name; the server
has to read the files for that, unless it has their hashes already. What is not printable in a name is escaped as \n, \x1b or \u202e, and a
backslash is doubled. What the server could not look at is named on stderr; then the exit status is 1.

` + exitHelp(exitNotFound, exitRefused, exitNetwork, exitLocal),
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, EnvVars: []string{"KWIKCP_RECURSIVE"}, Usage: "list what is in the directories, too"},
			&cli.BoolFlag{Name: "hash", EnvVars: []string{"KWIKCP_HASH"}, Usage: "ask for the files' BLAKE3 hashes, too"},
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"KWIKCP_CACERT"}, Usage: "trust the certificate authorities in `FILE` (PEM) instead of the system's"},
			ipv4Flag(), ipv6Flag(),
			secondsFlag("connect-timeout", transfer.DefaultConnectTimeout, "give up if the server has not answered after `TIME`"),
			&cli.BoolFlag{Name: "json", EnvVars: []string{"KWIKCP_JSON"}, Usage: "print events on stdout, one JSON object a line"},
			stateDirFlag,
		},
		Action: func(c *cli.Context) error {
			ctx, stop := untilBrokenPipe(c.Context)
			defer stop()
			return quietly(runLs(ctx, c, t))
		},
	}
}

func runLs(ctx context.Context, c *cli.Context, t *terminal) error {
	out := bufio.NewWriter(t.stdout)
	o, err := parseLs(c, t)
	l := &listing{}
	if c.Bool("json") {
		events := newEvents(out)
		events.start(withoutSecret(c.Args().First()), "")
		if err == nil {
			err = o.list(ctx, l, events.entry)
		}
		events.listed(l, err)
	} else if err == nil {
		err = o.list(ctx, l, func(e transfer.Entry, m *transfer.Manifest) error {
			if e.Problem != "" {
				t.warningf("%s: %s", printableName(e.Path), oneLine(e.Problem))
			}
			_, err := fmt.Fprintln(out, o.line(e, m))
			return err
		})
	}
	if failed := out.Flush(); failed != nil && err == nil {
		err = transfer.LocalError("print the listing", failed)
	}
	return err
}

// A lsCmd is a parsed ls command.
type lsCmd struct {
	url            transfer.URL
	recursive      bool
	hash           bool
	connectTimeout time.Duration
	family         kwik.AddressFamily
	policy         *trustPolicy
}

func parseLs(c *cli.Context, t *terminal) (lsCmd, error) {
	const help = "kwikcp ls kwik://HOST:PORT/DIR/"
	o := lsCmd{recursive: c.Bool("recursive"), hash: c.Bool("hash"), connectTimeout: seconds(c, "connect-timeout")}
	switch {
	case c.Args().Len() == 0:
		return o, usageError{errors.New("ls needs the URL of a directory"), help}
	case c.Args().Len() > 1:
		return o, usageError{fmt.Errorf("ls takes one URL, not also %q", c.Args().Get(1)), help}
	case o.connectTimeout <= 0:
		return o, usageError{errors.New("--connect-timeout must be more than 0"), "such as 10s"}
	}
	var err error
	if o.family, err = family(c); err != nil {
		return o, err
	}
	if o.url, err = transfer.ParseTreeURL(c.Args().First()); err != nil {
		return o, usageError{fmt.Errorf("%q is not the URL of a directory: %w", withoutSecret(c.Args().First()), err), help}
	}
	state, err := stateDir(c)
	if err != nil {
		return o, err
	}
	o.policy, err = newTrustPolicy(t, state, c.String("cacert"))
	return o, err
}

// A listing counts what was listed.
type listing struct {
	entries, problems int64
	bytes             int64 // of files
	seconds           float64
}

// list lists, once more if the person at the terminal decides to trust the server.
func (o lsCmd) list(ctx context.Context, l *listing, entry func(transfer.Entry, *transfer.Manifest) error) error {
	traced, err := quicConfig()
	if err != nil {
		return err
	}
	start := time.Now()
	options := transfer.ListOptions{
		MirrorSource: transfer.MirrorSource{
			URL: o.url, TLS: o.policy.config(o.url), ConnectTimeout: o.connectTimeout,
			KWIK: &kwik.ClientConfig{Config: kwik.Config{QUIC: traced, Family: o.family}},
		},
		Recursive: o.recursive, Roots: o.hash,
	}
	count := func(e transfer.Entry, m *transfer.Manifest) error {
		l.entries++
		l.bytes += e.Size
		if e.Problem != "" {
			l.problems++
		}
		return entry(e, m)
	}
	err = transfer.List(ctx, options, count)
	if err != nil && o.policy.accepted(err) {
		err = transfer.List(ctx, options, count)
	}
	l.seconds = time.Since(start).Seconds()
	if err == nil && l.problems > 0 {
		err = &transfer.Error{Kind: transfer.KindOther, Op: "list", Err: fmt.Errorf("%s could not be looked at", counted(l.problems, "entry", "entries"))}
	}
	return err
}

// line is what is printed for an entry.
func (o lsCmd) line(e transfer.Entry, m *transfer.Manifest) string {
	kind, name := "?", printableName(e.Path)
	switch e.Type {
	case transfer.EntryFile:
		if kind = "-"; e.Path == "" {
			name = printableName(o.url.Path)
		}
	case transfer.EntryDir:
		kind, name = "d", name+"/"
	case transfer.EntryLink:
		kind, name = "l", name+" -> "+printableName(e.Target)
	}
	root := ""
	if o.hash {
		if root = fmt.Sprintf("%-64s  ", "-"); m != nil {
			root = m.Root.String() + "  "
		}
	}
	return fmt.Sprintf("%s%03o %12d  %s  %s%s", kind, e.Mode, e.Size, e.MTime.Format("2006-01-02 15:04:05"), root, name)
}

// entry prints an entry of a listing.
func (e *events) entry(x transfer.Entry, m *transfer.Manifest) error {
	root := ""
	if m != nil {
		root = m.Root.String()
	}
	var target *nameJSON
	if x.Type == transfer.EntryLink {
		name := jsonName(x.Target)
		target = &name
	}
	return e.enc.Encode(struct {
		event
		nameJSON
		Type   string    `json:"type"`
		Size   int64     `json:"size"`
		MTime  string    `json:"mtime"` // RFC 3339, UTC
		Mode   string    `json:"mode"`  // octal
		Target *nameJSON `json:"target,omitempty"`
		BLAKE3 string    `json:"blake3,omitempty"`
		Error  string    `json:"message,omitempty"`
	}{event{1, "entry"}, jsonName(x.Path), x.Type.String(), x.Size, x.MTime.UTC().Format(time.RFC3339Nano), fmt.Sprintf("%04o", x.Mode), target, root, x.Problem})
}

// listed prints the last event of a listing, exactly once.
func (e *events) listed(l *listing, err error) {
	code, message, _ := explain(err)
	e.enc.Encode(struct {
		event
		OK        bool    `json:"ok"`
		ExitCode  int     `json:"exit_code"`
		ErrorCode string  `json:"error_code"`
		Message   string  `json:"message"`
		Entries   int64   `json:"entries"`
		Bytes     int64   `json:"bytes"`
		Seconds   float64 `json:"seconds"`
	}{event{1, "result"}, err == nil, code, errorCode(err), message, l.entries, l.bytes, l.seconds})
}
