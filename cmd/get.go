package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// getOptions are the options of get.
type getOptions struct {
	clientOptions
	checksums    repeatedValue
	checksumFile string
	connections  string
	byteRange    string
	seed         string
	reuse        bool
	noClobber    bool
	overwrite    bool
	noPreserve   bool
	sparse       sparseOptions
	preallocate  string
	destination

	limitRate    string
	maxTime      secondsValue // of each attempt
	stallTimeout secondsValue
	retry        countValue
	retryDelay   secondsValue
	retryMaxTime secondsValue

	web webOptions

	inputFile string
	metalink  string
	jobs      countValue

	recursive bool
	rules     filterRules
	dryRun    bool
	quick     bool
	deletes   deleteOptions
	keep      keepOptions

	json, quiet bool

	// isSet reports whether an option was given, on the command line or in the environment, even
	// with an empty value.
	isSet func(name string) bool
}

func newGetOptions() *getOptions {
	return &getOptions{
		clientOptions: newClientOptions(), connections: "auto", jobs: countValue{defaultJobs},
		preallocate: string(disk.PreallocateAuto), stallTimeout: secondsValue{Duration: transfer.DefaultStallTimeout},
	}
}

func (o *getOptions) flags() []cli.Flag {
	return append([]cli.Flag{
		repeatedOption(&o.checksums, "checksum", "require this hash, `ALGORITHM=HEX` with blake3, sha256, sha512 or "+
			"md5; may be repeated; then no server is trusted for the content"),
		stringOption(&o.checksumFile, "checksum-file", "require the hashes in `FILE`, such as SHA256SUMS, of all "+
			"files that it names; FILE may be a kwik URL"),
		boolOption(&o.noClobber, "no-clobber", "if FILE exists, leave it as it is and exit with status 9; no server is asked"),
		boolOption(&o.overwrite, "overwrite", "replace FILE if it differs (the default)"),
		boolOption(&o.noPreserve, "no-preserve", "give FILE the mode of the umask and the current time instead of those on "+
			"the server"),
		sparseOption(&o.sparse.on),
		noSparseOption(&o.sparse.off),
		preallocateOption(&o.preallocate),
		stringOption(&o.byteRange, "range", "fetch only the bytes `START-END`, both included, counted from 0; START- is to the "+
			"end, -LAST the last ones"),
		boolOption(&o.reuse, "reuse", "copy matching chunk groups from the current FILE instead of fetching them"),
		stringOption(&o.seed, "seed", "copy matching chunk groups from the file `OLD`, such as an older version"),
		stringOption(&o.inputFile, "input-file", "fetch the files that `LIST` names, one per line; - is standard input", "i"),
		stringOption(&o.metalink, "metalink", "take mirrors and sha-256 hashes from the Metalink `FILE` or https URL "+
			"(RFC 5854); without a kwik URL, fetch its files from the mirrors alone"),
		prefixOption(&o.prefix),
		makeDirsOption(&o.makeDirs),
		countOption(&o.jobs, "jobs", "with -i, fetch `N` files at once", "j"),
		boolOption(&o.recursive, "recursive", "fetch a directory and everything below it into the directory DEST", "r"),
		filterOption(&o.rules, "include", "with -r, fetch entries that match `PATTERN`; the first matching --include or "+
			"--exclude decides"),
		filterOption(&o.rules, "exclude", "with -r, neither fetch nor delete entries that match `PATTERN`"),
		boolOption(&o.deletes.delete, "delete", "with -r, remove entries of DEST that the server does not have"),
		updateOption(&o.deletes.update, "-r", "DEST", "u"),
		minAgeOption(&o.deletes.minAge, "-r"),
		stageOption(&o.deletes.stage, "-r"),
		modifyWindowOption(&o.deletes.modifyWindow, "--quick"),
		maxDeleteOption(&o.deletes.maxDelete, "--delete"),
		backupDirOption(&o.deletes.backupDir, "-r"),
		oneFileSystemOption(&o.deletes.oneFileSystem, "-r", "DEST", "x"),
		boolOption(&o.dryRun, "dry-run", "with -r, change nothing and print what would be done", "n"),
		filterFromOption(&o.rules, "include-from"),
		filterFromOption(&o.rules, "exclude-from"),
		filesFromOption(&o.rules, "with -r, fetch only the paths below the URL that `FILE` names, one a line, and "+
			"what is below them; - is standard input"),
		from0Option(&o.rules),
		boolOption(&o.quick, "quick", "with -r, trust size and time: a file of DEST that has those of the server "+
			"is not compared by its hash"),
	}, append(o.keep.flags("with -r"), append([]cli.Flag{
		limitRateOption(&o.limitRate, "over all servers together"),
		secondsOption(&o.maxTime, "max-time", "end an attempt after `TIME`, with exit status 11 unless --retry allows another; 0 "+
			"means no limit"),
		secondsOption(&o.stallTimeout, "stall-timeout", "end an attempt when nothing has arrived for `TIME`; shorter "+
			"outages and suspends are waited for"),
		countOption(&o.retry, "retry", "after a network error or --max-time, resume up to `N` times"),
		secondsOption(&o.retryDelay, "retry-delay", "wait `TIME` before each retry; 0 means 1s, doubled each time up to 10m"),
		secondsOption(&o.retryMaxTime, "retry-max-time", "start no retry later than `TIME` after the start; 0 means no limit"),
		stringOption(&o.connections, "connections-per-server", "open `N` connections to each server, at most 16; auto: one, up to "+
			"four on long paths that lose packets"),
	}, append(append(o.web.flags(), o.clientOptions.flags()...),
		jsonOption(&o.json, func(e *events, err error) { e.result(transfer.Result{}, err) }),
		quietOption(&o.quiet),
		stateDirOption(&o.stateDir))...)...)...)
}

