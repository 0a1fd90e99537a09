package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/urfave/cli/v2"
	"github.com/zeebo/blake3"

	"kwikcp/internal/procs"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
)

func serveCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "serve the files below a directory",
		UsageText: `kwikcp serve --role primary   [--root DIR] [--listen ADDR] [options]
kwikcp serve --role secondary --primary ADDR|URL [--root DIR] [--listen ADDR] [options]`,
		Description: `Clients ask the primary, which says what a file is. Secondaries hold copies below their own root, join the
primary and deliver parts of the files. When it is ready, the server prints its URL on stdout, one line;
its log goes to stderr. SIGINT and SIGTERM have it take leave of its clients, which go on with other servers, and
end; a second signal ends it at once.

With --mirror a secondary fetches all that its primary serves into --root, joins as it fills, and follows what changes there. For that it has to
trust the primary as kwikcp get does, such as by the pin in its URL.

Without a join token only secondaries on the primary's own machine may join.

` + exitHelp(exitRefused, exitLocal),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", EnvVars: []string{"KWIKCP_ROLE"}, Usage: "`ROLE` of this server: primary or secondary"},
			&cli.StringFlag{Name: "root", EnvVars: []string{"KWIKCP_ROOT"}, Value: ".", Usage: "serve the files below `DIR`"},
			&cli.StringFlag{Name: "listen", EnvVars: []string{"KWIKCP_LISTEN"}, Value: ":" + transfer.DefaultPort, Usage: "listen at UDP `ADDR`, host:port; port 0 means any"},
			&cli.StringFlag{Name: "primary", EnvVars: []string{"KWIKCP_PRIMARY"}, Usage: "a secondary's primary, `ADDR|URL`: host:port, or the URL that it printed"},
			&cli.StringFlag{Name: "advertise", EnvVars: []string{"KWIKCP_ADVERTISE"}, Usage: "`ADDR`, ip:port, under which clients reach a secondary (default: the one that the primary sees)"},
			&cli.StringFlag{Name: "join-token-file", EnvVars: []string{"KWIKCP_JOIN_TOKEN_FILE"}, Usage: "read the secret that secondaries prove to know from `FILE` (or set KWIKCP_JOIN_TOKEN)"},
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"KWIKCP_CACERT"}, Usage: "a secondary trusts a primary with a certificate of an authority in `FILE` (PEM)"},
			secondsFlag("drain-timeout", 30*time.Second, "after SIGTERM give clients that only this server can serve `TIME` to finish"),
			limitRateFlag("to all clients together"),
			&cli.StringFlag{Name: "log-format", EnvVars: []string{"KWIKCP_LOG_FORMAT"}, Value: "text", Usage: "write the log as `FORMAT`: text, or json, one object a line"},
			&cli.StringFlag{Name: "log-level", EnvVars: []string{"KWIKCP_LOG_LEVEL"}, Value: "info", Usage: "log `LEVEL` and above: debug, info, warn or error"},
			&cli.BoolFlag{Name: "mirror", EnvVars: []string{"KWIKCP_MIRROR"}, Usage: "a secondary fetches all that its primary serves into --root, and what changes there"},
			secondsFlag("mirror-interval", time.Minute, "with --mirror, look for changes every `TIME`"),
			&cli.BoolFlag{Name: "mirror-delete", EnvVars: []string{"KWIKCP_MIRROR_DELETE"}, Usage: "with --mirror, remove from --root what the primary does not have"},
			stateDirFlag,
		},
		Action: func(c *cli.Context) error {
			o, err := parseServe(c, t)
			if err != nil {
				return err
			}
			return o.run(c.Context)
		},
	}
}

// A serveCmd is a parsed serve command.
type serveCmd struct {
	t         *terminal
	log       *slog.Logger
	role      kwik.ServerRole
	root      string
	listen    string
	primary   transfer.URL // a secondary's
	advertise netip.AddrPort
	token     []byte
	stateDir  string
	policy    *trustPolicy
	patience  time.Duration // with clients, when it is to stop
	limit     *kwik.RateLimit
	mirror    *mirrorPlan // nil without --mirror
}

