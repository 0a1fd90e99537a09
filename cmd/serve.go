package cmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/escape"
	"kwikcp/internal/logs"
	"kwikcp/internal/procs"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
)

// serveOptions are the options of serve.
type serveOptions struct {
	role, root, listen string
	primary, advertise string
	joinTokenFile      string
	caCert             string
	cert, key          string
	requireToken       bool
	revoked            string
	clientCA           string
	tokenFile          string
	rules              filterRules
	drainTimeout       secondsValue
	webMirrors         repeatedValue
	s3                 s3Options
	remote             remoteOptions
	limitRate          string
	maxMemory          string
	logFormat          string
	logLevel           string
	mirror             bool
	mirrorInterval     secondsValue
	deletes            deleteOptions
	sparse             sparseOptions
	preallocate        string
	scrub              secondsValue
	keep               keepOptions
	stateDir           string

	// isSet reports whether an option was given, on the command line or in the environment, even
	// with an empty value.
	isSet func(name string) bool
}

func newServeOptions() *serveOptions {
	o := &serveOptions{
		root: ".", listen: ":" + transfer.DefaultPort, drainTimeout: secondsValue{Duration: 30 * time.Second},
		logFormat: "text", logLevel: "info", mirrorInterval: secondsValue{Duration: time.Minute},
		deletes:     deleteOptions{minAge: secondsValue{Duration: 2 * time.Second}},
		preallocate: string(disk.PreallocateAuto),
	}
	// There most file systems ignore case, and another spelling must not lead to an excluded file.
	o.rules.ignoreCase = runtime.GOOS == "windows" || runtime.GOOS == "darwin"
	return o
}

func (o *serveOptions) flags() []cli.Flag {
	return slices.Concat([]cli.Flag{
		stringOption(&o.role, "role", "`ROLE` of this server: primary or secondary"),
		stringOption(&o.root, "root", "serve the files below `DIR`, or those of a web server or bucket: "+
			"https://HOST/PREFIX, s3://BUCKET/PREFIX"),
		filterOption(&o.rules, "include", "serve entries that match `PATTERN`; the first matching --include or "+
			"--exclude decides"),
		filterOption(&o.rules, "exclude", "neither serve nor list entries that match `PATTERN`, nor mirror or "+
			"delete them"),
		filterFromOption(&o.rules, "include-from"),
		filterFromOption(&o.rules, "exclude-from"),
		filesFromOption(&o.rules, "with --mirror, fetch only the paths that `FILE` names, one a line, and what is "+
			"below them; - is standard input"),
		from0Option(&o.rules),
		stringOption(&o.listen, "listen", "listen at UDP `ADDR`, host:port; port 0 means any free port"),
		stringOption(&o.primary, "primary", "join the primary at `ADDR|URL`: host:port, or the URL that it "+
			"printed; for secondaries"),
		stringOption(&o.advertise, "advertise", "`ADDR`, ip:port, at which clients reach this secondary (default: the address "+
			"that the primary sees)"),
		stringOption(&o.joinTokenFile, "join-token-file", "read the join token, the secret that a secondary needs to join, from "+
			"`FILE` (or set KWIKCP_JOIN_TOKEN)"),
		stringOption(&o.caCert, "cacert", "a secondary trusts a primary whose certificate is from an authority in `FILE` (PEM)"),
		stringOption(&o.cert, "cert", "show the certificate in `FILE` (PEM, with its intermediates) instead of a "+
			"self-signed one"),
		stringOption(&o.key, "key", "read the private key of --cert from `FILE` (PEM)"),
		boolOption(&o.requireToken, "require-token", "refuse clients without a token of kwikcp token; they read "+
			"what it allows"),
		stringOption(&o.revoked, "revoked", "with --require-token, refuse the tokens whose names are in `FILE`, "+
			"one a line"),
		stringOption(&o.clientCA, "client-ca", "refuse clients without a certificate of an authority in `FILE` (PEM)"),
		secondsOption(&o.drainTimeout, "drain-timeout", "at shutdown, give clients that only this server can serve `TIME` to finish"),
		repeatedOption(&o.webMirrors, "web-mirror", "tell clients of a primary that a web server has the files, too: "+
			"`TEMPLATE[,PRIORITY]`, an https URL with {path}; may be repeated"),
		limitRateOption(&o.limitRate, "to all clients together"),
		maxMemoryOption(&o.maxMemory),
		stringOption(&o.logFormat, "log-format", "write the log as `FORMAT`: text, or json, one object per line"),
		stringOption(&o.logLevel, "log-level", "log `LEVEL` and above: debug, info, warn or error"),
		boolOption(&o.mirror, "mirror", "a secondary fetches everything that its primary serves into --root, and follows changes"),
		secondsOption(&o.mirrorInterval, "mirror-interval", "with --mirror, look for changes every `TIME`"),
		boolOption(&o.deletes.delete, "mirror-delete", "with --mirror, remove entries of --root that the primary "+
			"does not have"),
		sparseOption(&o.sparse.on),
		noSparseOption(&o.sparse.off),
		preallocateOption(&o.preallocate),
		updateOption(&o.deletes.update, "--mirror", "--root"),
		minAgeOption(&o.deletes.minAge, "--mirror"),
		stageOption(&o.deletes.stage, "--mirror"),
		modifyWindowOption(&o.deletes.modifyWindow, "--mirror"),
		maxDeleteOption(&o.deletes.maxDelete, "--mirror-delete"),
		backupDirOption(&o.deletes.backupDir, "--mirror"),
		oneFileSystemOption(&o.deletes.oneFileSystem, "--mirror", "--root"),
		tokenFileOption(&o.tokenFile, "with --mirror, present the token in `FILE` to the primary "+
			"(or set KWIKCP_TOKEN)"),
		secondsOption(&o.scrub, "scrub", "every `TIME`, hash all files again to find damage of the disk (default: "+
			"never)"),
		stateDirOption(&o.stateDir),
	}, o.remote.flags(), o.s3.flags(), o.keep.flags("with --mirror"))
}

