package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

func verifyCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "say whether a file has a hash, or in which bytes it differs from a server's",
		UsageText: "kwikcp verify FILE --checksum blake3=HEX\nkwikcp verify FILE --from kwik://HOST[:PORT]/PATH[?pin=PIN][#b3=HASH]",
		Description: `With --from the primary is asked what its file is, size and hashes; no content is fetched. Each range of bytes that is not as there is
printed on stdout, as START-END (both included, from 0) and what is wrong:

    differs  other bytes than the server has
    missing  FILE is too short; from the start of the chunk group in which it ends
    extra    FILE is too long

Ranges are whole chunk groups (64 KiB in files up to 4 GiB). With --checksum as well no server is trusted for the content.

` + exitHelp(exitNotFound, exitRefused, exitNetwork, exitIntegrity, exitLocal),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "checksum", EnvVars: []string{"KWIKCP_CHECKSUM"}, Usage: "the hash that FILE should have, `blake3=HEX` as kwikcp sum and b3sum print it"},
			&cli.StringFlag{Name: "from", EnvVars: []string{"KWIKCP_FROM"}, Usage: "compare with the file at `URL`"},
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"KWIKCP_CACERT"}, Usage: "trust the certificate authorities in `FILE` (PEM) instead of the system's"},
			ipv4Flag(), ipv6Flag(),
			secondsFlag("connect-timeout", transfer.DefaultConnectTimeout, "give up if the server has not answered after `TIME`"),
			&cli.BoolFlag{Name: "json", EnvVars: []string{"KWIKCP_JSON"}, Usage: "print events on stdout, one JSON object a line"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, EnvVars: []string{"KWIKCP_QUIET"}, Usage: "print nothing but errors"},
			stateDirFlag,
		},
		Action: func(c *cli.Context) error { return runVerify(c, t) },
	}
}

// A verdict is what was found out about a file.
type verdict struct {
	path        string
	size        int64 // of the file, in bytes
	want, has   integrity.Root
	known       bool // has is known
	seconds     float64
	differences []transfer.Difference // with --from
}

// wrong returns how many bytes differ, are missing or too many.
func (v verdict) wrong() (n int64) {
	for _, d := range v.differences {
		n += d.End - d.Start
	}
	return n
}

func runVerify(c *cli.Context, t *terminal) error {
	o, err := parseVerify(c, t)
	v := verdict{path: o.path}
	if c.Bool("json") {
		events := newEvents(t.stdout)
		events.start(withoutSecret(c.String("from")), o.path)
		if err == nil {
			v, err = o.verify(c.Context, events)
		}
		for _, d := range v.differences {
			events.difference(d)
		}
		events.verified(v, err)
		return err
	}
	if err != nil {
		return err
	}
	view := newView(t, c.Bool("quiet"), o.path)
	v, err = o.verify(c.Context, view)
	view.end()
	if c.Bool("quiet") {
		return err
	}
	for _, d := range v.differences {
		if _, err := fmt.Fprintf(t.stdout, "%d-%d  %s\n", d.Start, d.End-1, d.How); err != nil {
			return transfer.LocalError("print the ranges", err)
		}
	}
	if err == nil {
		t.printf("%q is right: %s, blake3 %v", v.path, size(v.size), v.has)
	}
	return err
}

// A verifyCmd is a parsed verify command.
type verifyCmd struct {
	path           string
	want           integrity.Root // without a URL
	url            *transfer.URL  // of --from; nil without
	connectTimeout time.Duration
	family         kwik.AddressFamily
	policy         *trustPolicy // with a URL
}

func parseVerify(c *cli.Context, t *terminal) (verifyCmd, error) {
	const help = "kwikcp verify FILE --checksum blake3=HEX, or --from URL"
	o := verifyCmd{path: c.Args().First(), connectTimeout: seconds(c, "connect-timeout")}
	switch {
	case c.Args().Len() == 0:
		return o, usageError{errors.New("verify needs a file"), help}
	case c.Args().Len() > 1:
		return o, usageError{fmt.Errorf("verify takes one file, not also %q", c.Args().Get(1)), help}
	case c.String("checksum") == "" && c.String("from") == "":
		return o, usageError{errors.New("there is nothing to hold the file against"), help}
	case o.connectTimeout <= 0:
		return o, usageError{errors.New("--connect-timeout must be more than 0"), "such as 10s"}
	}
	var err error
	if o.family, err = family(c); err != nil {
		return o, err
	}
	if c.String("from") == "" {
		o.want, err = parseChecksum(c.String("checksum"))
		return o, err
	}
	u, err := transfer.ParseURL(c.String("from"))
	if err != nil {
		return o, usageError{fmt.Errorf("--from %q is not the URL of a file: %w", withoutSecret(c.String("from")), err), help}
	}
	if err := expect(&u, c.String("checksum")); err != nil {
		return o, err
	}
	o.url = &u
	state, err := stateDir(c)
	if err != nil {
		return o, err
	}
	o.policy, err = newTrustPolicy(t, state, c.String("cacert"))
	return o, err
}

