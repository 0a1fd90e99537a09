package cmd

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/sysmem"
	"kwikcp/internal/webfile"
	"kwikcp/transfer"
	"kwikcp/transfer/source"
)

// This file opens a root on a web server, and has the options of all remote roots.

// remoteOptions are the options of serve for roots on web servers, and for all remote ones.
type remoteOptions struct {
	cacheSize string
	index     string
	netrc     string
	insecure  bool
}

func (o *remoteOptions) flags() []cli.Flag {
	cacheSize := stringOption(&o.cacheSize, "cache-size", "hold at most `SIZE` bytes of the files of a remote "+
		"--root in memory, such as 256M, at least 16M")
	cacheSize.DefaultText = "an eighth of the memory, 64M to 1G"
	return []cli.Flag{
		cacheSize,
		stringOption(&o.index, "index", "the files of an https --root are those that `FILE` names, one path a line "+
			"(default: ask the web server for its listings)"),
		stringOption(&o.netrc, "netrc", "take the password for the host of an https --root from `FILE`, in the format "+
			"of netrc"),
		boolOption(&o.insecure, "insecure-http-root", "serve a --root without TLS, http://HOST/PREFIX, too; others can "+
			"see and change what is fetched"),
	}
}

// parseCacheSize returns the size of the cache for remote roots, in bytes.
func parseCacheSize(text string) (int64, error) {
	if text == "" {
		return min(max(sysmem.Limit()/8, 64<<20), 1<<30), nil
	}
	n, err := parseSize(text)
	switch {
	case err != nil:
		return 0, usagef(adviseMemory, "--cache-size: %w", err)
	case n < source.MinCache:
		return 0, usagef(adviseMemory, "--cache-size: %q is less than 16M", text)
	}
	return n, nil
}

// A webRoot is a root on a web server: the checked options.
type webRoot struct {
	base    *url.URL // without secrets
	options source.HTTPOptions
}

// parseWebRoot returns the web server of --root, nil if the root is on none.
func parseWebRoot(root string, o *remoteOptions, policy *trustPolicy) (*webRoot, error) {
	isURL := strings.Contains(root, "://") && !strings.HasPrefix(root, source.S3Scheme)
	if !isURL {
		if o.index != "" || o.netrc != "" || o.insecure {
			return nil, usagef(adviseWebRoot, "--index, --netrc and --insecure-http-root are for a --root that begins "+
				"with https://")
		}
		return nil, nil
	}
	base, err := source.ParseHTTP(root, o.insecure)
	switch scheme := strings.ToLower(root[:strings.Index(root, "://")]); {
	case scheme != "https" && scheme != "http":
		return nil, usagef(adviseRemoteRoot, "--root %q: %q is not https or s3", withoutSecretParts(root), scheme)
	case scheme == "http" && !o.insecure && err != nil:
		return nil, usagef(advisePlainRoot, "--root %q: %w", withoutSecretParts(root), err)
	case err != nil:
		return nil, usagef(adviseWebRoot, "--root %q: %w", withoutSecretParts(root), err)
	}
	r := &webRoot{base: base}
	r.options = source.HTTPOptions{
		Base: base, Index: o.index, Roots: policy.roots, AllowHTTP: o.insecure, Agent: "kwikcp",
	}
	if o.netrc == "" {
		return r, nil
	}
	f, err := os.Open(o.netrc)
	if err != nil {
		return nil, usagef(adviseNetrc, "--netrc: %w", err)
	}
	defer f.Close()
	netrc, err := webfile.ReadNetrc(f)
	if err != nil {
		return nil, usagef(adviseNetrc, "--netrc %q: %w", o.netrc, err)
	}
	r.options.Credentials = netrc.For
	return r, nil
}

// A servedWeb is an open root on a web server.
type servedWeb struct {
	source.Root
	cache *source.Cache
}

// Close closes the root and its cache.
func (w *servedWeb) Close() error {
	err := w.Root.Close()
	w.cache.Close()
	return err
}

// openWeb opens the web server of --root. It fails if the web server does not answer now.
func (c *serveConfig) openWeb(ctx context.Context) (*servedWeb, error) {
	w := &servedWeb{cache: source.NewCache(c.cacheSize)}
	options := c.web.options
	options.Cache, options.Log = w.cache, c.log
	var err error
	if w.Root, err = source.OpenHTTP(ctx, options); err == nil {
		return w, nil
	}
	w.cache.Close()
	u, isUnavailable := errors.AsType[*source.Unavailable](err)
	switch {
	case errors.Is(err, source.ErrLogin):
		return nil, rootError{exitRefused, adviseWebRootLogin, c.op(), u.Err} // the operation names the web server
	case isUnavailable:
		return nil, rootError{exitNetwork, adviseWebRootNetwork, c.op(), u.Err}
	}
	return nil, transfer.LocalError(c.op(), err) // of --index
}
