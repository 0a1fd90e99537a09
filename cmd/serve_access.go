package cmd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/serve"
)

// An accessFiles is how a primary restricts access: the checked options, and the files that are
// read again when they change. One goroutine at a time calls reload.
type accessFiles struct {
	*serve.Access
	requireToken bool
	revoked      accessFile // of --revoked
	// settles is when the list of revoked tokens, which changed, may take names back; zero if it
	// has. A file that is being written lacks names for a moment.
	settles     time.Time
	authorities accessFile // of --client-ca
	log         *slog.Logger
}

// An accessFile is a file of accessFiles.
type accessFile struct {
	name    string // empty if the option was not given
	content []byte // that was used last, or could not be used
	failure string // why the file could not be used when it was read last
}

// parseServeAccess reads the files of the options; nil if clients are not restricted.
func parseServeAccess(o *serveOptions, role kwik.ServerRole, log *slog.Logger) (*accessFiles, error) {
	if !o.requireToken && o.revoked == "" && o.clientCA == "" {
		return nil, nil
	}
	switch {
	case role != kwik.ServerRolePrimary:
		return nil, usagef(adviseAccess, "--require-token, --revoked and --client-ca are for primaries: "+
			"a secondary serves only clients that its primary has accepted")
	case o.revoked != "" && !o.requireToken:
		return nil, usagef(adviseAccess, "--revoked needs --require-token")
	}
	a := &accessFiles{
		Access: serve.NewAccess(log), requireToken: o.requireToken, log: log,
		revoked: accessFile{name: o.revoked}, authorities: accessFile{name: o.clientCA},
	}
	if err := a.readRevoked(); err != nil {
		return nil, usagef(adviseRevoked, "--revoked: %w", err)
	}
	if err := a.readAuthorities(); err != nil {
		return nil, usagef(adviseCACert, "--client-ca: %w", err)
	}
	return a, nil
}

// errUnchanged means that a file has the content that was read last.
var errUnchanged = errors.New("unchanged")

// read returns the content of a file that has changed.
func (f *accessFile) read() ([]byte, error) {
	if f.name == "" {
		return nil, errUnchanged
	}
	content, err := readPEM(f.name, false)
	if err == nil && f.content != nil && bytes.Equal(content, f.content) {
		return nil, errUnchanged
	}
	if err == nil {
		f.content = append([]byte{}, content...)
	}
	return content, err
}

// revokedSettleTime is how long a list of revoked tokens must be unchanged before it takes names
// back.
const revokedSettleTime = certificateInterval / 2

// readRevoked uses the names of revoked tokens. New names count at once. Names that are missing
// from a changed list are taken back when it has not changed for a while. If a line is no name,
// none is taken back: an error must not make a token valid again.
func (a *accessFiles) readRevoked() error {
	isFirst := a.revoked.content == nil
	data, err := a.revoked.read()
	if errors.Is(err, errUnchanged) {
		a.settleRevoked()
		return nil
	}
	if err != nil {
		return err
	}
	names, err := trust.ParseRevoked(data)
	switch {
	case err != nil:
		a.settles = time.Time{}
		a.AddRevoked(names)
	case isFirst:
		a.SetRevoked(names)
	default:
		a.settles = time.Now().Add(revokedSettleTime)
		a.AddRevoked(names)
	}
	return err
}

// settleRevoked takes back the names that are missing from the list, once it is time.
func (a *accessFiles) settleRevoked() {
	if a.settles.IsZero() || time.Now().Before(a.settles) {
		return
	}
	a.settles = time.Time{}
	if names, err := trust.ParseRevoked(a.revoked.content); err == nil {
		a.SetRevoked(names)
	}
}

func (a *accessFiles) readAuthorities() error {
	pem, err := a.authorities.read()
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in it")
	}
	a.RequireCertificate(pool)
	return nil
}

// hasFiles reports whether reload has anything to do.
func (a *accessFiles) hasFiles() bool {
	return a != nil && (a.revoked.name != "" || a.authorities.name != "")
}

// reload reads the files again. A file that cannot be used changes nothing, and is logged once.
func (a *accessFiles) reload() {
	if a == nil {
		return
	}
	for _, f := range []struct {
		*accessFile
		option string
		use    func() error
	}{{&a.revoked, "--revoked", a.readRevoked}, {&a.authorities, "--client-ca", a.readAuthorities}} {
		before := f.content
		err := f.use()
		switch {
		case err != nil && err.Error() != f.failure:
			f.failure = err.Error()
			a.log.Error("the file cannot be used; what was read before stays",
				"option", f.option, "file", f.name, "err", err)
		case err == nil && !bytes.Equal(before, f.content):
			f.failure = ""
			a.log.Info("file reloaded", "option", f.option, "file", f.name)
		}
	}
}

// describe names what clients need, for logs and for clients that inspect the server.
func (s *runningServer) describe() string {
	switch {
	case s.role == kwik.ServerRoleSecondary:
		return "ticket"
	case s.access == nil:
		return "open"
	}
	return s.access.String()
}

// restrict has the listener and the file server demand what the options demand. identity has the
// server's own key, from which that of the tokens follows.
func (s *runningServer) restrict(config *kwik.ServerConfig, identity tls.Certificate) {
	if s.access != nil {
		if s.access.requireToken {
			s.access.RequireToken(trust.AccessKey(identity))
		}
		s.files.SetAccess(s.access.Access)
		config.Authorize = s.access.Authorize
	}
	config.Access = s.describe()
}
