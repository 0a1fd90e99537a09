package cmd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/integrity"
	"kwikcp/internal/udp"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

func getCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "get",
		Usage:     "fetch a file or a directory from a primary and all its secondaries, and prove it",
		UsageText: "kwikcp get [options] kwik://HOST[:PORT]/PATH[?pin=PIN][#b3=HASH] [FILE|DIR|-]\nkwikcp get -r [options] kwik://HOST[:PORT]/[DIR/][?pin=PIN] [DEST]\nkwikcp get [options] -i LIST",
		Description: `FILE is where the file goes, by default the last component of PATH in the current directory, or in DIR; "-" writes
to stdout. The file appears under its name when it is whole and proved, not before; what stood there stays until then. If that is
the very file already nothing is fetched: it is up to date. Mode (less the umask) and time are those on the server.

A get that fails, is interrupted or killed leaves what it has as .kwikcp-....part beside FILE, and the same command again fetches
only the rest; whatever is in such a file is proved before it counts. It may be deleted at any time.

With --range only the chunk groups (64 KiB in files up to 4 GiB) that the bytes are in are fetched and proved, and FILE holds just the bytes.
With --reuse or --seed chunk groups of a file that is here already, and are right at the same offsets, are copied and not fetched.

With -i each line of LIST is a URL, and perhaps a tab and the FILE that it goes to; empty lines and those that begin with # do not count.
-j files at once are fetched, and those from one server share its connections. What is wrong with one line is said, and the others are fetched
all the same; the exit status is the highest. A line names a file; a directory is fetched by a command of its own, with -r.

With -r the directory DEST is made what DIR is on the server; what is the same already is not fetched. Of --include and --exclude the first that
matches decides. Patterns: * anything but a slash, ** anything, ? one character, [a-z] a set; /a from the top of the tree, a/b the end of a path, a/ directories
only. --delete removes what is not on the server and not excluded, once everything was listed. Links that lead out of the tree, devices and FIFOs are
skipped. What fails is named, and the rest goes on; the exit status is the one that tells most.

The pin is the server's key, as kwikcp serve prints it. Without one the server must have a certificate of a known authority
or be known already; an unknown one is accepted on this machine and asked about on a terminal.

` + exitHelp(exitNotFound, exitRefused, exitNetwork, exitIntegrity, exitLocal, exitNoSpace, exitExists, exitChanged, exitLimit),
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "checksum", EnvVars: []string{"KWIKCP_CHECKSUM"}, Usage: "the file must have this hash, `blake3=HEX` as b3sum prints it; then no server is trusted for the content"},
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"KWIKCP_CACERT"}, Usage: "trust the certificate authorities in `FILE` (PEM) instead of the system's"},
			ipv4Flag(), ipv6Flag(),
			secondsFlag("connect-timeout", transfer.DefaultConnectTimeout, "give up if the server has not answered after `TIME`"),
			&cli.StringFlag{Name: "connections-per-server", EnvVars: []string{"KWIKCP_CONNECTIONS_PER_SERVER"}, Value: "auto", Usage: "open `N` connections to each server, 16 at most; auto: one, and up to four where packets are lost on a long way"},
			&cli.StringFlag{Name: "input-file", Aliases: []string{"i"}, EnvVars: []string{"KWIKCP_INPUT_FILE"}, Usage: "fetch what the lines of `LIST` name; - is standard input"},
			&cli.IntFlag{Name: "jobs", Aliases: []string{"j"}, EnvVars: []string{"KWIKCP_JOBS"}, Value: defaultJobs, Usage: "with -i fetch `N` files at once"},
			&cli.BoolFlag{Name: "no-clobber", EnvVars: []string{"KWIKCP_NO_CLOBBER"}, Usage: "leave FILE as it is if there is one, and end with exit status 9"},
			&cli.BoolFlag{Name: "overwrite", EnvVars: []string{"KWIKCP_OVERWRITE"}, Usage: "replace FILE if there is one that differs (the default)"},
			&cli.StringFlag{Name: "range", EnvVars: []string{"KWIKCP_RANGE"}, Usage: "fetch only the bytes `START-END`, both included and counted from 0, START- or -LAST"},
			&cli.BoolFlag{Name: "reuse", EnvVars: []string{"KWIKCP_REUSE"}, Usage: "take what is right of FILE as it is now, and fetch only the rest"},
			&cli.StringFlag{Name: "seed", EnvVars: []string{"KWIKCP_SEED"}, Usage: "take what is right of `OLD`, such as an older version of the file, and fetch only the rest"},
			&cli.BoolFlag{Name: "no-preserve", EnvVars: []string{"KWIKCP_NO_PRESERVE"}, Usage: "do not give FILE the mode and time that the file has on the server"},
			&cli.IntFlag{Name: "retry", EnvVars: []string{"KWIKCP_RETRY"}, Usage: "try again up to `N` times after a network error, and go on where it was"},
			secondsFlag("retry-delay", 0, "wait `TIME` before each retry; 0 means 1s, then twice as long each time, up to 10m"),
			secondsFlag("retry-max-time", 0, "begin no retry when `TIME` has passed since the start; 0 means that --retry alone counts"),
			limitRateFlag("over all servers together"),
			secondsFlag("max-time", 0, "give an attempt up after `TIME`, and end with exit status 11 unless --retry allows another; 0 means never"),
			&cli.BoolFlag{Name: "json", EnvVars: []string{"KWIKCP_JSON"}, Usage: "print events on stdout, one JSON object a line"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, EnvVars: []string{"KWIKCP_QUIET"}, Usage: "print nothing but errors"},
			stateDirFlag,
		}, mirrorFlags()...),
		Action: func(c *cli.Context) error { return runGet(c, t) },
	}
}

