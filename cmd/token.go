package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/escape"
	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

// tokenOptions are the options of token.
type tokenOptions struct {
	allow    repeatedValue
	expires  string
	name     string
	show     string
	stateDir string
}

func (o *tokenOptions) flags() []cli.Flag {
	return []cli.Flag{
		repeatedOption(&o.allow, "allow", "let clients read `PATH` on the server: /DIR/ and everything below it, "+
			"/FILE alone, or /; may be repeated"),
		stringOption(&o.expires, "expires", "let the token expire after `TIME`, such as 30d or 12h, or at the end "+
			"of a day (2027-01-31, UTC), or never"),
		stringOption(&o.name, "name", "give the token `NAME`, which logs show and which serve --revoked takes back"),
		stringOption(&o.show, "show", "print the content of the token in `FILE`, unchecked; - is standard input"),
		stateDirOption(&o.stateDir),
	}
}

func tokenCommand(t *terminal) *cli.Command {
	o := &tokenOptions{}
	return &cli.Command{
		Name:  "token",
		Usage: "make a token that lets a client read some paths of a primary",
		UsageText: "kwikcp token --allow PATH [--allow PATH...] --expires TIME --name NAME [--state-dir DIR]\n" +
			"kwikcp token --show FILE",
		Description: `Prints the token on stdout, one line. It is a secret: hand it to the client through a file, as for kwikcp get
--token-file. A primary that is started with kwikcp serve --require-token refuses clients without one.

The token is signed with a key that follows from server.key in the state directory. Every primary with that key accepts
it, and nothing is stored. To take it back before it expires, write its name into the file of kwikcp serve --revoked.

` + exitHelp(exitLocal),
		Flags:  o.flags(),
		Action: func(c *cli.Context) error { return runToken(t, o, c.Args().Slice()) },
	}
}

func runToken(t *terminal, o *tokenOptions, args []string) error {
	if len(args) > 0 {
		return usagef(adviseToken, "token takes no argument such as %q", withoutToken(args[0]))
	}
	if o.show != "" {
		return showToken(t, o)
	}
	now := time.Now()
	token, err := o.parse(now)
	if err != nil {
		return err
	}
	state, err := stateDir(o.stateDir)
	if err != nil {
		return err
	}
	identity, err := trust.LoadOrCreateIdentity(state, now)
	if err != nil {
		return &transfer.Error{Kind: transfer.KindLocal, Op: "load the server's key", Err: err}
	}
	text, err := token.Sign(trust.AccessKey(identity))
	if err != nil {
		return usagef(adviseToken, "%w", err)
	}
	if _, err := fmt.Fprintln(t.stdout, text); err != nil {
		return transfer.LocalError("print the token", err)
	}
	t.printf("token %q allows %s and %s; every primary with the key %q (pin %s) accepts it", token.Name, allowed(token),
		expiry(token), filepath.Join(state, "server.key"), trust.PinOf(identity.Leaf))
	return nil
}

// parse checks the options of a new token.
func (o *tokenOptions) parse(now time.Time) (token trust.AccessToken, err error) {
	switch {
	case len(o.allow.list) == 0:
		return token, usagef(adviseToken, "--allow is missing")
	case o.expires == "":
		return token, usagef(adviseExpires, "--expires is missing")
	case o.name == "":
		return token, usagef(adviseToken, "--name is missing")
	}
	token = trust.AccessToken{Name: o.name, Issued: now}
	if err := trust.CheckTokenName(o.name); err != nil {
		return token, usagef(adviseToken, "--name %.80q: %w", o.name, err)
	}
	if token.Paths, err = trust.NormalizePaths(o.allow.list); err != nil {
		return token, usagef(adviseAllow, "--allow: %w", err)
	}
	if token.Expires, err = parseExpiry(o.expires, now); err != nil {
		return token, usagef(adviseExpires, "--expires %q: %w", o.expires, err)
	}
	return token, nil
}

// parseExpiry reads the value of --expires. It is a duration from now, a time as in RFC 3339, or a
// date, which counts to its end in UTC. For "never", which has no bound, it returns the zero time.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "never" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if at, err = time.Parse(time.DateOnly, text); err == nil {
			at = at.AddDate(0, 0, 1)
		}
	}
	if err != nil {
		life, err := parseTime(text)
		if err != nil {
			return time.Time{}, err
		}
		at = now.Add(life)
	}
	switch {
	case at.Sub(now) < time.Millisecond:
		return time.Time{}, errors.New("it is not in the future")
	case at.Sub(now) > maxTime:
		return time.Time{}, errors.New("it is more than a century away")
	}
	return at.UTC(), nil
}

// showToken prints what a token contains.
func showToken(t *terminal, o *tokenOptions) error {
	if len(o.allow.list) > 0 || o.expires != "" || o.name != "" {
		return usagef(adviseToken, "--show excludes the options of a new token")
	}
	in := io.Reader(os.Stdin)
	if o.show != "-" {
		f, err := os.Open(o.show)
		if err != nil {
			return transfer.LocalError(fmt.Sprintf("read the token %q", withoutToken(o.show)), err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, trust.MaxTokenText+2))
	if err != nil {
		return transfer.LocalError("read the token", err)
	}
	token, err := trust.ParseAccessToken(strings.TrimSpace(string(text)))
	if err != nil {
		return &transfer.Error{Kind: transfer.KindOther, Op: "read the token", Err: err}
	}
	if _, err := fmt.Fprintf(t.stdout, "name     %s\nallows   %s\nissued   %s\nexpires  %s\n",
		token.Name, allowed(token), moment(token.Issued), strings.TrimPrefix(expiry(token), "expires ")); err != nil {
		return transfer.LocalError("print the token", err)
	}
	return nil
}

// allowed lists the paths of a token as a user names them.
func allowed(token trust.AccessToken) string {
	var paths []string
	for _, path := range token.Paths {
		paths = append(paths, escape.Name("/"+path))
	}
	return strings.Join(paths, " ")
}

func expiry(token trust.AccessToken) string {
	if token.Expires.IsZero() {
		return "expires never"
	}
	return "expires " + moment(token.Expires)
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// withoutToken hides an argument that is a token, for messages.
func withoutToken(text string) string {
	if strings.HasPrefix(text, trust.TokenPrefix) {
		return trust.TokenPrefix + "..."
	}
	return text
}
