package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"kwikcp/internal/webfile"
	"kwikcp/transfer/disk"
)

const (
	// amazonEndpoint is where buckets are unless the operator names another service.
	amazonEndpoint = "s3.amazonaws.com"
	// s3Parallel is how many files of a bucket are opened at a time.
	s3Parallel = 32
	// s3ConnectTimeout bounds the connection to a store, and s3StallTimeout the wait for its next
	// byte.
	s3ConnectTimeout, s3StallTimeout = 10 * time.Second, 30 * time.Second
	// s3CheckTimeout bounds a check of the bucket.
	s3CheckTimeout = 20 * time.Second
)

// S3Options say how a bucket is reached.
type S3Options struct {
	// Endpoint is that of [ParseS3Endpoint]; nil means Amazon's.
	Endpoint *url.URL
	// Region is that of the bucket. If it is empty, AWS_REGION and AWS_DEFAULT_REGION are used, and
	// without them the service is asked.
	Region string
	// Roots are the certificate authorities that are trusted; nil means those of the system.
	Roots *x509.CertPool
}

// OpenS3 returns the root of the objects of a bucket, and the files of hash trees beside them. It
// fails if the bucket cannot be listed now. Names are those below the prefix. The cache may be
// shared with other roots. Credentials are searched where AWS's tools do. Closing the root closes
// the files of trees.
func OpenS3(ctx context.Context, l S3Location, o S3Options, c *Cache, log *slog.Logger) (Root, *TreeFiles, error) {
	s, err := openS3Store(l, o, s3Credentials())
	if err != nil {
		return nil, nil, err
	}
	if err := s.check(ctx); err != nil {
		s.close()
		return nil, nil, err
	}
	return newRemote(s, c, log, s3Parallel), &TreeFiles{s}, nil
}

// An s3Store is the store of a bucket. A bucket with versions gives the one that is requested, also
// after it was replaced. In others a request names the entity tag of the object.
type s3Store struct {
	at        S3Location
	core      minio.Core
	transport *http.Transport
	now       func() time.Time
	wait      func(context.Context, time.Duration) error
}

func openS3Store(l S3Location, o S3Options, creds *credentials.Credentials) (*s3Store, error) {
	s := &s3Store{at: l, transport: s3Transport(o.Roots), now: time.Now, wait: waitFor}
	host, isSecure := amazonEndpoint, true
	if o.Endpoint != nil {
		host, isSecure = o.Endpoint.Host, o.Endpoint.Scheme == "https"
	}
	region := o.Region
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region == "" {
			region = os.Getenv(name)
		}
	}
	client, err := minio.New(host, &minio.Options{
		Creds: creds, Secure: isSecure, Transport: s.transport, Region: region,
		MaxRetries: 1, // s.retry repeats requests
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", host, err)
	}
	client.SetAppInfo("kwikcp", "1")
	s.core.Client = client
	return s, nil
}

// init ends the delay of minio-go after its only attempt. It reads this when a request fails.
func init() { minio.DefaultRetryUnit = 0 }

// s3Transport returns a transport with one connection for each request that runs: a store limits
// the rate of a connection.
func s3Transport(roots *x509.CertPool) *http.Transport {
	d := net.Dialer{Timeout: s3ConnectTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return stallingConn{c}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   s3ConnectTimeout,
		ResponseHeaderTimeout: s3StallTimeout,
		MaxIdleConnsPerHost:   2 * s3Parallel,
		IdleConnTimeout:       s3StallTimeout,
		DisableCompression:    true,
		ReadBufferSize:        64 << 10,
	}
}

// A stallingConn fails a read for which no byte arrives in s3StallTimeout.
type stallingConn struct{ net.Conn }

func (c stallingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(s3StallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (s *s3Store) describe() string { return s.at.String() }

func (s *s3Store) close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// check asks for one key. That tells a bucket without objects from one that is gone.
func (s *s3Store) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s3CheckTimeout)
	defer cancel()
	err := s.retry(ctx, func() error {
		options := minio.ListObjectsOptions{Prefix: s.at.dirKey(""), MaxKeys: 1}
		for o := range s.core.ListObjectsIter(ctx, s.at.Bucket, options) {
			return o.Err
		}
		return ctx.Err()
	})
	err = s.failed(err, false)
	if denied, ok := errors.AsType[*DeniedError](err); ok {
		return s.unavailable(denied)
	}
	return err
}

// stat implements store.
func (s *s3Store) stat(ctx context.Context, name string) (info objectInfo, err error) {
	key, ok := s.visibleKey(name)
	if !ok {
		return info, fs.ErrNotExist
	}
	err = s.retry(ctx, func() error {
		o, err := s.core.StatObject(ctx, s.at.Bucket, key, minio.StatObjectOptions{})
		info = s3Info(name, o)
		return err
	})
	return info, s.failed(err, false)
}

// s3Info describes an object. Times of listings have fractions of a second, and those of headers
// none: both are cut, so that a version has one time.
func s3Info(name string, o minio.ObjectInfo) objectInfo {
	info := objectInfo{name: name, size: o.Size, mtime: o.LastModified.Truncate(time.Second), tag: o.ETag}
	if o.VersionID != "null" { // which a bucket whose versions are suspended overwrites
		info.versionID = o.VersionID
	}
	return info
}