func getCommand(t *terminal) *cli.Command {
	o := newGetOptions()
	return &cli.Command{
		Name:  "get",
		Usage: "fetch a file or a directory from a primary and its secondaries, verified",
		UsageText: `kwikcp get [options] kwik://HOST[:PORT]/PATH[?pin=PIN][#b3=HASH] [FILE|DIR|-]
kwikcp get -r [options] kwik://HOST[:PORT]/[DIR/][?pin=PIN] [DEST]
kwikcp get [options] -i LIST
kwikcp get [options] --metalink FILE|URL [FILE|DIR|-]`,
		Description: `FILE defaults to the last component of PATH, in the current directory or in DIR. "-" writes to stdout.
FILE appears under its name only when it is complete and verified; until then an existing file stays. If FILE is already
identical, nothing is fetched.

A get that fails or is interrupted keeps its verified bytes in .kwikcp-....part beside FILE. The same command resumes
there. A part file may be deleted at any time.

With -r, DEST becomes a copy of the directory DIR; unchanged files are not fetched again. Errors are reported per entry;
the others are still fetched.

With -i, each line of LIST is a URL, optionally followed by a tab and FILE. The URLs of web mirrors of that file may
follow, each after a tab. Errors are reported per line; the remaining files are still fetched. The exit status is the
highest of all lines.

The server is trusted if its key has the URL's pin, or if a certificate authority vouches for it. A server known from an
earlier run is trusted, too. An unknown server is accepted on this machine, and asked about on a terminal.

The manual page (kwikcp man) and docs/REFERENCE.md describe lists, ranges, patterns, directories and trust in full.

` + exitHelp(append([]int{exitNotFound, exitRefused, exitNetwork, exitIntegrity, exitLocal, exitNoSpace, exitExists, exitChanged,
			exitLimit, exitDelete, exitLoop}, signalCodes...)...),
		Flags: o.flags(),
		Action: func(c *cli.Context) error {
			o.isSet = c.IsSet
			return runGet(c.Context, t, o, c.Args().Slice())
		},
	}
}

func runGet(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	ctx, stop := untilBrokenPipe(ctx)
	defer stop()
	switch {
	case o.recursive:
		return silenceBrokenPipe(runGetTree(ctx, t, o, args))
	case o.inputFile != "":
		return silenceBrokenPipe(runGetLines(ctx, t, o, args))
	case o.metalink != "":
		return silenceBrokenPipe(runGetMetalink(ctx, t, o, args))
	}
	return silenceBrokenPipe(runGetFile(ctx, t, o, args))
}

func runGetFile(ctx context.Context, t *terminal, o *getOptions, args []string) error {
	return fetchOne(ctx, t, o, withoutSecret(argument(args, 0)), func() (fileGet, error) {
		g, err := parseGetFile(t, o, args)
		if err == nil && o.metalink != "" {
			err = g.describeWith(ctx, o.metalink)
		}
		return g, err
	})
}

// fetchOne fetches the file that parse returns, and reports the result. shown names it in events.
func fetchOne(
	ctx context.Context, t *terminal, o *getOptions, shown string, parse func() (fileGet, error),
) error {
	g, err := parse()
	if o.json {
		events := newEvents(t.stdout)
		events.start(shown, g.target)
		var result transfer.Result
		if err == nil {
			result, err = g.run(ctx, events)
		}
		events.result(result, err)
		return err
	}
	if err != nil {
		return err
	}
	view := newView(t, o.quiet, cmp.Or(g.url.Path, g.metalinkName))
	result, err := g.run(ctx, view)
	view.end()
	if err != nil || o.quiet {
		return err
	}
	warnOfLosses(t, result)
	new(warningMemory).print(t, result.Warnings)
	warnOfBuffers(t, result.Bytes-result.Resumed-result.Holes)
	if !g.stdout {
		t.printf("%s", g.summary(result))
	}
	return nil
}

// argument returns an argument, empty if there is none.
func argument(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// A fetcher is how get fetches: the checked options that do not depend on the file.
type fetcher struct {
	client
	destination
	made         *madeDirs // with makesDirs
	t            *terminal
	connections  int // per server; 0 for automatic
	limit        *kwik.RateLimit
	maxTime      time.Duration // of each attempt; 0 means no limit
	stallTimeout time.Duration
	retries      int
	retryDelay   time.Duration // 0 means the default, which doubles
	retryMaxTime time.Duration // 0 means no limit
	noPreserve   bool
	reuse        bool
	noSparse     bool
	preallocate  disk.Preallocation
	web          transfer.WebOptions
	// checksumsFrom is the value of --checksum-file, and checksums its content once it was read.
	checksumsFrom string
	checksums     *checksumFile
}

// parseFetcher checks the options that files, lists and directories share.
func parseFetcher(t *terminal, o *getOptions) (f fetcher, err error) {
	f = fetcher{
		t: t, maxTime: o.maxTime.Duration, stallTimeout: o.stallTimeout.Duration, retries: o.retry.int,
		retryDelay: o.retryDelay.Duration, retryMaxTime: o.retryMaxTime.Duration, noPreserve: o.noPreserve,
		reuse: o.reuse, noSparse: o.sparse.off,
		checksumsFrom: o.checksumFile, destination: o.destination, made: new(madeDirs),
	}
	if err := o.sparse.check(); err != nil {
		return f, err
	}
	if f.client, err = o.clientOptions.parse(t); err != nil {
		return f, err
	}
	if f.stallTimeout == 0 {
		return f, usagef(adviseStall, "--stall-timeout must be more than 0")
	}
	if f.connections, err = parseConnections(o.connections); err != nil {
		return f, err
	}
	if f.web, err = o.web.parse(o.recursive || o.inputFile != "", f.policy); err != nil {
		return f, err
	}
	if f.preallocate, err = parsePreallocate(o.preallocate); err != nil {
		return f, err
	}
	f.limit, err = parseRate(o.limitRate)
	return f, err
}

// parseConnections reads the value of --connections-per-server; 0 is auto.
func parseConnections(text string) (int, error) {
	if text == "auto" {
		return 0, nil
	}
	n, err := parseCount(text)
	if err != nil || n < 1 || n > kwik.MaxConnectionsPerServer {
		return 0, usagef(adviseConnections, "--connections-per-server %q is neither auto nor 1 to %d", text,
			kwik.MaxConnectionsPerServer)
	}
	return n, nil
}

// config returns the KWIK configuration of a transfer.
func (f fetcher) config(u transfer.URL) (*kwik.ClientConfig, error) {
	if u.Host == "" { // there is no server
		return &kwik.ClientConfig{Config: kwik.Config{RateLimit: f.limit}}, nil
	}
	config, err := f.client.config(u)
	if err == nil {
		config.ConnectionsPerServer, config.RateLimit = f.connections, f.limit
	}
	return config, err
}

// A fileGet is one file to fetch.
type fileGet struct {
	fetcher
	url       transfer.URL
	target    string
	stdout    bool // the target is stdout
	noClobber bool
	part      *transfer.ByteRange // nil for the whole file
	seed      string              // a file name; empty for none
	pool      *transfer.Pool      // nil for a separate session
	require   []transfer.Checksum // besides those of --checksum-file
	webFile   transfer.WebFile
	// metalinkName is the name of a file in a Metalink, if there is no primary.
	metalinkName string
	inList       bool // --checksum-file need not name it
}

func parseGetFile(t *terminal, o *getOptions, args []string) (fileGet, error) {
	g, err := parseFileOptions(t, o)
	switch {
	case err != nil:
		return g, err
	case len(args) == 0:
		return g, usagef(adviseGet, "get needs the URL of a file")
	case len(args) > 2:
		return g, usagef(adviseGet, "get takes a URL and a file, not also %q", args[2])
	case len(args) == 2 && args[1] == "":
		return g, usagef(adviseGet, "the name of the file to write is empty")
	}
	// An error of the file system is reported only if the rest of the command line is right.
	targetErr := g.aim(args[0], argument(args, 1))
	_, usage := errors.AsType[usageError](targetErr)
	switch {
	case usage:
		return g, targetErr
	case g.stdout && o.json:
		return g, usagef(adviseName, "--json and - both write to stdout")
	case g.stdout && o.seed != "":
		return g, usagef(adviseName, "--seed does not work with stdout")
	}
	if g.require, err = requireHashes(&g.url, o.checksums); err != nil {
		return g, err
	}
	return g, targetErr
}

// parseFileOptions checks the options of single files, in a list or not.
func parseFileOptions(t *terminal, o *getOptions) (g fileGet, err error) {
	g = fileGet{noClobber: o.noClobber, seed: o.seed}
	switch {
	case o.noClobber && o.overwrite:
		return g, usagef(adviseNoClobber, "--no-clobber and --overwrite exclude each other")
	case o.byteRange != "" && (o.reuse || o.seed != ""):
		return g, usagef(adviseRangeFetches, "--range excludes --reuse and --seed")
	case o.quick:
		return g, usagef(adviseGet, "--quick is for directories, with -r")
	case o.deletes.delete:
		return g, usagef(adviseGet, "--delete is for directories, with -r")
	case o.deletes.stage:
		return g, usagef(adviseGet, "--stage is for directories, with -r")
	case o.deletes.maxDelete != "", o.deletes.backupDir != "", o.deletes.oneFileSystem, o.deletes.update,
		o.deletes.minAge.Duration > 0, o.deletes.modifyWindow.Duration > 0:
		const message = "--update, --min-age, --modify-window, --max-delete, --backup-dir and --one-file-system are " +
			"for directories, with -r"
		return g, usagef(adviseGet, message)
	case o.dryRun:
		return g, usagef(adviseGet, "--dry-run is for directories, with -r")
	case o.rules.used() != "":
		return g, usagef(adviseGet, "--%s is for directories, with -r", o.rules.used())
	}
	if err := o.checkRange(); err != nil {
		return g, err
	}
	if err = o.keep.checkUnused(o.isSet, adviseGet, "directories, with -r"); err != nil {
		return g, err
	}
	if g.fetcher, err = parseFetcher(t, o); err != nil {
		return g, err
	}
	if o.byteRange != "" {
		r, err := transfer.ParseByteRange(o.byteRange)
		if err != nil {
			return g, usagef(adviseRange, "--range %q: %w", o.byteRange, err)
		}
		g.part = &r
	}
	return g, nil
}

// aim sets the file to fetch and the target, by default the last component of the URL's path.
func (g *fileGet) aim(url, target string) (err error) {
	if g.url, err = transfer.ParseURL(url); err != nil {
		about := adviseGet
		if _, tree := transfer.ParseTreeURL(url); tree == nil {
			about = adviseTreeInstead
		}
		return usagef(about, "%q is not the URL of a file: %w", withoutSecret(url), err)
	}
	switch {
	case target == "":
		g.target = g.place(path.Base(g.url.Path))
	case strings.ContainsRune(target, 0):
		return usagef(adviseGet, "the name of the file to write has a NUL byte")
	case target != "-":
		target = g.place(target)
		fallthrough
	default:
		g.target, g.stdout, err = targetOf(target, g.url.Path, g.makesDirs())
	}
	return err
}

// run fetches the file, a second time if the user at the terminal accepts the server's key. The
// error is a resumableError if a part file is left.
func (g fileGet) run(ctx context.Context, report transfer.Reporter) (result transfer.Result, err error) {
	checksums, err := g.requiredChecksums(ctx)
	if err != nil {
		return transfer.Result{}, err
	}
	config, err := g.config(g.url)
	if err != nil {
		return transfer.Result{}, err
	}
	if g.makesDirs() && !g.stdout {
		dir := dirOf(g.target)
		if err := g.made.make(dir); err != nil {
			return transfer.Result{}, err
		}
		defer func() { g.made.release(dir, err == nil || result.Kept) }()
	}
	options := transfer.GetOptions{
		URL: g.url, TLS: g.tls(g.url, config), Target: g.target, ConnectTimeout: g.connectTimeout,
		NoClobber: g.noClobber, NoPreserve: g.noPreserve, Range: g.part, Reuse: g.reuse, NoSparse: g.noSparse,
		Retries: g.retries, RetryDelay: g.retryDelay, MaxTime: g.maxTime, RetryMaxTime: g.retryMaxTime,
		StallTimeout: g.stallTimeout, KWIK: config, Pool: g.pool, Checksums: checksums, Preallocate: g.preallocate,
		Web: g.web, WebFile: g.webFile,
	}
	if g.stdout {
		w := newCancelWriter(ctx, g.t.bytes)
		defer w.close()
		options.Output = w
	}
	if g.seed != "" {
		if options.Seed, err = disk.OpenFile(g.seed); err != nil {
			return transfer.Result{}, transfer.LocalError(fmt.Sprintf("read the seed %q", g.seed), err)
		}
		defer options.Seed.Close()
	}
	result, err = transfer.Get(ctx, options, report)
	if err != nil && g.policy.accepted(err) {
		result, err = transfer.Get(ctx, options, report)
	}
	if errors.Is(err, disk.ErrNotAFile) {
		err = advisedError{adviseStdout, err}
	}
	if err != nil && result.Kept {
		err = resumableError{err}
	}
	return result, err
}

// requiredChecksums returns all checksums that the file must have besides the hash of its URL.
func (g *fileGet) requiredChecksums(ctx context.Context) ([]transfer.Checksum, error) {
	if err := g.readChecksums(ctx); err != nil {
		return nil, err
	}
	name := cmp.Or(g.url.Path, g.metalinkName)
	listed, err := g.checksums.ofFile(name)
	if err == nil && g.checksums != nil && listed == nil && !g.inList {
		err = g.checksums.notNamed(path.Base(name))
	}
	isTree := func(c transfer.Checksum) bool { _, ok := c.Root(); return ok }
	if g.url.Host == "" && slices.ContainsFunc(listed, isTree) {
		err = usagef(adviseMetalink, "the BLAKE3 hash of %q in --checksum-file needs the URL of a KWIK server", name)
	}
	return append(slices.Clone(g.require), listed...), err
}

// summary describes a finished transfer in one line.
func (g fileGet) summary(r transfer.Result) string {
	if r.UpToDate {
		return fmt.Sprintf("%q is up to date: %s, verified in %.2f s%s%s",
			g.target, size(r.Bytes), r.Seconds, proofNote(r), checksumNote(r))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q: %s", g.target, size(r.Bytes))
	if g.part != nil {
		fmt.Fprintf(&b, " from byte %d on", r.Offset)
	}
	fmt.Fprintf(&b, " in %.2f s", r.Seconds)
	if r.Resumed > 0 {
		fmt.Fprintf(&b, " (%s were already here)", size(r.Resumed))
	}
	if r.Holes > 0 {
		fmt.Fprintf(&b, " (%s in holes)", size(r.Holes))
	}
	fmt.Fprintf(&b, ", verified%s%s", proofNote(r), checksumNote(r))
	if r.Wasted > 0 {
		fmt.Fprintf(&b, " (%s discarded)", size(r.Wasted))
	}
	return b.String()
}

// proofNote tells by what the bytes were proved.
func proofNote(r transfer.Result) string {
	switch r.Proof {
	case transfer.ProofPieces:
		return " by the hashes of its pieces"
	case transfer.ProofWhole:
		return " by the hash of the whole file"
	}
	return fmt.Sprintf(", blake3 %v", r.Root)
}

// checksumNote tells of checksums that were proved.
func checksumNote(r transfer.Result) string {
	switch len(r.Checksums) {
	case 0:
		return ""
	case 1:
		return ", checksum correct"
	}
	return ", checksums correct"
}