func serveCommand(t *terminal) *cli.Command {
	o := newServeOptions()
	return &cli.Command{
		Name:  "serve",
		Usage: "serve the files below a directory",
		UsageText: `kwikcp serve --role primary [--root DIR] [--listen ADDR] [options]
kwikcp serve --role secondary --primary ADDR|URL [--root DIR] [--listen ADDR] [options]`,
		Description: `Clients connect to the primary. It tells them the size and the hash of a file, and which secondaries have a copy.
Secondaries serve copies below their own root. When the server is ready it prints its URL on stdout, one line; its log
goes to stderr.

A secondary joins the primary, and joins again when the connection is lost. Without a join token only secondaries on
the primary's own machine may join. The primary connects to the secondary once before it tells clients of it.

With --mirror a secondary needs no copy: it fetches everything that its primary serves into --root. For that it must
trust the primary as kwikcp get does, for example by the pin in its URL; the join token is not enough.

Everything below the root can be fetched, except for part files, entries that match an --exclude, and secrets. Secrets
are the state directory and the files of tokens and keys. Clients are told that there is no such file.

On SIGINT or SIGTERM the server drains: clients continue with the other servers, then it exits with status 0. A second
signal ends it at once. On SIGHUP, and when the files change, it reads its certificate again. If its terminal was
closed, SIGHUP is like SIGTERM.

` + exitHelp(exitNotFound, exitRefused, exitNetwork, exitLocal),
		Flags: o.flags(),
		Action: func(c *cli.Context) error {
			o.isSet = c.IsSet
			return silenceBrokenPipe(runServe(c.Context, t, o, c.Args().Slice()))
		},
	}
}

// A serveConfig is how to serve: the checked options.
type serveConfig struct {
	t            *terminal
	log          *slog.Logger
	role         kwik.ServerRole
	root         string
	bucket       *s3Root  // nil if the root is in none
	web          *webRoot // nil if the root is on none
	cacheSize    int64    // for both, bytes
	listen       string
	primary      transfer.URL // of a secondary
	advertise    netip.AddrPort
	token        []byte
	stateDir     string
	scrub        time.Duration // 0 without --scrub
	policy       *trustPolicy
	certificate  *certificateFile   // nil for a self-signed certificate around the server's key
	exclude      *selection         // of --exclude and its like; nil excludes nothing
	paths        *transfer.PathList // of --files-from, for the mirror; nil is everything
	secretFiles  []string           // files of the command line that are not served; empty names are none
	secrets      *disk.Secrets      // these, the state directory and others
	restricted   bool               // clients need a token or a certificate
	access       *accessFiles       // how; nil if they need neither
	drainTimeout time.Duration
	webMirrors   []serve.WebMirror
	limit        *kwik.RateLimit
	maxMemory    int64         // for clients, bytes; 0 means the default
	mirror       *mirrorConfig // nil without --mirror
}

