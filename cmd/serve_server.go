package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/zeebo/blake3"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

// A runningServer is a server of this process. Its goroutines are the loop of the file server
// and, on a secondary, those that keep the membership and the mirror. close ends them and waits.
type runningServer struct {
	serveConfig
	url      transfer.URL
	served   source.Root  // the caller of startServer closes it
	target   disk.TreeDir // the root at the start, which a mirror alone writes to; nil without --mirror
	listener *kwik.Listener
	files    *serve.Server
	trees    *serve.TreeStore // nil if there is none
	noTrees  error            // why there is none
	cancel   context.CancelFunc
	ctx      context.Context
	wg       sync.WaitGroup // the loop of the file server

	identity   tls.Certificate // of server.key
	reloads    chan struct{}   // has an element if SIGHUP has arrived
	keyChanged chan struct{}   // has an element if the key of the certificate is another one

	member      context.Context // ends when a secondary must leave its primary
	leave       context.CancelFunc
	memberTasks sync.WaitGroup // the goroutines that need the membership
}

// startServer starts a server of a root.
func startServer(c serveConfig, root source.Root) (*runningServer, error) {
	cert, err := trust.LoadOrCreateIdentity(c.stateDir, time.Now())
	if err != nil {
		return nil, &transfer.Error{Kind: transfer.KindLocal, Op: "load the server's key", Err: err}
	}
	traced, err := quicConfig()
	if err != nil {
		return nil, err
	}
	s := &runningServer{
		serveConfig: c, served: root, files: serve.NewServer(root, c.log),
		identity: cert, reloads: make(chan struct{}, 1), keyChanged: make(chan struct{}, 1),
	}
	s.files.NameWebMirrors(c.webMirrors...)
	if c.exclude != nil {
		s.files.Exclude(func(path string, isDir bool) bool { return !c.exclude.filter.Wants(path, isDir) })
		s.files.ExcludeFolded(func(path string, isDir bool) bool { return !c.exclude.folded.Wants(path, isDir) })
	}
	if c.mirror != nil {
		if s.target, err = disk.OpenTree(c.root, false); err != nil {
			s.closeFiles()
			return nil, transfer.LocalError(c.op(), err)
		}
	}
	s.openTrees()
	if bucket, ok := root.(*servedBucket); ok && c.role == kwik.ServerRolePrimary {
		s.files.ShareTrees(bucket.trees, c.bucket.publishTrees)
	}
	config := s.listenConfig(cert)
	config.QUIC = traced
	s.restrict(config, cert)
	s.listener, err = kwik.ListenAddr(c.listen, s.serverTLS(cert), config)
	if err != nil {
		s.closeFiles()
		return nil, &transfer.Error{Kind: transfer.KindLocal, Op: "listen at " + c.listen, Err: listenCause(err)}
	}
	s.url = s.urlOf(cert)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.member, s.leave = context.WithCancel(s.ctx)
	s.wg.Go(func() { s.files.Serve(s.ctx, s.listener) })
	if c.certificate != nil || c.access.hasFiles() {
		s.wg.Go(func() { s.keepFiles(s.ctx) })
	}
	return s, nil
}

// urlOf returns the URL to print. It has the pin of the server's key, unless an authority vouches
// for the certificate: its key may change with each renewal.
func (s *runningServer) urlOf(identity tls.Certificate) transfer.URL {
	u := transfer.URL{Host: reachableAddress(s.listener.Addr(), s.advertise)}
	leaf := identity.Leaf
	if s.certificate != nil {
		leaf = s.certificate.current.Load().Leaf
		u.Host = hostOf(leaf, u.Host)
	}
	if s.certificate == nil || isSelfSigned(leaf) {
		pin := trust.PinOf(leaf)
		u.Pin = (*[32]byte)(&pin)
	}
	return u
}

// listenConfig returns the KWIK configuration of the listener.
func (s *runningServer) listenConfig(cert tls.Certificate) *kwik.ServerConfig {
	// The secrets follow from server.key whatever certificate is shown, so that primaries with the
	// same server.key accept each other's tickets.
	reset, token := quic.StatelessResetKey(trust.StatelessResetKey(cert)), quic.TokenGeneratorKey(trust.TokenKey(cert))
	tickets := trust.TicketKey(cert)
	config := &kwik.ServerConfig{
		Config: kwik.Config{RateLimit: s.limit}, Software: "kwikcp " + version(), Role: s.role,
		OpenContent: s.files.OpenContent,
		MemoryLimit: s.maxMemory, MaxContents: openContents(),
		StatelessResetKey: &reset, TokenKey: &token, TicketKey: &tickets, Verify: s.files.Verify,
		Recheck: s.files.Recheck, ChallengeDescriptor: s.files.ChallengeDescriptor,
		OnRefusal: func(from netip.Prefix, reason string, count int) {
			s.log.Warn("server is busy: connections refused", "reason", reason, "count", count, "last", from.String())
		},
		OnMembership: func(id kwik.ServerID, addr netip.AddrPort, reason error) {
			if reason == nil {
				s.log.Info("secondary joined", "id", id, "addr", addr.String())
			} else {
				s.log.Info("secondary left", "id", id, "addr", addr.String(), "reason", reason)
			}
		},
		OnPanic: func(client net.Addr, err *kwik.PanicError) {
			log := s.log
			if client != nil {
				log = log.With("client", client.String())
			}
			log.Error("internal error; please report it", "panic", err.Text(), "stack", strings.Join(err.Frames, " < "))
		},
		OnJoinFailure: func(addr netip.AddrPort, reason error) {
			s.log.Warn("join refused", "addr", addr.String(), "reason", reason)
		},
		OnReject: func(session *kwik.ServerSession, path kwik.ServerID, offset int64, reason string) {
			s.log.Warn("client rejected bytes", "client", session.RemoteAddr().String(), "from", path,
				"offset", offset, "reason", reason)
		},
		OnSuspension: func(id kwik.ServerID, reason error) {
			if reason == nil {
				s.log.Info("secondary resumed", "id", id)
			} else {
				s.log.Error("secondary suspended until it serves correct bytes", "id", id, "reason", reason)
			}
		},
		OnUnreachable: func(id kwik.ServerID, addr netip.AddrPort, client netip.Prefix, reason string) {
			s.log.Warn("client cannot reach secondary; its network is offered it less for a while", "id", id,
				"addr", addr.String(), "client", client.String(), "reason", reason, "hint", advices[adviseUnreachable])
		},
	}
	if s.role == kwik.ServerRolePrimary {
		config.JoinToken = s.token
	}
	return config
}

