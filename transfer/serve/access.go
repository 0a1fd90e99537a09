package serve

import (
	"crypto/x509"
	"errors"
	"kwikcp/internal/escape"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"
	"log/slog"
	"maps"
	"sync"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// An Access decides which clients of a primary may have a session, and what they may read. Its
// Authorize belongs into the kwik.ServerConfig of the listener, and the Access into the Server. If
// it demands both a token and a certificate, a client needs both.
//
// The methods are safe for concurrent use.
type Access struct {
	log *slog.Logger
	now func() time.Time

	mu          sync.Mutex
	tokenKey    *[32]byte      // nil: no token is needed
	authorities *x509.CertPool // nil: no certificate is needed
	revoked     map[string]bool
	sessions    map[*kwik.ServerSession]*grant // that are open
}

// NewAccess returns an Access that demands nothing yet.
func NewAccess(log *slog.Logger) *Access {
	return &Access{log: log, now: time.Now, sessions: make(map[*kwik.ServerSession]*grant)}
}

// RequireToken demands a token that was signed with a key.
func (a *Access) RequireToken(key [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokenKey = &key
}

// RequireCertificate demands a client certificate of one of the authorities. It may be called
// again; open sessions continue. The listener's tls.Config must request a certificate
// (tls.RequestClientCert). Authorize verifies it, so that a client learns why it is refused.
func (a *Access) RequireCertificate(authorities *x509.CertPool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.authorities = authorities
}

// SetRevoked replaces the names of revoked tokens. It ends the sessions of tokens that are among
// them.
func (a *Access) SetRevoked(names []string) { a.revoke(make(map[string]bool), names) }

// AddRevoked adds names to those of revoked tokens, and ends the sessions of their tokens.
func (a *Access) AddRevoked(names []string) {
	a.mu.Lock()
	before := maps.Clone(a.revoked)
	a.mu.Unlock()
	if before == nil {
		before = make(map[string]bool)
	}
	a.revoke(before, names)
}

// revoke makes the names of revoked, which it keeps, and further ones those of revoked tokens.
func (a *Access) revoke(revoked map[string]bool, names []string) {
	a.mu.Lock()
	a.revoked = revoked
	for _, name := range names {
		a.revoked[name] = true
	}
	var ended []*kwik.ServerSession
	for session, g := range a.sessions {
		if a.isRevoked(g) {
			ended = append(ended, session)
		}
	}
	a.mu.Unlock()
	for _, session := range ended {
		session.Revoke(wire.RefusedRevoked)
	}
}

// isRevoked reports whether the token of a grant is revoked. The caller holds the lock.
func (a *Access) isRevoked(g *grant) bool { return g.token != "" && a.revoked[g.token] }

// String names what a client needs, for logs and for clients that inspect the server: "open",
// "token", "certificate" or "token+certificate". A nil Access is open.
func (a *Access) String() string {
	if a == nil {
		return "open"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.tokenKey != nil && a.authorities != nil:
		return "token+certificate"
	case a.tokenKey != nil:
		return "token"
	case a.authorities != nil:
		return "certificate"
	}
	return "open"
}

// A grant is what one client may do. It does not change.
type grant struct {
	token   string // name of the token; empty without one
	subject string // of the client certificate; empty without one
	scope   scope
	expires time.Time // of the token or the certificate, whichever is earlier; zero means never
}

// An accessError is the refusal of a session or of a request, with the message for the client.
type accessError struct{ message string }

func (e accessError) Error() string { return e.message }

// Authorize is the Authorize of a kwik.ServerConfig.
func (a *Access) Authorize(r kwik.AuthorizeRequest) (kwik.Authorization, error) {
	g, err := a.decide(r)
	if err != nil {
		log := a.log
		if g.token != "" {
			log = log.With("token", g.token)
		}
		log.Info("client refused", "client", r.RemoteAddr.String(), "reason", err)
		return kwik.Authorization{}, kwik.NewError(kwik.ErrAccessRefused, err.Error())
	}
	return kwik.Authorization{Value: g, Expires: g.expires}, nil
}

// decide returns what a client may do. With an error the grant names the token if it is authentic.
func (a *Access) decide(r kwik.AuthorizeRequest) (*grant, error) {
	a.mu.Lock()
	key, authorities := a.tokenKey, a.authorities
	a.mu.Unlock()
	g := &grant{scope: everything}
	if authorities != nil {
		leaf, err := verifyClient(r.TLS.PeerCertificates, authorities, a.now())
		if err != nil {
			return g, err
		}
		g.subject, g.expires = escape.Reason(leaf.Subject.String(), 200), leaf.NotAfter
	}
	if key == nil {
		return g, nil
	}
	if len(r.Credential) == 0 {
		return g, accessError{wire.RefusedNoToken}
	}
	token, err := trust.CheckAccessToken(*key, string(r.Credential), a.now())
	g.token, g.scope = token.Name, scope(token.Paths)
	if !token.Expires.IsZero() && (g.expires.IsZero() || token.Expires.Before(g.expires)) {
		g.expires = token.Expires
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case errors.Is(err, trust.ErrTokenExpired):
		return g, accessError{wire.RefusedExpired}
	case errors.Is(err, trust.ErrTokenNotYet):
		return g, accessError{wire.RefusedNotYet}
	case err != nil:
		return g, accessError{wire.RefusedToken}
	case a.isRevoked(g):
		return g, accessError{wire.RefusedRevoked}
	}
	return g, nil
}

// verifyClient returns the certificate of a client, whose key has signed the handshake.
func verifyClient(chain []*x509.Certificate, authorities *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, accessError{wire.RefusedNoCert}
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: authorities, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return nil, accessError{wire.RefusedCertDates}
	}
	if err != nil {
		return nil, accessError{wire.RefusedCert}
	}
	return chain[0], nil
}

// SetAccess restricts what clients may read. It must be called before Serve. Without it every
// client may read everything.
func (s *Server) SetAccess(a *Access) { s.access = a }

// enter registers a new session, so that it ends when its token is revoked. leave must be called
// when it has ended. The error is why the session has no permission.
func (a *Access) enter(session *kwik.ServerSession) (leave func(), err error) {
	if a == nil || session.Role() != kwik.ServerRolePrimary { // further paths serve by tickets alone
		return func() {}, nil
	}
	g, ok := session.Authorization().Value.(*grant)
	if !ok {
		return func() {}, accessError{wire.RefusedNoToken}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isRevoked(g) { // since Authorize
		return func() {}, accessError{wire.RefusedRevoked}
	}
	a.sessions[session] = g
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, session)
	}, nil
}