func runGet(c *cli.Context, t *terminal) error {
	ctx, stop := untilBrokenPipe(c.Context)
	defer stop()
	switch {
	case c.Bool("recursive"):
		return quietly(runMirror(ctx, c, t))
	case c.String("input-file") != "":
		return quietly(runList(ctx, c, t))
	}
	return quietly(runGetUntil(ctx, c, t))
}

func runGetUntil(ctx context.Context, c *cli.Context, t *terminal) error {
	o, err := parseGet(c, t)
	if c.Bool("json") {
		events := newEvents(t.stdout)
		events.start(withoutSecret(c.Args().Get(0)), o.target)
		var result transfer.Result
		if err == nil {
			result, err = o.get(ctx, events)
		}
		events.result(result, err)
		return err
	}
	if err != nil {
		return err
	}
	view := newView(t, c.Bool("quiet"), o.url.Path)
	result, err := o.get(ctx, view)
	view.end()
	if err == nil && !c.Bool("quiet") {
		warnOfLosses(t, result)
		warnOfBuffers(t, result.Bytes-result.Resumed)
	}
	if err == nil && !c.Bool("quiet") && !o.stdout {
		t.printf("%s", o.summary(result))
	}
	return err
}

// warnOfLosses names the servers that fell away though the transfer succeeded. Who sent wrong bytes was named before.
func warnOfLosses(t *terminal, r transfer.Result) {
	for _, s := range r.Servers {
		if s.State != transfer.ServerStalled && s.State != transfer.ServerLost {
			continue
		}
		why := string(s.State)
		if s.Reason != "" {
			why += ": " + s.Reason
		}
		t.warningf("%s %s did not last to the end (%s); the others delivered the rest", s.Role, s.Addr, oneLine(why))
	}
}

// manyBytes is from how much on small UDP buffers matter.
const manyBytes = 16 << 20

// inspectUDP is udp.Inspect, or a test's.
var inspectUDP = udp.Inspect

// warnOfBuffers says what to do about small UDP buffers, after so many bytes were fetched.
func warnOfBuffers(t *terminal, fetched int64) {
	if fetched < manyBytes {
		return
	}
	if machine, err := inspectUDP(); err == nil && machine.Advice() != "" {
		t.warningf("%s", machine.Advice())
	}
}

// A getCmd is a parsed get command.
type getCmd struct {
	t              *terminal
	url            transfer.URL
	target         string
	stdout         bool
	noClobber      bool
	noPreserve     bool
	part           *transfer.ByteRange // nil for the whole file
	reuse          bool
	seed           string // a file's name; empty for none
	connectTimeout time.Duration
	connections    int // per server; 0 for what is worth it
	limit          *kwik.RateLimit
	family         kwik.AddressFamily
	retries        int
	retryDelay     time.Duration // 0 means the default, which doubles
	maxTime        time.Duration // of each attempt; 0 means for ever
	retryMaxTime   time.Duration // 0 means for ever
	policy         *trustPolicy
	pool           *transfer.Pool // nil for a session of its own
}

const getHelp = "kwikcp get kwik://HOST:PORT/PATH FILE"

