package cmd

import (
	"crypto/tls"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// This file has the options that several commands share, and the constructors of all options. The
// default of an option is what its variable holds when the option is made.

// variableOf returns the environment variable of an option.
func variableOf(name string) string {
	return "KWIKCP_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func boolOption(to *bool, name, usage string, aliases ...string) *cli.BoolFlag {
	return &cli.BoolFlag{
		Name: name, Aliases: aliases, EnvVars: []string{variableOf(name)}, Usage: usage, Destination: to,
		DisableDefaultText: true, // every one of them is off
	}
}

func stringOption(to *string, name, usage string, aliases ...string) *cli.StringFlag {
	return &cli.StringFlag{
		Name: name, Aliases: aliases, EnvVars: []string{variableOf(name)}, Usage: usage, Value: *to, Destination: to,
	}
}

// A repeatedValue is the value of an option that may be repeated. Values of the command line replace
// that of the environment (commandLine.checkGiven). It implements flag.Value.
type repeatedValue struct{ list []string }

func repeatedOption(to *repeatedValue, name, usage string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, EnvVars: []string{variableOf(name)}, Usage: usage, Value: to}
}

// Set implements flag.Value.
func (v *repeatedValue) Set(text string) error {
	v.list = append(v.list, text)
	return nil
}

// String implements flag.Value.
func (v *repeatedValue) String() string { return "" }

// A countValue is the value of an option for a number of things. It implements flag.Value.
type countValue struct{ int }

func countOption(to *countValue, name, usage string, aliases ...string) *cli.GenericFlag {
	return &cli.GenericFlag{
		Name: name, Aliases: aliases, EnvVars: []string{variableOf(name)}, Usage: usage, Value: to,
	}
}

// Set implements flag.Value.
func (v *countValue) Set(text string) (err error) {
	v.int, err = parseCount(text)
	return err
}

// String implements flag.Value.
func (v *countValue) String() string {
	if v == nil {
		return ""
	}
	return strconv.Itoa(v.int)
}

// secondsOption returns an option for a time.
func secondsOption(to *secondsValue, name, usage string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, EnvVars: []string{variableOf(name)}, Usage: usage, Value: to}
}

// A secondsValue is the value of an option for a time. It implements flag.Value.
type secondsValue struct{ time.Duration }

// Set implements flag.Value.
func (v *secondsValue) Set(text string) (err error) {
	v.Duration, err = parseTime(text)
	return err
}

// String implements flag.Value.
func (v *secondsValue) String() string {
	if v == nil || v.Duration == 0 {
		return ""
	}
	return v.Duration.String()
}

// A jsonFlag is the option --json.
type jsonFlag struct {
	*cli.BoolFlag
	// notStarted prints the result of a command that was not called because of an error in its
	// options.
	notStarted func(*events, error)
}

func jsonOption(to *bool, notStarted func(*events, error)) *jsonFlag {
	return &jsonFlag{boolOption(to, "json", "print events on stdout, one JSON object per line"), notStarted}
}

func quietOption(to *bool) cli.Flag {
	return boolOption(to, "quiet", "print errors only", "q")
}

func caCertOption(to *string) cli.Flag {
	return stringOption(to, "cacert", "trust the certificate authorities in `FILE` (PEM) instead of the system's")
}

func tokenFileOption(to *string, usage string) cli.Flag { return stringOption(to, "token-file", usage) }

// clientOptions are the options of a command that connects to a primary.
type clientOptions struct {
	caCert         string
	cert, key      string
	tokenFile      string
	ipv4, ipv6     bool
	connectTimeout secondsValue
	stateDir       string
}

func newClientOptions() clientOptions {
	return clientOptions{connectTimeout: secondsValue{Duration: transfer.DefaultConnectTimeout}}
}