// serverTLS returns the TLS configuration, which shows the certificate of --cert if there is one.
func (s *runningServer) serverTLS(identity tls.Certificate) *tls.Config {
	conf := &tls.Config{KeyLogWriter: keyLog(), SessionTicketsDisabled: true}
	if s.certificate != nil {
		conf.GetCertificate = s.certificate.get
	} else {
		conf.Certificates = []tls.Certificate{identity}
	}
	if s.access != nil && s.access.authorities.name != "" {
		conf.ClientAuth = tls.RequestClientCert // serve.Access verifies it
	}
	return conf
}

// ownCertificate returns the certificate that the server shows, to clients and as a client.
func (s *runningServer) ownCertificate() *tls.Certificate {
	if s.certificate != nil {
		return s.certificate.current.Load()
	}
	return &s.identity
}

// openTrees opens the index of the directory: the hash trees of earlier runs. Secondaries have
// none, unless they scrub.
func (s *runningServer) openTrees() {
	if s.role != kwik.ServerRolePrimary && s.scrub == 0 {
		return
	}
	root := blake3.Sum256([]byte(s.rootName()))
	path := filepath.Join(s.stateDir, fmt.Sprintf("trees-%x.db", root[:8]))
	if s.trees, s.noTrees = serve.OpenTreeStore(path); s.noTrees == nil {
		s.files.KeepTrees(s.trees)
		if s.scrub > 0 {
			s.files.Scrub(s.scrub, serve.ScrubRate)
		}
	}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// listenCause omits what the operation's name already contains.
func listenCause(err error) error {
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		err = oe.Err
	}
	if se, ok := errors.AsType[*os.SyscallError](err); ok {
		err = se.Err
	}
	return err
}

// printPatience is how long a server waits for the reader of its URL before it goes on.
const printPatience = 100 * time.Millisecond

// run serves until ctx ends, then drains.
func (s *runningServer) run(ctx context.Context) error {
	if s.role == kwik.ServerRoleSecondary {
		if err := s.join(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil { // stopped before it joined
			return nil
		}
		if s.mirror != nil {
			s.memberTasks.Go(s.keepMirror)
		}
	}
	s.warnOfRoot()
	printed := make(chan error, 1)
	s.wg.Go(func() { // ends when the URL is printed, or soon after the end of ctx
		_, err := fmt.Fprintln(s.t.stdout, s.url)
		printed <- err
		close(printed)
	})
	select { // the URL is first where both outputs are one
	case err := <-printed:
		if err != nil && ctx.Err() == nil {
			return transfer.LocalError("print the URL", err)
		}
	case <-time.After(printPatience):
	}
	s.log.Info("ready", "role", s.role.String(), "url", s.url.String(), "root", s.rootName(),
		"access", s.describe())
	if machine, err := inspectUDP(); err == nil && machine.Advice() != "" {
		s.log.Warn(machine.Advice())
	}
	if s.noTrees != nil {
		level := slog.LevelWarn
		if errors.Is(s.noTrees, serve.ErrStoreBusy) { // two servers of one directory are no fault
			level = slog.LevelInfo
		}
		s.log.Log(ctx, level, "no index of hash trees; files are hashed again after a restart", "err", s.noTrees)
	}
	select {
	case err := <-printed:
		if err != nil && ctx.Err() == nil {
			return transfer.LocalError("print the URL", err)
		}
		<-ctx.Done()
	case <-ctx.Done():
	}
	s.log.Info("stopping", "reason", context.Cause(ctx))
	s.drain()
	return nil
}

// drain leaves the primary and lets clients finish, for drainTimeout at most.
func (s *runningServer) drain() {
	s.leave()
	s.memberTasks.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), s.drainTimeout)
	defer cancel()
	s.listener.Shutdown(ctx, "server is stopped")
}

func (s *runningServer) close() {
	s.cancel()
	s.memberTasks.Wait()
	s.wg.Wait()
	s.closeFiles()
}

func (s *runningServer) closeFiles() {
	s.files.Close()
	if s.target != nil {
		s.target.Close()
	}
	if s.trees != nil {
		s.trees.Close()
	}
}