func parseGet(c *cli.Context, t *terminal) (getCmd, error) {
	o, err := parseGetOptions(c, t)
	args := c.Args().Slice()
	switch {
	case err != nil:
		return o, err
	case len(args) == 0:
		return o, usageError{errors.New("get needs the URL of a file"), getHelp}
	case len(args) > 2:
		return o, usageError{fmt.Errorf("get takes a URL and a file, not also %q", args[2]), getHelp}
	case len(args) == 2 && args[1] == "":
		return o, usageError{errors.New("the name of the file to write is empty"), getHelp}
	}
	target := ""
	if len(args) == 2 {
		target = args[1]
	}
	targetErr := o.aim(args[0], target) // told when the rest of the command line is right, unless it is about that
	_, usage := errors.AsType[usageError](targetErr)
	switch {
	case usage:
		return o, targetErr
	case o.stdout && c.Bool("json"):
		return o, usageError{errors.New("--json and - both want stdout"), "name a file"}
	case o.stdout && o.seed != "":
		return o, usageError{errors.New("--seed is of no use to stdout"), "name a file"}
	}
	if err := expect(&o.url, c.String("checksum")); err != nil {
		return o, err
	}
	return o, targetErr
}

// aim says what to fetch and where to; without a target to the last component of the URL's path.
func (o *getCmd) aim(url, target string) (err error) {
	if o.url, err = transfer.ParseURL(url); err != nil {
		hint := getHelp
		if _, tree := transfer.ParseTreeURL(url); tree == nil {
			hint = "a directory is fetched with -r: kwikcp get -r kwik://HOST:PORT/DIR/ DEST"
		}
		return usageError{fmt.Errorf("%q is not the URL of a file: %w", withoutSecret(url), err), hint}
	}
	switch {
	case target == "":
		o.target = path.Base(o.url.Path)
	case strings.ContainsRune(target, 0):
		return usageError{errors.New("the name of the file to write has a NUL byte"), getHelp}
	default:
		o.target, o.stdout, err = targetOf(target, o.url.Path)
	}
	return err
}

// parseGetOptions reads what does not depend on the file.
func parseGetOptions(c *cli.Context, t *terminal) (getCmd, error) {
	o := getCmd{
		t:         t,
		noClobber: c.Bool("no-clobber"), noPreserve: c.Bool("no-preserve"), reuse: c.Bool("reuse"), seed: c.String("seed"),
	}
	switch {
	case o.noClobber && c.Bool("overwrite"):
		return o, usageError{errors.New("--no-clobber and --overwrite exclude each other"), "without either FILE is replaced; --no-clobber=false undoes KWIKCP_NO_CLOBBER"}
	case c.String("range") != "" && (o.reuse || o.seed != ""):
		return o, usageError{errors.New("--range excludes --reuse and --seed"), "it fetches little anyway"}
	}
	for _, name := range []string{"delete", "dry-run"} {
		if c.Bool(name) {
			return o, usageError{fmt.Errorf("--%s is for directories, with -r", name), getHelp}
		}
	}
	if f, ok := c.Generic("include").(*filterFlag); ok && f.used() {
		return o, usageError{errors.New("--include and --exclude are for directories, with -r"), getHelp}
	}
	if err := o.parseLimits(c); err != nil {
		return o, err
	}
	if text := c.String("range"); text != "" {
		r, err := transfer.ParseByteRange(text)
		if err != nil {
			return o, usageError{fmt.Errorf("--range %q: %w", text, err), "such as 0-99, 100- or -100"}
		}
		o.part = &r
	}
	return o, nil
}

