package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// verifyOptions are the options of verify.
type verifyOptions struct {
	clientOptions
	checksums   repeatedValue
	from        string
	recursive   bool
	rules       filterRules
	json, quiet bool
}

func (o *verifyOptions) flags() []cli.Flag {
	return append([]cli.Flag{
		repeatedOption(&o.checksums, "checksum", "the hash that FILE must have, `ALGORITHM=HEX` with blake3, sha256, "+
			"sha512 or md5"),
		stringOption(&o.from, "from", "compare FILE with the file at `URL`"),
		boolOption(&o.recursive, "recursive", "compare the directory DIR with the one at URL, and all that is "+
			"below", "r"),
		filterOption(&o.rules, "include", "with -r, compare entries that match `PATTERN`; the first matching "+
			"--include or --exclude decides"),
		filterOption(&o.rules, "exclude", "with -r, leave out entries that match `PATTERN`"),
		filterFromOption(&o.rules, "include-from"),
		filterFromOption(&o.rules, "exclude-from"),
	}, append(o.clientOptions.flags(),
		jsonOption(&o.json, func(e *events, err error) { e.verifyResult(verdict{}, err) }),
		quietOption(&o.quiet),
		stateDirOption(&o.stateDir))...)
}

func verifyCommand(t *terminal) *cli.Command {
	o := &verifyOptions{clientOptions: newClientOptions()}
	return &cli.Command{
		Name:  "verify",
		Usage: "check the hash of a file, or compare a file or a directory with a server's",
		UsageText: "kwikcp verify FILE --checksum blake3=HEX\n" +
			"kwikcp verify FILE --from kwik://HOST[:PORT]/PATH[?pin=PIN][#b3=HASH]\n" +
			"kwikcp verify -r kwik://HOST[:PORT]/[DIR/][?pin=PIN] DIR",
		Description: `--from asks the primary for the size and the hash tree of its file; no content is fetched. Each range of bytes that
differs is a line on stdout, START-END (both included, from 0) and its state:

    differs  the bytes differ
    missing  FILE is too short; from the start of the chunk group in which it ends
    extra    FILE is too long

Ranges are whole chunk groups (64 KiB in files up to 4 GiB). With --checksum as well, no server is trusted for the
content.

With -r, each entry that is not the same is a line on stdout: differs, missing or extra, and its name. The name of a
directory ends with a slash. Types, links and contents are compared, by their hashes; modes and times are not. Special files and
links that get -r leaves out are not compared. Nothing is changed, and no content is fetched.

` + exitHelp(append([]int{exitNotFound, exitRefused, exitNetwork, exitIntegrity, exitLocal}, signalCodes...)...),
		Flags: o.flags(),
		Action: func(c *cli.Context) error {
			if o.recursive {
				return runVerifyTree(c.Context, t, o, c.Args().Slice())
			}
			return runVerify(c.Context, t, o, c.Args().Slice())
		},
	}
}

// A verdict is the result of a verify.
type verdict struct {
	path        string
	size        int64 // of the file, in bytes
	want, has   integrity.Root
	known       bool // has is valid
	seconds     float64
	differences []transfer.Difference // with --from
	// required is a --checksum of another algorithm, and proved reports that the file has it.
	required *transfer.Checksum
	proved   bool
}

// wrongBytes returns the number of bytes that differ, are missing or extra.
func (v verdict) wrongBytes() (n int64) {
	for _, d := range v.differences {
		n += d.End - d.Start
	}
	return n
}