// get implements store.
func (s *s3Store) get(ctx context.Context, name string, pinned *objectInfo, start, end int64) (
	body io.ReadCloser, info objectInfo, err error) {
	key, ok := s.visibleKey(name)
	if !ok {
		return nil, info, fs.ErrNotExist
	}
	return s.getKey(ctx, name, key, pinned, start, end)
}

// visibleKey returns the key of an object. ok is false if there is none that clients may read.
func (s *s3Store) visibleKey(name string) (key string, ok bool) {
	top, _, _ := strings.Cut(name, "/")
	if top == hiddenDir {
		return "", false
	}
	return s.at.key(name)
}

// getKey is get of an object with a key.
func (s *s3Store) getKey(ctx context.Context, name, key string, pinned *objectInfo, start, end int64) (
	body io.ReadCloser, info objectInfo, err error) {
	var o minio.GetObjectOptions
	switch {
	case pinned == nil:
	case pinned.versionID != "":
		o.VersionID = pinned.versionID
	case pinned.tag != "":
		o.Set("If-Match", `"`+pinned.tag+`"`)
	}
	isEmpty := pinned != nil && pinned.size == 0
	if !isEmpty {
		o.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end-1))
	}
	err = s.retry(ctx, func() error {
		body, info, err = s.request(ctx, key, o, start, end)
		if err == nil && pinned != nil && !isSameVersion(&info, pinned) {
			body.Close()
			return disk.ErrChanged
		}
		return err
	})
	info.name = name
	if e, ok := errors.AsType[minio.ErrorResponse](err); ok && e.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return s.beyond(ctx, name, pinned, start)
	}
	if err != nil {
		return nil, info, s.failed(err, pinned != nil)
	}
	return body, info, nil
}

// isSameVersion reports whether an answer is of the version that was requested.
func isSameVersion(info, pinned *objectInfo) bool {
	switch {
	case info.size != pinned.size:
		return false
	case pinned.versionID != "" && info.versionID != "":
		return info.versionID == pinned.versionID
	case pinned.tag != "" && info.tag != "":
		return info.tag == pinned.tag
	}
	return info.mtime.Equal(pinned.mtime)
}

// request sends one request for the bytes [start, end) of an object.
func (s *s3Store) request(ctx context.Context, key string, o minio.GetObjectOptions, start, end int64) (
	io.ReadCloser, objectInfo, error) {
	body, answer, header, err := s.core.GetObject(ctx, s.at.Bucket, key, o)
	if err != nil {
		return nil, objectInfo{}, err
	}
	info := s3Info("", answer)
	first := int64(0)
	if text := header.Get("Content-Range"); text != "" {
		var last, total int64
		first, last, total, err = webfile.ParseContentRange(text)
		if err == nil && (first != start || last >= end || total < 0) {
			err = errors.New("it sent another range than the requested one")
		}
		info.size = total
	}
	if err == nil && first != start {
		err = errors.New("it does not support ranges")
	}
	if err != nil {
		body.Close()
		return nil, info, &rangeError{err}
	}
	return &s3Body{ReadCloser: body, left: max(0, min(end, info.size)-start)}, info, nil
}

// A rangeError is an answer that does not fit its request.
type rangeError struct{ error }

// beyond answers a request for bytes after the end of an object.
func (s *s3Store) beyond(ctx context.Context, name string, pinned *objectInfo, start int64) (
	io.ReadCloser, objectInfo, error) {
	info, err := s.stat(ctx, name)
	switch {
	case err != nil:
		return nil, info, err
	case pinned != nil && !isSameVersion(&info, pinned):
		return nil, info, disk.ErrChanged
	case start < info.size:
		return nil, info, s.unavailable(errors.New("it refuses a range that the object has"))
	}
	return http.NoBody, info, nil
}

// An s3Body is the body of an answer. It ends after the bytes that were requested, or with
// io.ErrUnexpectedEOF before.
type s3Body struct {
	io.ReadCloser
	left int64
}

func (b *s3Body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// list implements store. A page that fails is requested again, from the last key on.
func (s *s3Store) list(ctx context.Context, dir string) iter.Seq2[objectInfo, error] {
	return func(yield func(objectInfo, error) bool) {
		prefix, after := s.at.dirKey(dir), ""
		if _, ok := s.visibleKey(dir); !ok && dir != "" || len(prefix) > maxKey {
			return
		}
		isStopped := false
		err := s.retry(ctx, func() error {
			options := minio.ListObjectsOptions{Prefix: prefix, StartAfter: after}
			for o := range s.core.ListObjectsIter(ctx, s.at.Bucket, options) {
				if o.Err != nil {
					return o.Err
				}
				after = o.Key
				info, ok := s3Entry(prefix, o)
				isShown := ok && (dir != "" || info.name != hiddenDir)
				if isShown && !yield(info, nil) {
					isStopped = true
					return nil
				}
			}
			return ctx.Err() // with which the iterator ends silently
		})
		if err = s.failed(err, false); err != nil && !isStopped {
			yield(objectInfo{}, err)
		}
	}
}

// s3Entry returns the entry of a directory for an object of a listing. ok is false for the object
// that stands for the directory itself, and for one outside.
func s3Entry(prefix string, o minio.ObjectInfo) (info objectInfo, ok bool) {
	name, ok := strings.CutPrefix(o.Key, prefix)
	if !ok || name == "" {
		return info, false
	}
	if name, isDir := strings.CutSuffix(name, "/"); isDir {
		return objectInfo{name: name, isDir: true}, true
	}
	return s3Info(name, o), true
}
