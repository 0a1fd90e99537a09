package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	maxKnownHosts     = 1 << 20 // bytes of the file
	maxKnownHostsLine = 1024    // bytes of a line; a host name has at most 253
)

// KnownHosts is a text file that remembers which key a server had:
//
//	# comment
//	example.org:4433 jEt9…43 characters of the pin…  whatever follows is ignored
//	[2001:db8::1]:4433 q0uY…
//
// If a server has several lines, the last one counts. So recording one appends one line in one
// write, which needs no lock. Processes that record at the same time lose nothing, and none
// can die holding the file.
//
// Its methods may be called from several goroutines.
type KnownHosts struct {
	path string
}

// OpenKnownHosts returns the known hosts in the file at path. The file need
// not exist, Record makes it; each call of a method reads it again.
func OpenKnownHosts(path string) *KnownHosts { return &KnownHosts{path} }

// Path returns the name of the file, for messages.
func (k *KnownHosts) Path() string { return k.path }

// A CorruptLineError reports that a known-hosts file has a line that cannot be
// read, and nothing about the host in question in its other lines. Whether the host is
// known cannot be determined.
type CorruptLineError struct {
	Path string
	Line int // of the first such line, from 1
	Err  error
}

func (e *CorruptLineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err) }
func (e *CorruptLineError) Unwrap() error { return e.Err }

// Lookup returns the pin recorded for hostport, and whether there is one. The
// error is about hostport, or that the file cannot be read or is too long, or,
// if no readable line matches, a *CorruptLineError. Callers must not treat an
// error as "unknown": that would let damage to the file undo trust.
func (k *KnownHosts) Lookup(hostport string) (Pin, bool, error) {
	host, err := canonical(hostport)
	if err != nil {
		return Pin{}, false, err
	}
	data, err := k.read()
	if err != nil {
		return Pin{}, false, err
	}
	pin, line, bad := find(data, host)
	found := line > 0
	if !found && bad != nil {
		bad.Path = k.path
		return Pin{}, false, bad
	}
	return pin, found, nil
}

// Line returns the number of the line, from 1, that counts for hostport; 0 if there is none or the
// file cannot be read.
func (k *KnownHosts) Line(hostport string) int {
	host, err := canonical(hostport)
	if err != nil {
		return 0
	}
	data, err := k.read()
	if err != nil {
		return 0
	}
	_, line, _ := find(data, host)
	return line
}

// unconfirmed follows the pin of a host that was recorded without a question.
const unconfirmed = "unconfirmed"

// Confirmed reports whether the pin recorded for hostport was confirmed: a user accepted it. No
// secret should be sent to other hosts.
func (k *KnownHosts) Confirmed(hostport string) bool {
	host, err := canonical(hostport)
	if err != nil {
		return false
	}
	data, err := k.read()
	if err != nil {
		return false
	}
	_, line, _ := find(data, host)
	return line > 0 && isConfirmed(data, line)
}

// isConfirmed reports whether a line of data, counted from 1, is that of a confirmed host.
func isConfirmed(data []byte, number int) bool {
	for line := range bytes.Lines(data) {
		if number--; number == 0 {
			fields := strings.Fields(string(line))
			return len(fields) < 3 || fields[2] != unconfirmed
		}
	}
	return false
}

// Record remembers pin for hostport from now on, in place of any other. It
// makes the file (0600) and its directory (0700) if needed, and writes nothing
// if that pin is known and confirmed already.
func (k *KnownHosts) Record(hostport string, pin Pin) error { return k.record(hostport, pin, "") }

// RecordUnconfirmed is Record for a host that no user has accepted. A confirmed host stays
// confirmed.
func (k *KnownHosts) RecordUnconfirmed(hostport string, pin Pin) error {
	return k.record(hostport, pin, " "+unconfirmed)
}

func (k *KnownHosts) record(hostport string, pin Pin, note string) error {
	host, err := canonical(hostport)
	if err != nil {
		return err
	}
	data, err := k.read()
	if err != nil {
		return err
	}
	if old, line, _ := find(data, host); line > 0 && old == pin && (note != "" || isConfirmed(data, line)) {
		return nil
	}
	line := host + " " + pin.String() + note + "\n"
	if len(data) > 0 && data[len(data)-1] != '\n' {
		line = "\n" + line // ends what an editor or a power cut left open
	}
	if len(data)+len(line) > maxKnownHosts {
		return k.tooLong()
	}
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	f, err := os.OpenFile(k.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	if err := fill(f, []byte(line)); err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	return nil
}

// read returns the file's bytes, none if there is no file. A file that is too
// long is an error, for its end is what counts.
func (k *KnownHosts) read() ([]byte, error) {
	f, err := os.Open(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKnownHosts+1))
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	if len(data) > maxKnownHosts {
		return nil, k.tooLong()
	}
	return data, nil
}

func (k *KnownHosts) tooLong() error {
	return fmt.Errorf("known hosts: %s would exceed %d bytes; remove old lines", k.path, maxKnownHosts)
}

// find returns the last pin that data has for host and the number of its line, 0 if there is none.
// host is in canonical form. It also returns the first line that it cannot read, if any.
func find(data []byte, host string) (pin Pin, at int, bad *CorruptLineError) {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		h, p, err := parseLine(line)
		switch {
		case err != nil:
			if bad == nil {
				bad = &CorruptLineError{Line: number, Err: err}
			}
		case h == host:
			pin, at = p, number
		}
	}
	return pin, at, bad
}

// parseLine reads one line; host is "" if it is blank or a comment.
func parseLine(line []byte) (host string, pin Pin, err error) {
	if len(line) > maxKnownHostsLine {
		return "", Pin{}, fmt.Errorf("line longer than %d bytes", maxKnownHostsLine)
	}
	fields := strings.Fields(string(line))
	if len(fields) == 0 || fields[0][0] == '#' {
		return "", Pin{}, nil
	}
	if len(fields) < 2 {
		return "", Pin{}, errors.New("no pin after the host")
	}
	if host, err = canonical(fields[0]); err != nil {
		return "", Pin{}, err
	}
	if pin, err = ParsePin(fields[1]); err != nil {
		return "", Pin{}, err
	}
	return host, pin, nil
}

// canonical returns hostport in the one form in which it is written and compared. Names are in
// lower case without a final dot, addresses as netip prints them, ports without leading zeros.
// It refuses everything but addresses and ASCII host names (an international one has its xn--
// form). This keeps white space, control characters and "#" out of the file.
func canonical(hostport string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("%.80q: %s", hostport, why)
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return refuse("not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return refuse("no port from 1 to 65535")
	}
	port = strconv.FormatUint(n, 10)
	ip, err := netip.ParseAddr(host)
	if err == nil && isPlain(ip.Zone()) {
		return net.JoinHostPort(ip.Unmap().String(), port), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(host) > 253 || !isPlain(host) || slices.Contains(strings.Split(host, "."), "") {
		return refuse("not a host name")
	}
	return net.JoinHostPort(host, port), nil
}

// isPlain reports whether s has only letters, digits and ".-_" of ASCII.
func isPlain(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