func runVerify(ctx context.Context, t *terminal, o *verifyOptions, args []string) error {
	c, err := parseVerify(t, o, args)
	v := verdict{path: c.path}
	if o.json {
		events := newEvents(t.stdout)
		events.start(withoutSecret(o.from), c.path)
		if err == nil {
			v, err = c.run(ctx, events)
		}
		for _, d := range v.differences {
			events.difference(d)
		}
		events.verifyResult(v, err)
		return err
	}
	if err != nil {
		return err
	}
	view := newView(t, o.quiet, c.path)
	v, err = c.run(ctx, view)
	view.end()
	if o.quiet {
		return err
	}
	for _, d := range v.differences {
		if _, err := fmt.Fprintf(t.stdout, "%d-%d  %s\n", d.Start, d.End-1, d.How); err != nil {
			return transfer.LocalError("print the ranges", err)
		}
	}
	switch {
	case err == nil && v.known:
		t.printf("%q is correct: %s, blake3 %v", v.path, size(v.size), v.has)
	case err == nil:
		t.printf("%q is correct: %s, %v", v.path, size(v.size), v.required)
	}
	return err
}

// A check is a file to verify.
type check struct {
	client // with a URL
	path   string
	want   integrity.Root     // of --checksum, without a URL; zero without
	url    *transfer.URL      // of --from; nil without
	other  *transfer.Checksum // of --checksum if it is not BLAKE3; nil without
}

func parseVerify(t *terminal, o *verifyOptions, args []string) (c check, err error) {
	c.path = argument(args, 0)
	switch {
	case len(args) == 0:
		return c, usagef(adviseVerify, "verify needs a file")
	case len(args) > 1:
		return c, usagef(adviseVerify, "verify takes one file, not also %q", args[1])
	case len(o.checksums.list) == 0 && o.from == "":
		return c, usagef(adviseVerify, "verify needs a hash or a URL")
	case len(o.checksums.list) > 1:
		return c, usagef(adviseOneChecksum, "verify takes one --checksum, not also %q", o.checksums.list[1])
	case o.rules.used() != "":
		return c, usagef(adviseVerifyTree, "--%s is for directories, with -r", o.rules.used())
	}
	if c.client, err = o.clientOptions.parse(t); err != nil {
		return c, err
	}
	if o.from == "" {
		checksum, err := parseChecksum(o.checksums.list[0])
		if root, ok := checksum.Root(); ok {
			c.want = root
		} else {
			c.other = &checksum
		}
		return c, err
	}
	u, err := transfer.ParseURL(o.from)
	if err != nil {
		return c, usagef(adviseVerify, "--from %q is not the URL of a file: %w", withoutSecret(o.from), err)
	}
	c.url = &u
	others, err := requireHashes(c.url, o.checksums)
	if len(others) > 0 {
		c.other = &others[0]
	}
	return c, err
}

// run verifies the file. A file that differs is an error with a complete verdict.
func (c check) run(ctx context.Context, report transfer.Reporter) (verdict, error) {
	op := fmt.Sprintf("verify %q", c.path)
	file, err := disk.OpenFile(c.path)
	if err != nil {
		return verdict{path: c.path}, localFileError(op, err)
	}
	defer file.Close()
	var v verdict
	switch {
	case c.url != nil:
		v, err = c.compare(ctx, op, file, report)
	case c.other == nil:
		v, err = c.hash(ctx, op, file, report)
	default:
		v.path = c.path
	}
	if err != nil || c.other == nil {
		return v, err
	}
	return c.hashOther(ctx, op, file, report, v)
}

// hashOther compares the file's hash of another algorithm than BLAKE3 with --checksum.
func (c check) hashOther(
	ctx context.Context, op string, file disk.File, report transfer.Reporter, v verdict,
) (verdict, error) {
	start := time.Now()
	v.required = c.other
	info, err := file.Stat()
	if err == nil {
		v.size = info.Size()
		err = transfer.CheckFile(ctx, file, v.size, *c.other, report)
	}
	v.seconds += time.Since(start).Seconds()
	if _, wrong := errors.AsType[*transfer.ChecksumError](err); wrong {
		return v, differs(adviseVerifyFrom, op, err)
	}
	switch {
	case ctx.Err() != nil:
		return v, context.Cause(ctx)
	case err != nil:
		return v, localFileError(op, err)
	}
	v.proved = true
	return v, nil
}