func parseServe(ctx context.Context, t *terminal, o *serveOptions, args []string) (c serveConfig, err error) {
	c = serveConfig{t: t, root: o.root, listen: o.listen, drainTimeout: o.drainTimeout.Duration}
	if len(args) > 0 {
		return c, usagef(adviseServeRoot, "serve takes no argument such as %q", args[0])
	}
	if c.role, err = parseRole(o); err != nil {
		return c, err
	}
	if _, port, err := net.SplitHostPort(o.listen); err != nil || !isPort(port) {
		return c, usagef(adviseListen, "--listen %q is not host:port", o.listen)
	}
	if c.log, err = newLog(t.stderr, o.logFormat, o.logLevel); err != nil {
		return c, err
	}
	t.reportLossesLike(o.logFormat)
	if o.primary != "" {
		if c.primary, err = parsePrimary(o.primary); err != nil {
			return c, usagef(advisePrimary, "--primary %q: %w", withoutSecret(o.primary), err)
		}
	}
	if o.advertise != "" {
		if c.advertise, err = netip.ParseAddrPort(o.advertise); err != nil || c.advertise.Port() == 0 {
			return c, usagef(adviseAdvertise, "--advertise %q is not ip:port", o.advertise)
		}
	}
	if c.limit, err = parseRate(o.limitRate); err != nil {
		return c, err
	}
	if c.webMirrors, err = parseNamedMirrors(o.webMirrors.list); err != nil {
		return c, err
	}
	if len(c.webMirrors) > 0 && c.role != kwik.ServerRolePrimary {
		return c, usagef(adviseRole, "--web-mirror is for a primary, which tells its clients")
	}
	if c.maxMemory, err = parseMaxMemory(o.maxMemory); err != nil {
		return c, err
	}
	if c.scrub = o.scrub.Duration; o.isSet("scrub") && c.scrub == 0 {
		return c, usagef(adviseInterval, "--scrub must be more than 0")
	}
	if c.mirror, err = parseServeMirror(o, c.role); err != nil {
		return c, err
	}
	if c.token, err = readJoinToken(o.joinTokenFile); err != nil {
		return c, err
	}
	if c.stateDir, err = stateDir(o.stateDir); err != nil {
		return c, err
	}
	if c.policy, err = newTrustPolicy(t, c.stateDir, o.caCert); err != nil {
		return c, err
	}
	if c.bucket, err = parseS3Root(o.root, &o.s3, c.role, c.policy); err != nil {
		return c, err
	}
	if c.web, err = parseWebRoot(o.root, &o.remote, c.policy); err != nil {
		return c, err
	}
	if c.cacheSize, err = parseCacheSize(o.remote.cacheSize); err != nil {
		return c, err
	}
	if c.isRemote() && (o.mirror || c.scrub > 0) {
		return c, usagef(adviseServeRoot, "--mirror and --scrub need a local --root")
	}
	if !c.isRemote() && o.remote.cacheSize != "" {
		return c, usagef(adviseWebRoot, "--cache-size is for a remote --root")
	}
	if c.certificate, err = newCertificateFile(o.cert, o.key, c.log); err != nil {
		return c, err
	}
	chosen, err := o.rules.parse(ctx)
	if err != nil {
		return c, err
	}
	if c.paths = chosen.paths; len(o.rules.list) > 0 {
		c.exclude = &chosen
	}
	if c.access, err = parseServeAccess(o, c.role, c.log); err != nil {
		return c, err
	}
	c.restricted = c.access != nil
	if c.mirror != nil {
		if c.mirror.tokens, err = openTokens(o.tokenFile, c.stateDir); err != nil {
			return c, err
		}
	}
	c.secretFiles = []string{o.joinTokenFile, o.key, o.tokenFile, o.revoked, keyLogFile()}
	c.secrets = newSecrets(c.stateDir, c.secretFiles...)
	return c, nil
}