func parseServe(c *cli.Context, t *terminal) (*serveCmd, error) {
	const help = "kwikcp serve --help shows both forms"
	o := &serveCmd{t: t, root: c.String("root"), listen: c.String("listen"), patience: seconds(c, "drain-timeout")}
	if c.Args().Present() {
		return nil, usageError{fmt.Errorf("serve takes no argument such as %q", c.Args().First()), "the directory to serve is --root DIR"}
	}
	switch role := c.String("role"); role {
	case "primary":
		o.role = kwik.ServerRolePrimary
		for _, flag := range []string{"primary", "advertise"} {
			if c.String(flag) != "" {
				return nil, usageError{fmt.Errorf("--%s is for secondaries", flag), help}
			}
		}
	case "secondary":
		o.role = kwik.ServerRoleSecondary
		if c.String("primary") == "" {
			return nil, usageError{errors.New("a secondary needs --primary ADDR"), "ADDR is host:port of the primary, or the URL that it printed"}
		}
	case "":
		return nil, usageError{errors.New("--role is missing"), "--role primary, or --role secondary --primary ADDR"}
	default:
		return nil, usageError{fmt.Errorf("there is no role %q", role), "--role primary, or --role secondary --primary ADDR"}
	}
	if _, port, err := net.SplitHostPort(o.listen); err != nil || !isPort(port) {
		return nil, usageError{fmt.Errorf("--listen %q is not host:port", o.listen), "such as :4433, 127.0.0.1:0 or [::]:4433"}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, usageError{fmt.Errorf("there is no log level %q", c.String("log-level")), "debug, info, warn or error"}
	}
	var err error
	if o.log, err = newLog(t.stderr, c.String("log-format"), level); err != nil {
		return nil, err
	}
	if text := c.String("primary"); text != "" {
		if o.primary, err = parsePrimary(text); err != nil {
			return nil, usageError{fmt.Errorf("--primary %q: %w", withoutSecret(text), err), "host:port of the primary, or the URL that it printed"}
		}
	}
	if text := c.String("advertise"); text != "" {
		if o.advertise, err = netip.ParseAddrPort(text); err != nil || o.advertise.Port() == 0 {
			return nil, usageError{fmt.Errorf("--advertise %q is not ip:port", text), "such as 192.0.2.7:4433"}
		}
	}
	if o.limit, err = rateLimit(c); err != nil {
		return nil, err
	}
	if o.mirror, err = parseMirrorPlan(c, o.role); err != nil {
		return nil, err
	}
	if o.token, err = joinToken(c); err != nil {
		return nil, err
	}
	if o.stateDir, err = stateDir(c); err != nil {
		return nil, err
	}
	o.policy, err = newTrustPolicy(t, o.stateDir, c.String("cacert"))
	return o, err
}

