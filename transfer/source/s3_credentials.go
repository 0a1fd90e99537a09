package source

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// metadataTimeout bounds the connection to a service for credentials. Where there is no such
	// service, its address often answers nothing.
	metadataTimeout = time.Second
	// roleTimeout bounds a whole request to it.
	roleTimeout = 10 * time.Second
	// anonymousFor is how long requests are not signed after no credentials were found.
	anonymousFor = 10 * time.Minute
)

// s3Credentials returns the credentials of the variables AWS_* and MINIO_*. Next are those of
// ~/.aws/credentials, and then those of the role of the machine, the container or the web identity.
// If there are none, requests are not signed: some buckets are public.
func s3Credentials() *credentials.Credentials {
	connect := &net.Dialer{Timeout: metadataTimeout}
	client := &http.Client{
		Timeout:   roleTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: connect.DialContext},
	}
	return credentials.New(&s3Chain{
		local: []credentials.Provider{
			&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{},
		},
		role: &credentials.IAM{Client: client}, now: time.Now,
	})
}

// An s3Chain tries providers of credentials. Unlike credentials.Chain it remembers that there are
// none, so that not each request waits for the metadata service. It keeps the error of a role that
// is configured, or that worked before: unsigned requests would then be refused without a reason.
// credentials.Credentials locks it.
type s3Chain struct {
	local []credentials.Provider
	role  credentials.Provider
	now   func() time.Time

	found          credentials.Provider // the last that had credentials; nil if none had
	anonymousUntil time.Time
}

// RetrieveWithCredContext implements credentials.Provider.
func (c *s3Chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	for _, p := range c.local {
		if v, err := p.RetrieveWithCredContext(cc); err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.found = p
			return v, nil
		}
	}
	mustHaveRole := c.found == c.role || isRoleConfigured()
	if !mustHaveRole && strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return c.anonymous(), nil
	}
	v, err := c.retrieveRole(cc, mustHaveRole)
	switch {
	case err == nil && v.AccessKeyID != "":
		c.found = c.role
		return v, nil
	case mustHaveRole && err == nil:
		return v, errNoCredentials
	case mustHaveRole:
		return v, &credentialsError{err}
	case cc != nil && cc.Context != nil && cc.Context.Err() != nil:
		return v, cc.Context.Err()
	}
	return c.anonymous(), nil
}

// retrieveRole asks the cloud. A role that may not exist gets little time.
func (c *s3Chain) retrieveRole(cc *credentials.CredContext, mustHaveRole bool) (credentials.Value, error) {
	if mustHaveRole {
		return c.role.RetrieveWithCredContext(cc)
	}
	ctx := context.Background()
	var with credentials.CredContext
	if cc != nil {
		if with = *cc; with.Context != nil {
			ctx = with.Context
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*metadataTimeout)
	defer cancel()
	with.Context = ctx
	return c.role.RetrieveWithCredContext(&with)
}

func (c *s3Chain) anonymous() credentials.Value {
	c.found = nil
	c.anonymousUntil = c.now().Add(anonymousFor)
	return credentials.Value{SignerType: credentials.SignatureAnonymous}
}

// Retrieve implements credentials.Provider.
func (c *s3Chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *s3Chain) IsExpired() bool {
	if c.found != nil {
		return c.found.IsExpired()
	}
	return !c.now().Before(c.anonymousUntil)
}

// isRoleConfigured reports whether the environment names a role or a service for credentials.
func isRoleConfigured() bool {
	for _, name := range []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

// A credentialsError is a failure of the service for credentials.
type credentialsError struct{ err error }

var errNoCredentials = &credentialsError{errors.New("it has none")}

func (e *credentialsError) Error() string { return "credentials of the role: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }
