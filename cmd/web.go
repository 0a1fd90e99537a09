package cmd

import (
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/webfile"
	"kwikcp/transfer"
	"kwikcp/transfer/serve"
)

// This file has the options for web mirrors, of clients and of primaries.

// webOptions are the options of a client for web mirrors.
type webOptions struct {
	mirrors  repeatedValue
	ignore   bool
	insecure bool
	netrc    string
}

func (o *webOptions) flags() []cli.Flag {
	return []cli.Flag{
		repeatedOption(&o.mirrors, "web-mirror", "take bytes from the https `URL` of the file, too; {path} in it "+
			"is the file's path on the server; may be repeated"),
		boolOption(&o.ignore, "no-mirrors", "do not use the web mirrors that the server names"),
		boolOption(&o.insecure, "insecure-http-mirrors", "use web mirrors without TLS, too; others can see what "+
			"is fetched"),
		stringOption(&o.netrc, "netrc", "take passwords for the hosts of --web-mirror from `FILE`, in the format "+
			"of netrc"),
	}
}

// parse checks the options. manyFiles is true for lists and directories. policy has the
// certificate authorities: those of the system count besides --cacert.
func (o *webOptions) parse(manyFiles bool, policy *trustPolicy) (web transfer.WebOptions, err error) {
	web = transfer.WebOptions{IgnoreNamed: o.ignore, AllowHTTP: o.insecure, Roots: policy.webRoots}
	for _, text := range o.mirrors.list {
		m := transfer.WebMirror{Template: text}
		if err := m.Check(o.insecure); err != nil {
			return web, usagef(adviseWebMirror, "--web-mirror %q: %w", withoutUserInfo(text), err)
		}
		if manyFiles && !m.HasPath() {
			return web, usagef(adviseWebTemplate, "--web-mirror %q has no {path}", text)
		}
		web.Mirrors = append(web.Mirrors, m)
	}
	if o.netrc == "" {
		return web, nil
	}
	f, err := os.Open(o.netrc)
	if err != nil {
		return web, usagef(adviseNetrc, "--netrc: %w", err)
	}
	defer f.Close()
	netrc, err := webfile.ReadNetrc(f)
	if err != nil {
		return web, usagef(adviseNetrc, "--netrc %q: %w", o.netrc, err)
	}
	web.Credentials = netrc.For
	return web, nil
}

// withoutUserInfo returns a URL for an error, without what may be a password.
func withoutUserInfo(text string) string {
	if u, err := url.Parse(text); err == nil && u.User == nil {
		return text
	}
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		if _, host, ok := strings.Cut(rest, "@"); ok {
			return scheme + "://...@" + host
		}
	}
	return text
}

// parseNamedMirrors reads the values of serve --web-mirror: a template, and optionally a comma
// and a priority.
func parseNamedMirrors(values []string) (mirrors []serve.WebMirror, err error) {
	for _, text := range values {
		m := transfer.WebMirror{Template: text}
		if i := strings.LastIndexByte(text, ','); i >= 0 {
			n, err := strconv.ParseUint(text[i+1:], 10, 16)
			isNumber := strings.Trim(text[i+1:], "+-0123456789") == ""
			switch {
			case err == nil:
				m.Template, m.Priority = text[:i], int(n)
			case isNumber:
				return nil, usagef(advisePriority, "--web-mirror %q: the priority %q is not 0 to 65535",
					withoutUserInfo(text), text[i+1:])
			}
		}
		if err := m.Check(true); err != nil {
			return nil, usagef(adviseWebMirror, "--web-mirror %q: %w", withoutUserInfo(text), err)
		}
		if !m.HasPath() {
			return nil, usagef(adviseWebTemplate, "--web-mirror %q has no {path}", text)
		}
		mirrors = append(mirrors, serve.WebMirror(m))
	}
	return mirrors, nil
}