func parseRole(o *serveOptions) (kwik.ServerRole, error) {
	switch o.role {
	case "primary":
		switch {
		case o.primary != "":
			return 0, usagef(adviseServe, "--primary is for secondaries")
		case o.advertise != "":
			return 0, usagef(adviseServe, "--advertise is for secondaries")
		}
		return kwik.ServerRolePrimary, nil
	case "secondary":
		if o.primary == "" {
			return 0, usagef(advisePrimary, "a secondary needs --primary ADDR")
		}
		return kwik.ServerRoleSecondary, nil
	case "":
		return 0, usagef(adviseRole, "--role is missing")
	}
	return 0, usagef(adviseRole, "unknown role %q", o.role)
}

// logLevels are the values of --log-level.
var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// newLog returns a log. Both formats escape text from the network, and its lines are bounded.
func newLog(w io.Writer, format, levelName string) (*slog.Logger, error) {
	level, ok := logLevels[strings.ToLower(levelName)]
	if !ok {
		return nil, usagef(adviseLogLevel, "unknown log level %q", levelName)
	}
	switch options := (&slog.HandlerOptions{Level: level}); format {
	case "text":
		return slog.New(logs.NewHandler(slog.NewTextHandler(w, options))), nil
	case "json":
		return slog.New(logs.NewHandler(slog.NewJSONHandler(escape.JSON(w), options))), nil
	}
	return nil, usagef(adviseLogFormat, "unknown log format %q", format)
}

// reportLossesLike has lost lines reported in a format of newLog.
func (t *terminal) reportLossesLike(format string) {
	if t.queue == nil {
		return
	}
	t.queue.SetReport(func(lines int) []byte {
		var line bytes.Buffer
		if log, err := newLog(&line, format, "warn"); err == nil {
			log.Warn("log lines were lost, because stderr was blocked or full", "lines", lines)
		}
		return line.Bytes()
	})
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// parsePrimary reads host:port, host or a URL.
func parsePrimary(text string) (transfer.URL, error) {
	if !strings.Contains(text, "://") {
		text = "kwik://" + text
	}
	return transfer.ParseServerURL(text)
}

// maxToken bounds a join token, in bytes.
const maxToken = 4 << 10

// readJoinToken returns the secret in the file of --join-token-file, or without one that of
// KWIKCP_JOIN_TOKEN; nil if there is none.
func readJoinToken(file string) ([]byte, error) {
	token := []byte(os.Getenv("KWIKCP_JOIN_TOKEN"))
	if file != "" {
		var err error
		if token, err = trust.ReadSecret(file, maxToken+3); err != nil { // a line break may follow
			if errors.Is(err, fs.ErrNotExist) && looksSecret(file) {
				err = errors.New("no such file; the value looks like the secret itself, which must not be an argument")
			}
			return nil, usagef(adviseMakeToken, "--join-token-file: %w", err)
		}
	}
	token = bytes.TrimRight(token, "\r\n")
	switch {
	case len(token) == 0 && file != "":
		return nil, usagef(adviseMakeToken, "--join-token-file: %q is empty", file)
	case len(token) > 0 && len(token) < kwik.MinJoinToken:
		return nil, usagef(adviseMakeToken, "the join token has %d bytes, and at least %d are required", len(token),
			kwik.MinJoinToken)
	case len(token) > maxToken:
		return nil, usagef(adviseShortToken, "the join token is longer than %d bytes", maxToken)
	}
	return token, nil
}

func runServe(ctx context.Context, t *terminal, o *serveOptions, args []string) error {
	// A server outlives the reader of its log. Without it the system would end the process.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	c, err := parseServe(ctx, t, o, args)
	if err != nil {
		return err
	}
	root, watch, err := c.openServed(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	s, err := startServer(c, root)
	if err != nil {
		return err
	}
	defer logs.NewHandler(c.log.Handler()).Flush()
	defer s.close()
	s.wg.Go(func() { watch(s.ctx) })
	_, forClients := s.listener.Memory()
	defer collectEarly(forClients)()
	defer procs.Govern(func() bool { return s.listener.Sessions() > 1 })()
	defer handleHangup(ctx, s.requestReload)()
	return s.run(ctx)
}