// parseLimits reads how long, how often and how fast to try, and whom to trust, with one file or many.
func (o *getCmd) parseLimits(c *cli.Context) (err error) {
	o.connectTimeout, o.maxTime = seconds(c, "connect-timeout"), seconds(c, "max-time")
	o.retries, o.retryDelay, o.retryMaxTime = c.Int("retry"), seconds(c, "retry-delay"), seconds(c, "retry-max-time")
	switch {
	case o.connectTimeout <= 0:
		return usageError{errors.New("--connect-timeout must be more than 0"), "such as 10s"}
	case o.retries < 0:
		return usageError{errors.New("--retry must not be negative"), "0 means no retry"}
	case o.retryDelay < 0:
		return usageError{errors.New("--retry-delay must not be negative"), "such as 5s; 0 means 1s, and twice as long each time"}
	case o.maxTime < 0:
		return usageError{errors.New("--max-time must not be negative"), "such as 1h; 0 means no limit"}
	case o.retryMaxTime < 0:
		return usageError{errors.New("--retry-max-time must not be negative"), "such as 1h; 0 means no limit"}
	}
	if text := c.String("connections-per-server"); text != "auto" {
		if o.connections, err = strconv.Atoi(text); err != nil || o.connections < 1 || o.connections > kwik.MaxConnectionsPerServer {
			return usageError{fmt.Errorf("--connections-per-server %q is neither auto nor 1 to %d", text, kwik.MaxConnectionsPerServer), "auto is right nearly everywhere"}
		}
	}
	if o.family, err = family(c); err != nil {
		return err
	}
	if o.limit, err = rateLimit(c); err != nil {
		return err
	}
	state, err := stateDir(c)
	if err != nil {
		return err
	}
	o.policy, err = newTrustPolicy(o.t, state, c.String("cacert"))
	return err
}

// parseChecksum reads the value of --checksum.
func parseChecksum(text string) (integrity.Root, error) {
	hex, ok := strings.CutPrefix(text, "blake3=")
	root, err := integrity.ParseRoot(hex)
	if !ok || err != nil {
		return root, usageError{fmt.Errorf("--checksum %q is not blake3= and 64 hexadecimal digits", text), "kwikcp sum FILE prints it, and so does b3sum"}
	}
	return root, nil
}

// expect puts the value of --checksum, if there is one, into a URL: the file must have that hash.
func expect(u *transfer.URL, checksum string) error {
	if checksum == "" {
		return nil
	}
	root, err := parseChecksum(checksum)
	if err != nil {
		return err
	}
	if u.Root != nil && *u.Root != root {
		return usageError{errors.New("--checksum and the URL's #b3= differ"), "leave one of them out"}
	}
	u.Root = &root
	return nil
}

// get runs the transfer, once more if the person at the terminal decides to trust the server. An error is a keptError if a part
// file is left.
func (o getCmd) get(ctx context.Context, report transfer.Reporter) (transfer.Result, error) {
	traced, err := quicConfig()
	if err != nil {
		return transfer.Result{}, err
	}
	options := transfer.GetOptions{
		URL: o.url, TLS: o.policy.config(o.url), Target: o.target, ConnectTimeout: o.connectTimeout,
		NoClobber: o.noClobber, NoPreserve: o.noPreserve, Range: o.part, Reuse: o.reuse,
		Retries: o.retries, RetryDelay: o.retryDelay, MaxTime: o.maxTime, RetryMaxTime: o.retryMaxTime,
		KWIK: &kwik.ClientConfig{
			Config: kwik.Config{QUIC: traced, RateLimit: o.limit, Family: o.family}, ConnectionsPerServer: o.connections,
		},
		Pool: o.pool,
	}
	if o.stdout {
		w := newPatientWriter(ctx, o.t.bytes)
		defer w.close()
		options.Output = w
	}
	if o.seed != "" {
		if options.Seed, err = disk.OpenFile(o.seed); err != nil {
			return transfer.Result{}, transfer.LocalError(fmt.Sprintf("read the seed %q", o.seed), err)
		}
		defer options.Seed.Close()
	}
	result, err := transfer.Get(ctx, options, report)
	if err != nil && o.policy.accepted(err) {
		result, err = transfer.Get(ctx, options, report)
	}
	if errors.Is(err, disk.ErrNotAFile) {
		err = notAFile(err)
	}
	if err != nil && result.Kept {
		err = keptError{err}
	}
	return result, err
}

// summary says in a line or two what became of a transfer.
func (o getCmd) summary(r transfer.Result) string {
	target := o.target
	if r.UpToDate {
		return fmt.Sprintf("%q is up to date: %s, proved in %.2f s, blake3 %v", target, size(r.Bytes), r.Seconds, r.Root)
	}
	resumed := ""
	if r.Resumed > 0 {
		resumed = fmt.Sprintf(" (%s of it were here already)", size(r.Resumed))
	}
	of := ""
	if o.part != nil {
		of = fmt.Sprintf(" from byte %d on", r.Offset)
	}
	text := fmt.Sprintf("%q is here: %s%s in %.2f s%s, proved, blake3 %v", target, size(r.Bytes), of, r.Seconds, resumed, r.Root)
	if r.Wasted > 0 {
		text += fmt.Sprintf(" (%s came in vain)", size(r.Wasted))
	}
	return text
}