// logGrant adds the name of a client's token, and its certificate, to the log of its session.
func logGrant(log *slog.Logger, session *kwik.ServerSession) *slog.Logger {
	g, ok := session.Authorization().Value.(*grant)
	if !ok {
		return log
	}
	if g.token != "" {
		log = log.With("token", g.token)
	}
	if g.subject != "" {
		log = log.With("certificate", g.subject)
	}
	return log
}

// scopeOf returns what the client of a session may read. The error is why it may read nothing any
// more.
func (s *Server) scopeOf(session *kwik.ServerSession) (scope, error) {
	if s.access == nil {
		return everything, nil
	}
	g, ok := session.Authorization().Value.(*grant)
	if !ok {
		return nil, accessError{wire.RefusedNoToken}
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	switch {
	case s.access.isRevoked(g):
		return nil, accessError{wire.RefusedRevoked}
	case !g.expires.IsZero() && !s.access.now().Before(g.expires):
		return nil, accessError{wire.RefusedExpired}
	}
	return g.scope, nil
}

// checkScope returns the scope of a session if a request is within it. Nothing has been opened
// yet: a client must not learn whether there is a path that it may not read. A batch may name
// other files as well, which fail alone.
func (s *Server) checkScope(session *kwik.ServerSession, request *transferpb.Request) (scope, error) {
	allowed, err := s.scopeOf(session)
	if err != nil {
		return nil, err
	}
	path, isDir := string(request.GetPath()), request.GetList() != nil || request.GetBatch() != nil
	if allowed.allows(path) || isDir && allowed.shows(path) {
		return allowed, nil
	}
	return nil, errForbidden
}

var errForbidden = accessError{wire.RefusedPath}