// flags returns them but for --state-dir, which ends the list of a command.
func (o *clientOptions) flags() []cli.Flag {
	return []cli.Flag{
		caCertOption(&o.caCert),
		tokenFileOption(&o.tokenFile, "present the token in `FILE` to the server (or set KWIKCP_TOKEN)"),
		stringOption(&o.cert, "cert", "show the client certificate in `FILE` (PEM) to a server that requires one"),
		stringOption(&o.key, "key", "read the private key of --cert from `FILE` (PEM)"),
		boolOption(&o.ipv4, "ipv4", "use IPv4 addresses only", "4"),
		boolOption(&o.ipv6, "ipv6", "use IPv6 addresses only", "6"),
		secondsOption(&o.connectTimeout, "connect-timeout", "give up if the primary has not answered after `TIME`"),
	}
}

// A client is how a command connects to a primary: the checked clientOptions.
type client struct {
	family         kwik.AddressFamily
	connectTimeout time.Duration
	policy         *trustPolicy
	secrets        *disk.Secrets    // which no mirror may change
	tokens         *tokens          // nil presents none
	certificate    *tls.Certificate // nil presents none
}

func (o *clientOptions) parse(t *terminal) (c client, err error) {
	c.connectTimeout = o.connectTimeout.Duration
	if c.connectTimeout == 0 {
		return c, usagef(adviseConnectTimeout, "--connect-timeout must be more than 0")
	}
	switch {
	case o.ipv4 && o.ipv6:
		return c, usagef(adviseFamily, "-4 and -6 exclude each other")
	case o.ipv4:
		c.family = kwik.IPv4
	case o.ipv6:
		c.family = kwik.IPv6
	}
	state, missing := stateDir(o.stateDir)
	c.secrets = newSecrets(state, o.tokenFile, o.key, keyLogFile())
	if c.tokens, err = openTokens(o.tokenFile, state); err != nil {
		return c, err
	}
	if c.certificate, err = readClientCertificate(o.cert, o.key); err != nil {
		return c, err
	}
	if c.policy, err = newTrustPolicy(t, state, o.caCert); err != nil {
		return c, err
	}
	c.policy.missing = missing
	return c, nil
}

// config returns the configuration of a session with a server.
func (c client) config(u transfer.URL) (*kwik.ClientConfig, error) {
	traced, err := quicConfig()
	if err != nil {
		return nil, err
	}
	token, err := c.tokens.forServer(u.Host)
	if err != nil {
		return nil, err
	}
	return &kwik.ClientConfig{
		Config: kwik.Config{QUIC: traced, Family: c.family}, Credential: []byte(token),
	}, nil
}

// source returns a directory of a primary, and how to connect to it.
func (c client) source(u transfer.URL) (transfer.MirrorSource, error) {
	config, err := c.config(u)
	if err != nil {
		return transfer.MirrorSource{}, err
	}
	return transfer.MirrorSource{URL: u, TLS: c.tls(u, config), ConnectTimeout: c.connectTimeout, KWIK: config}, nil
}

// tls returns the TLS configuration of a session with a server. With a credential in config the
// server must be authenticated.
func (c client) tls(u transfer.URL, config *kwik.ClientConfig) *tls.Config {
	return presenting(c.policy.config(u, len(config.Credential) > 0), c.certificate)
}

// sparseOptions are --sparse and --no-sparse.
type sparseOptions struct{ on, off bool }

func sparseOption(to *bool) cli.Flag {
	return boolOption(to, "sparse", "keep the holes of files, and do not fetch them (the default)")
}

func noSparseOption(to *bool) cli.Flag {
	return boolOption(to, "no-sparse", "fetch and write all bytes of files, also where the server's have holes")
}

func preallocateOption(to *string) cli.Flag {
	return stringOption(to, "preallocate", "reserve free space for files: `auto`, none or full; auto: for large "+
		"files, not where it defeats compression")
}

func parsePreallocate(text string) (disk.Preallocation, error) {
	p, err := disk.ParsePreallocation(text)
	if err != nil {
		return p, usagef(advisePreallocate, "--preallocate %w", err)
	}
	return p, nil
}

// check returns an error if both are set.
func (o sparseOptions) check() error {
	if o.on && o.off {
		return usagef(adviseSparse, "--sparse and --no-sparse exclude each other")
	}
	return nil
}
