package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
)

const (
	maxCredentials     = 1 << 20 // bytes of the file
	maxCredentialsLine = 2048    // bytes of a line
)

// Credentials is a text file with the access tokens of a client, one server a line:
//
//	# comment
//	files.example.org:4433 kwikcp1_…
//	[2001:db8::1] kwikcp1_…
//
// A line without a port is for the default port. If a server has several lines, the last one
// counts. Only the owner may be able to read the file.
type Credentials struct {
	path string
	port string // the default port
}

// OpenCredentials returns the credentials in the file at path, which need not exist. Lookup reads
// it again at each call.
func OpenCredentials(path, defaultPort string) *Credentials { return &Credentials{path, defaultPort} }

// Path returns the name of the file, for messages.
func (c *Credentials) Path() string { return c.path }

// Lookup returns the token for hostport, empty if there is none. An error means that the file
// cannot be used; it does not contain text of the file.
func (c *Credentials) Lookup(hostport string) (string, error) {
	host, err := canonical(hostport)
	if err != nil {
		return "", err
	}
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // nor can there be one
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("mode %#o opens it to other users; chmod it to 0600", info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxCredentials {
		return "", fmt.Errorf("it is longer than %d bytes", maxCredentials)
	}
	return findCredential(data, host, c.port)
}

// findCredential returns the last token for a host in canonical form. A line that cannot be read is
// an error: it may be the one for the host.
func findCredential(data []byte, host, defaultPort string) (token string, err error) {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		h, t, err := parseCredential(line, defaultPort)
		if err != nil {
			return "", fmt.Errorf("line %d: %w", number, err)
		}
		if h == host {
			token = t
		}
	}
	return token, nil
}

// parseCredential reads one line; host is "" if it is blank or a comment. An error does not contain
// the line, which may have the token in the wrong place.
func parseCredential(line []byte, defaultPort string) (host, token string, err error) {
	if len(line) > maxCredentialsLine {
		return "", "", fmt.Errorf("it is longer than %d bytes", maxCredentialsLine)
	}
	fields := strings.Fields(string(line))
	if len(fields) == 0 || fields[0][0] == '#' {
		return "", "", nil
	}
	if len(fields) != 2 {
		return "", "", errors.New("it is not HOST[:PORT] TOKEN")
	}
	host, token = fields[0], fields[1]
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
	}
	if host, err = canonical(host); err != nil {
		return "", "", errors.New("it does not begin with the name or address of a host")
	}
	if len(token) > MaxTokenText {
		return "", "", fmt.Errorf("the token is longer than %d bytes", MaxTokenText)
	}
	return host, token, nil
}