// hash compares the file's hash with --checksum.
func (c check) hash(ctx context.Context, op string, file disk.File, report transfer.Reporter) (v verdict, err error) {
	start := time.Now()
	v.path, v.want = c.path, c.want
	v.has, v.size, err = hashReported(ctx, file, report)
	v.seconds = time.Since(start).Seconds()
	switch {
	case ctx.Err() != nil:
		return v, context.Cause(ctx)
	case err != nil:
		return v, localFileError(op, err)
	}
	if v.known = true; v.has != v.want {
		return v, differs(adviseVerifyFrom, op, fmt.Errorf("its hash is %v, not %v", v.has, v.want))
	}
	return v, nil
}

// compare compares the file with that of the server.
func (c check) compare(ctx context.Context, op string, file disk.File, report transfer.Reporter) (v verdict, err error) {
	v.path = c.path
	r, err := c.fetchTree(ctx, file, report)
	v.size, v.want, v.seconds, v.differences = r.Size, r.Manifest.Root, r.Seconds, r.Differences
	if err != nil {
		return v, err
	}
	if len(v.differences) > 0 {
		return v, differs(adviseNothing, op, fmt.Errorf("%s differ from the server's file (%s)", size(v.wrongBytes()), compareSizes(r)))
	}
	v.has, v.known = v.want, true
	return v, nil
}

// fetchTree asks the server, a second time if the user at the terminal accepts its key.
func (c check) fetchTree(ctx context.Context, file disk.File, report transfer.Reporter) (transfer.Comparison, error) {
	config, err := c.config(*c.url)
	if err != nil {
		return transfer.Comparison{}, err
	}
	options := transfer.CompareOptions{
		URL: *c.url, TLS: c.tls(*c.url, config), File: file, Name: c.path,
		ConnectTimeout: c.connectTimeout, KWIK: config,
	}
	r, err := transfer.Compare(ctx, options, report)
	if err != nil && c.policy.accepted(err) {
		r, err = transfer.Compare(ctx, options, report)
	}
	return r, err
}

// differs returns the error of a file that is not as it should be.
func differs(about advice, op string, err error) error {
	return advisedError{about, &transfer.Error{Kind: transfer.KindIntegrity, Op: op, Err: err}}
}

// compareSizes describes the sizes of the two files.
func compareSizes(c transfer.Comparison) string {
	switch n := c.Manifest.Size; {
	case c.Size < n:
		return fmt.Sprintf("it is too short, %d bytes instead of %d", c.Size, n)
	case c.Size > n:
		return fmt.Sprintf("it is too long, %d bytes instead of %d", c.Size, n)
	}
	return "its size is correct"
}

// hashReported hashes a file on all cores and reports the progress ten times a second.
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

// difference prints a range of bytes that differ from the server's.
func (e *events) difference(d transfer.Difference) {
	e.print(struct {
		event
		Offset int64        `json:"offset"`
		Length int64        `json:"length"`
		State  transfer.How `json:"state"`
	}{newEvent("range"), d.Start, d.End - d.Start, d.How})
}

// verifyResult prints the last event of a verify, exactly once.
func (e *events) verifyResult(v verdict, err error) {
	want, has := "", ""
	if v.want != (integrity.Root{}) {
		want = v.want.String()
	}
	if v.known {
		has = v.has.String()
	}
	var checksums []string
	if v.proved {
		checksums = []string{v.required.String()}
	}
	e.print(struct {
		outcome
		nameJSON
		Bytes   int64   `json:"bytes"`
		Seconds float64 `json:"seconds"`
		BLAKE3  string  `json:"blake3"`
		Actual  string  `json:"actual"`
		Wrong   int64   `json:"wrong_bytes"`
		// Checksums are those that were required and proved.
		Checksums []string `json:"checksums,omitempty"`
	}{newOutcome("result", err), newName(v.path), v.size, v.seconds, want, has, v.wrongBytes(), checksums})
}