// newLog returns a log in one of two formats. Both escape what comes from the network.
func newLog(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	switch options := (&slog.HandlerOptions{Level: level}); format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usageError{fmt.Errorf("there is no log format %q", format), "text or json"}
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

// joinToken returns the secret of --join-token-file or KWIKCP_JOIN_TOKEN, nil if there is none.
func joinToken(c *cli.Context) ([]byte, error) {
	name := c.String("join-token-file")
	token := []byte(os.Getenv("KWIKCP_JOIN_TOKEN"))
	if name != "" {
		var err error
		if token, err = os.ReadFile(name); err != nil {
			if errors.Is(err, fs.ErrNotExist) && looksSecret(name) {
				err = errors.New("there is no such file, and it looks like the secret itself, which has no place among arguments")
			}
			return nil, usageError{fmt.Errorf("--join-token-file: %w", err), "make one with: head -c 24 /dev/urandom | base64 > FILE"}
		}
	}
	token = bytes.TrimRight(token, "\r\n")
	switch {
	case len(token) == 0 && name != "":
		return nil, usageError{fmt.Errorf("--join-token-file: %q is empty", name), "make one with: head -c 24 /dev/urandom | base64 > FILE"}
	case len(token) > maxToken:
		return nil, usageError{fmt.Errorf("the join token is longer than %d bytes", maxToken), "a few dozen random characters are enough"}
	}
	return token, nil
}

func (o *serveCmd) run(ctx context.Context) error {
	op := fmt.Sprintf("serve --root %q", o.root)
	if info, err := os.Stat(o.root); err == nil && !info.IsDir() { // to open a FIFO would wait
		return transfer.LocalError(op, errors.New("not a directory"))
	}
	dir, err := disk.OpenTree(o.root, o.mirror != nil)
	if err != nil {
		return transfer.LocalError(op, err)
	}
	defer dir.Close()
	s, err := startServer(o, dir)
	if err != nil {
		return err
	}
	defer s.close()
	defer procs.Govern(func() bool { return s.listener.Sessions() > 1 })()
	if o.role == kwik.ServerRoleSecondary {
		if err := s.join(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil { // stopped while the primary was not there
			return nil
		}
		if o.mirror != nil {
			s.left.Go(s.keepMirror)
		}
	}
	if _, err := fmt.Fprintln(o.t.stdout, s.url); err != nil {
		return transfer.LocalError("print the URL", err)
	}
	o.log.Info("ready", "role", o.role.String(), "url", s.url.String(), "root", absolute(o.root))
	if machine, err := inspectUDP(); err == nil && machine.Advice() != "" {
		o.log.Warn(machine.Advice())
	}
	if s.noTrees != nil {
		o.log.Info("no index of what was hashed before, files are hashed anew", "reason", s.noTrees)
	}
	<-ctx.Done()
	o.log.Info("stopping", "reason", context.Cause(ctx))
	s.drain(o.patience)
	return nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// A runningServer is a server of this process. Its goroutines are the file server's loop and, on a secondary, the one
// that keeps the membership; close ends them and waits.
type runningServer struct {
	o        *serveCmd
	url      transfer.URL
	listener *kwik.Listener
	files    *serve.Server
	trees    *serve.TreeStore // nil if there is none
	noTrees  error            // why there is none
	cancel   context.CancelFunc
	ctx      context.Context
	wg       sync.WaitGroup

	member context.Context // ends when a secondary is to leave its primary
	leave  context.CancelFunc
	left   sync.WaitGroup // the goroutine that keeps the membership
}

func startServer(o *serveCmd, dir disk.Dir) (*runningServer, error) {
	cert, err := trust.LoadOrCreateIdentity(o.stateDir, time.Now())
	if err != nil {
		return nil, &transfer.Error{Kind: transfer.KindLocal, Op: "the server's key", Err: err}
	}
	s := &runningServer{o: o, files: serve.NewServer(dir, o.log)}
	reset := quic.StatelessResetKey(trust.StatelessResetKey(cert))
	traced, err := quicConfig()
	if err != nil {
		return nil, err
	}
	s.keepTrees()
	conf := &kwik.ServerConfig{
		Config: kwik.Config{QUIC: traced, RateLimit: o.limit}, Software: "kwikcp " + version(),
		Role: o.role, OpenContent: s.files.OpenContent, StatelessResetKey: &reset,
		OnMembership: func(id kwik.ServerID, addr netip.AddrPort, reason error) {
			if reason == nil {
				o.log.Info("secondary joined", "id", id, "addr", addr.String())
			} else {
				o.log.Info("secondary left", "id", id, "addr", addr.String(), "reason", reason)
			}
		},
		OnReject: func(session *kwik.ServerSession, path kwik.ServerID, offset int64, reason string) {
			o.log.Warn("a client got wrong bytes", "client", session.RemoteAddr().String(), "from", path, "offset", offset, "reason", reason)
		},
		Verify: s.files.Verify,
		OnSuspension: func(id kwik.ServerID, reason error) {
			if reason == nil {
				o.log.Info("secondary proved itself and is offered again", "id", id)
			} else {
				o.log.Error("secondary serves wrong bytes and is not offered until it serves right ones", "id", id, "reason", reason)
			}
		},
	}
	if o.role == kwik.ServerRolePrimary {
		conf.JoinToken = o.token
	}
	s.listener, err = kwik.ListenAddr(o.listen, serverTLS(cert), conf)
	if err != nil {
		s.closeFiles()
		err = &transfer.Error{Kind: transfer.KindLocal, Op: "listen at " + o.listen, Err: listenCause(err)}
		if errors.Is(err, syscall.EADDRINUSE) {
			err = hintedError{err, "choose another port with --listen HOST:PORT; port 0 means any"}
		}
		return nil, err
	}
	pin := trust.PinOf(cert.Leaf)
	s.url = transfer.URL{Host: reachable(s.listener.Addr(), o.advertise), Pin: &pin}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.member, s.leave = context.WithCancel(s.ctx)
	s.wg.Go(func() { s.files.Serve(s.ctx, s.listener) })
	return s, nil
}

// keepTrees gives a primary its index of the directory: what it hashed in earlier runs. Secondaries hash nothing.
func (s *runningServer) keepTrees() {
	if s.o.role != kwik.ServerRolePrimary {
		return
	}
	root := blake3.Sum256([]byte(absolute(s.o.root)))
	path := filepath.Join(s.o.stateDir, fmt.Sprintf("trees-%x.db", root[:8]))
	if s.trees, s.noTrees = serve.OpenTreeStore(path); s.noTrees == nil {
		s.files.KeepTrees(s.trees)
	}
}

// listenCause leaves out what the operation's name says already.
func listenCause(err error) error {
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		err = oe.Err
	}
	if se, ok := errors.AsType[*os.SyscallError](err); ok {
		err = se.Err
	}
	return err
}

// drain takes leave of the primary and of the clients, which takes no longer than patience.
func (s *runningServer) drain(patience time.Duration) {
	s.leave()
	s.left.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.listener.Shutdown(ctx, "server is stopped")
}

func (s *runningServer) close() {
	s.cancel()
	s.left.Wait()
	s.wg.Wait()
	s.closeFiles()
}

func (s *runningServer) closeFiles() {
	s.files.Close()
	if s.trees != nil {
		s.trees.Close()
	}
}

const (
	minRejoin = 500 * time.Millisecond
	maxRejoin = 10 * time.Second
)

// join joins the primary, waiting for it if it cannot be reached, and starts to keep the membership. Being refused is an
// error; later, when the server has worked already, it is only logged.
func (s *runningServer) join(ctx context.Context) error {
	wait := minRejoin
	for {
		m, err := s.joinOnce(ctx)
		if err == nil {
			s.left.Go(func() { s.keepMembership(m) })
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.o.policy.accepted(err) {
			continue
		}
		if e, ok := errors.AsType[*transfer.Error](err); !ok || e.Kind != transfer.KindNetwork {
			return err
		}
		s.o.log.Warn("primary not reached, trying again", "primary", s.o.primary.Host, "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, maxRejoin)
		}
	}
}

func (s *runningServer) joinOnce(ctx context.Context) (*kwik.Membership, error) {
	conf := kwik.JoinConfig{Token: s.o.token, Advertise: s.o.advertise, TLS: s.o.policy.config(s.o.primary)}
	if s.o.primary.Pin == nil && len(s.o.token) > 0 {
		conf.TLS = nil // the primary proves that it knows the token
	}
	m, err := s.listener.Join(ctx, s.o.primary.Host, conf)
	if err != nil {
		return nil, transfer.NetworkError("join the primary at "+s.o.primary.Host, err)
	}
	return m, nil
}

// keepMembership joins again whenever the membership ends, until it is to leave.
func (s *runningServer) keepMembership(m *kwik.Membership) {
	wait := minRejoin
	for {
		s.o.log.Info("joined", "primary", m.Primary().String(), "id", m.ID())
		select {
		case <-m.Context().Done():
			s.o.log.Warn("membership ended, joining again", "reason", context.Cause(m.Context()))
		case <-s.member.Done():
			m.Close()
			return
		}
		for m = nil; m == nil; {
			select {
			case <-s.member.Done():
				return
			case <-time.After(wait):
			}
			var err error
			if m, err = s.joinOnce(s.member); err != nil {
				wait = min(2*wait, maxRejoin)
				s.o.log.Warn("not joined", "err", err, "in", wait)
			} else {
				wait = minRejoin
			}
		}
	}
}
