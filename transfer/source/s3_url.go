package source

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// S3Scheme begins the name of a root in a bucket.
const S3Scheme = "s3://"

// An S3Location is a prefix of a bucket.
type S3Location struct {
	Bucket string
	// Prefix is without a slash at its end; "" is the whole bucket.
	Prefix string
}

// maxKey bounds the key of an object, in bytes, as S3 does.
const maxKey = 1024

// ParseS3 reads s3://BUCKET/PREFIX. Percent signs in the prefix have no meaning. The error has no
// part of the text that may be a password.
func ParseS3(text string) (l S3Location, err error) {
	rest, ok := strings.CutPrefix(text, S3Scheme)
	if !ok {
		return l, errors.New("it does not begin with " + S3Scheme)
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	switch {
	case strings.Contains(bucket, "@"):
		return l, errors.New("it must not contain a user or a password")
	case strings.ContainsAny(text, "?#"):
		return l, errors.New("it must not contain a query (?) or a fragment (#)")
	case bucket == "":
		return l, errors.New("the name of the bucket is missing")
	}
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return l, fmt.Errorf("%q is not the name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens",
			bucket)
	}
	prefix = strings.TrimRight(prefix, "/")
	if len(prefix) >= maxKey || s3utils.CheckValidObjectNamePrefix(prefix) != nil {
		return l, fmt.Errorf("the prefix must be UTF-8 of less than %d bytes", maxKey)
	}
	return S3Location{bucket, prefix}, nil
}

// String returns s3://BUCKET/PREFIX.
func (l S3Location) String() string {
	if l.Prefix == "" {
		return S3Scheme + l.Bucket
	}
	return S3Scheme + l.Bucket + "/" + l.Prefix
}

// key returns the key of an object. ok is false if a bucket has no such keys.
func (l S3Location) key(name string) (key string, ok bool) {
	key = l.dirKey("") + name
	return key, strings.TrimSpace(key) != "" && len(key) <= maxKey && s3utils.CheckValidObjectNamePrefix(key) == nil
}

// dirKey returns the prefix of the keys in a directory, "" for the top.
func (l S3Location) dirKey(dir string) string {
	key := l.Prefix
	if key != "" {
		key += "/"
	}
	if dir != "" {
		key += dir + "/"
	}
	return key
}

// ErrPlainEndpoint is returned by ParseS3Endpoint for an endpoint without TLS.
var ErrPlainEndpoint = errors.New("it is not https, so others could see and change what is fetched")

// ParseS3Endpoint reads the URL of an S3 service: a scheme, a host and optionally a port.
func ParseS3Endpoint(text string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("it is not a URL such as https://HOST:PORT")
	case u.User != nil:
		return nil, errors.New("it must not contain a user or a password")
	case strings.ContainsAny(text, "?#"):
		return nil, errors.New("it must not contain a query (?) or a fragment (#)")
	case u.Path != "" && u.Path != "/":
		return nil, errors.New("it must not contain a path; the bucket belongs to --root")
	case u.Scheme == "http" && !allowHTTP:
		return nil, ErrPlainEndpoint
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%q is not https", u.Scheme)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