// verify finds out whether the file is what it should be. That it is not is an error, of a verdict that is complete.
func (o verifyCmd) verify(ctx context.Context, report transfer.Reporter) (v verdict, err error) {
	v.path = o.path
	op := fmt.Sprintf("verify %q", o.path)
	file, err := disk.OpenFile(o.path)
	if err != nil {
		return v, localFileError(op, err)
	}
	defer file.Close()
	if o.url == nil {
		start := time.Now()
		v.want = o.want
		v.has, v.size, err = hashReported(ctx, file, report)
		v.seconds = time.Since(start).Seconds()
		switch {
		case ctx.Err() != nil:
			return v, context.Cause(ctx)
		case err != nil:
			return v, localFileError(op, err)
		}
		if v.known = true; v.has != v.want {
			return v, differs(op, fmt.Errorf("its hash is %v, not %v", v.has, v.want), "kwikcp verify FILE --from URL says which bytes a server has otherwise")
		}
		return v, nil
	}
	c, err := o.compare(ctx, file, report)
	v.size, v.want, v.seconds, v.differences = c.Size, c.Manifest.Root, c.Seconds, c.Differences
	if err != nil {
		return v, err
	}
	if len(v.differences) > 0 {
		return v, differs(op, fmt.Errorf("%s are not as on the server (%s)", size(v.wrong()), sizes(c)), "")
	}
	v.has, v.known = v.want, true
	return v, nil
}

// compare asks the server, once more if the person at the terminal decides to trust it.
func (o verifyCmd) compare(ctx context.Context, file disk.File, report transfer.Reporter) (transfer.Comparison, error) {
	traced, err := quicConfig()
	if err != nil {
		return transfer.Comparison{}, err
	}
	options := transfer.CompareOptions{
		URL: *o.url, TLS: o.policy.config(*o.url), File: file, Name: o.path, ConnectTimeout: o.connectTimeout,
		KWIK: &kwik.ClientConfig{Config: kwik.Config{QUIC: traced, Family: o.family}},
	}
	c, err := transfer.Compare(ctx, options, report)
	if err != nil && o.policy.accepted(err) {
		c, err = transfer.Compare(ctx, options, report)
	}
	return c, err
}

// differs returns the error of a file that is not what it should be.
func differs(op string, err error, hint string) error {
	return hintedError{&transfer.Error{Kind: transfer.KindIntegrity, Op: op, Err: err}, hint}
}

// sizes says how many bytes the file has and should have.
func sizes(c transfer.Comparison) string {
	switch n := c.Manifest.Size; {
	case c.Size < n:
		return fmt.Sprintf("it is too short, %d bytes instead of %d", c.Size, n)
	case c.Size > n:
		return fmt.Sprintf("it is too long, %d bytes instead of %d", c.Size, n)
	}
	return "its size is right"
}

// hashReported hashes a file on all cores, and says ten times a second how far it is.
func hashReported(ctx context.Context, f disk.File, report transfer.Reporter) (root integrity.Root, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return root, 0, err
	}
	size = info.Size()
	last := time.Now()
	tree, err := integrity.Build(ctx, f, size, integrity.GroupSizeFor(size), func(end int64, _ []byte) {
		if time.Since(last) >= 100*time.Millisecond {
			last = time.Now()
			report.Checking(end, size)
		}
	})
	if err != nil {
		return root, size, err
	}
	return tree.Root(), size, nil
}

// difference prints a range of bytes that are not as the server has them.
func (e *events) difference(d transfer.Difference) {
	e.enc.Encode(struct {
		event
		Offset int64        `json:"offset"`
		Length int64        `json:"length"`
		State  transfer.How `json:"state"`
	}{event{1, "range"}, d.Start, d.End - d.Start, d.How})
}

// verified prints the last event of a verify, exactly once.
func (e *events) verified(v verdict, err error) {
	code, message, _ := explain(err)
	want, has := "", ""
	if v.want != (integrity.Root{}) {
		want = v.want.String()
	}
	if v.known {
		has = v.has.String()
	}
	e.enc.Encode(struct {
		event
		OK        bool    `json:"ok"`
		ExitCode  int     `json:"exit_code"`
		ErrorCode string  `json:"error_code"`
		Message   string  `json:"message"`
		Path      string  `json:"path"`
		Bytes     int64   `json:"bytes"`
		Seconds   float64 `json:"seconds"`
		BLAKE3    string  `json:"blake3"`
		Actual    string  `json:"actual"`
		Wrong     int64   `json:"wrong_bytes"`
	}{event{1, "result"}, err == nil, code, errorCode(err), message, v.path, v.size, v.seconds, want, has, v.wrong()})
}
