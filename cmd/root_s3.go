package cmd

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

// This file opens a root in a bucket.

const (
	// remoteInterval is how often a server asks whether its bucket is there.
	remoteInterval = 10 * time.Second
)

// s3Options are the options of serve for roots in buckets.
type s3Options struct {
	endpoint, region string
	insecure         bool
	publishTrees     bool
}

func (o *s3Options) flags() []cli.Flag {
	return []cli.Flag{
		stringOption(&o.endpoint, "s3-endpoint", "the bucket of --root is on the service at `URL`, such as "+
			"https://minio.example:9000 (default: Amazon S3)"),
		stringOption(&o.region, "s3-region", "the bucket of --root is in `REGION` (default: AWS_REGION, or ask the "+
			"service)"),
		boolOption(&o.insecure, "insecure-s3-endpoint", "use an --s3-endpoint without TLS, too; others can see "+
			"what is fetched"),
		boolOption(&o.publishTrees, "publish-trees", "write hash trees into .kwikcp/trees/ of the bucket of "+
			"--root, so that other primaries need not hash its files"),
	}
}

// An s3Root is a root in a bucket: the checked options.
type s3Root struct {
	location     source.S3Location
	options      source.S3Options
	publishTrees bool
}

// parseS3Root returns the bucket of --root, nil if the root is no bucket.
func parseS3Root(root string, o *s3Options, role kwik.ServerRole, policy *trustPolicy) (*s3Root, error) {
	if !strings.HasPrefix(root, source.S3Scheme) {
		if o.endpoint != "" || o.region != "" || o.publishTrees || o.insecure {
			return nil, usagef(adviseS3Root, "--s3-endpoint, --s3-region, --insecure-s3-endpoint and --publish-trees "+
				"are for a --root that begins with %s", source.S3Scheme)
		}
		return nil, nil
	}
	location, err := source.ParseS3(root)
	if err != nil {
		return nil, usagef(adviseS3Root, "--root %q: %w", withoutSecretParts(root), err)
	}
	if o.publishTrees && role != kwik.ServerRolePrimary {
		return nil, usagef(adviseRole, "--publish-trees is for a primary: secondaries on a bucket hash nothing")
	}
	r := &s3Root{location: location, publishTrees: o.publishTrees}
	r.options = source.S3Options{Region: o.region, Roots: policy.roots}
	if o.endpoint == "" {
		return r, nil
	}
	r.options.Endpoint, err = source.ParseS3Endpoint(o.endpoint, o.insecure)
	switch {
	case errors.Is(err, source.ErrPlainEndpoint):
		return nil, usagef(advisePlainEndpoint, "--s3-endpoint %q: %w", o.endpoint, err)
	case err != nil:
		return nil, usagef(adviseS3Endpoint, "--s3-endpoint %q: %w", withoutSecretParts(o.endpoint), err)
	}
	return r, nil
}

// withoutSecretParts returns a URL for an error, without what may be a password or a signature.
func withoutSecretParts(text string) string {
	if before, _, hasQuery := strings.Cut(text, "?"); hasQuery {
		text = before + "?..."
	}
	if u, err := url.Parse(text); err == nil && u.User == nil {
		return text
	}
	return withoutUserInfo(text)
}

// A servedBucket is an open root in a bucket.
type servedBucket struct {
	source.Root
	cache *source.Cache
	trees serve.SharedTrees
}

// Close closes the root and its cache.
func (b *servedBucket) Close() error {
	err := b.Root.Close()
	b.cache.Close()
	return err
}

// openBucket opens the bucket of --root. It fails if the bucket cannot be read now.
func (c *serveConfig) openBucket(ctx context.Context) (*servedBucket, error) {
	b := &servedBucket{cache: source.NewCache(c.cacheSize)}
	root, trees, err := source.OpenS3(ctx, c.bucket.location, c.bucket.options, b.cache, c.log)
	if err == nil {
		b.Root, b.trees = root, trees
		return b, nil
	}
	b.cache.Close()
	if u, ok := errors.AsType[*source.Unavailable](err); ok {
		err = u.Err // the operation names the bucket
	}
	failed := rootError{exitNetwork, adviseS3Network, c.op(), err}
	switch {
	case errors.Is(err, source.ErrNoBucket):
		failed.code, failed.about = exitNotFound, adviseNoBucket
	case errors.Is(err, fs.ErrPermission):
		failed.code, failed.about = exitRefused, adviseS3Credentials
	}
	return nil, failed
}

// watchRemote asks until ctx ends whether a remote root is there. So the root logs its loss without
// a request.
func watchRemote(ctx context.Context, root source.Root) {
	ticker := time.NewTicker(remoteInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			root.Check(ctx)
		}
	}
}
