package cmd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

// This file is what a client presents to servers: access tokens and a certificate.

// tokens are the access tokens of a client: that of --token-file or KWIKCP_TOKEN, and those of the
// credentials file. A token is sent only to a server that was authenticated (trustPolicy).
type tokens struct {
	given string // of the command line or the environment; empty if there is none
	from  string // the file of --token-file; empty for the environment
	// only is the server that gets the given token; empty for every server that the command
	// names.
	only string
	// credentials are those of the state directory; nil without one.
	credentials *trust.Credentials
}

// openTokens reads the token of --token-file, or without one that of KWIKCP_TOKEN. An empty state
// is that there is no state directory.
func openTokens(file, state string) (*tokens, error) {
	t := &tokens{from: file}
	if state != "" {
		t.credentials = trust.OpenCredentials(filepath.Join(state, "credentials"), transfer.DefaultPort)
	}
	var err error
	t.given, err = readToken(file)
	return t, err
}

func readToken(file string) (string, error) {
	text := []byte(os.Getenv("KWIKCP_TOKEN"))
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			isToken := strings.HasPrefix(file, trust.TokenPrefix) || looksSecret(file)
			if errors.Is(err, fs.ErrNotExist) && isToken {
				err = errors.New("no such file; the value looks like the token itself, which must not be an argument")
			}
			return "", usagef(adviseTokenFile, "--token-file: %w", err)
		}
		defer f.Close()
		if text, err = io.ReadAll(io.LimitReader(f, 2*trust.MaxTokenText)); err != nil {
			return "", usagef(adviseTokenFile, "--token-file: %w", err)
		}
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0 && file != "":
		return "", usagef(adviseTokenFile, "--token-file: %q is empty", file)
	case len(text) > trust.MaxTokenText:
		return "", usagef(adviseTokenFile, "the token is longer than %d bytes", trust.MaxTokenText)
	}
	return string(text), nil
}

// refresh reads --token-file again, so that a server that runs for long notices a new token. If the
// file cannot be read the token stays.
func (t *tokens) refresh() {
	if t.from == "" {
		return
	}
	if text, err := readToken(t.from); err == nil {
		t.given = text
	}
}

// forServer returns the token to present to a server; empty if there is none.
func (t *tokens) forServer(hostport string) (string, error) {
	if t == nil {
		return "", nil
	}
	if t.given != "" && (t.only == "" || strings.EqualFold(t.only, hostport)) {
		return t.given, nil
	}
	if t.credentials == nil {
		return "", nil
	}
	token, err := t.credentials.Lookup(hostport)
	if err != nil {
		return "", transfer.LocalError(fmt.Sprintf("read the tokens in %q", t.credentials.Path()), err)
	}
	return token, nil
}

// bindTo reserves the given token for the server of a URL, unless it is for one already. A list may
// name several servers: the token of one must not reach another.
func (t *tokens) bindTo(url string) {
	if t.only != "" {
		return
	}
	if u, err := transfer.ParseURL(url); err == nil {
		t.only = u.Host
	}
}

// readClientCertificate reads the certificate of --cert and --key; nil if neither was given.
func readClientCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	switch {
	case certFile == "" && keyFile == "":
		return nil, nil
	case certFile == "" || keyFile == "":
		return nil, usagef(adviseClientCert, "--cert and --key go together")
	}
	cert, err := readPEM(certFile, false)
	if err != nil {
		return nil, usagef(adviseClientCert, "--cert: %w", err)
	}
	key, err := readPEM(keyFile, true)
	if err != nil {
		return nil, usagef(adviseClientCert, "--key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, usagef(adviseClientCert, "--cert %q and --key %q: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

// presenting returns conf with a client certificate, which is shown whatever authorities the server
// names: its refusal says more than a missing certificate. nil presents none.
func presenting(conf *tls.Config, cert *tls.Certificate) *tls.Config {
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return conf
}
