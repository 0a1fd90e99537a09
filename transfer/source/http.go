package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/internal/webfile"
	"kwikcp/transfer/disk"
)

const (
	// httpParallel is the number of objects of a web server that are opened at a time.
	httpParallel = 32
	// repeatFor bounds how long a request is repeated that fails for a moment.
	repeatFor = 30 * time.Second
)

// ErrNoListing is the error of a directory of a web server that lists none. Its files can be read
// nevertheless. It matches errors.ErrUnsupported.
var ErrNoListing = fmt.Errorf("the web server lists no files, and there is no index (%w)", errors.ErrUnsupported)

// ErrLogin is the error of a web server that demands a login, and of one that refuses it.
var ErrLogin = errors.New("the web server demands a login")

// HTTPOptions configure a root on a web server.
type HTTPOptions struct {
	// Base is the URL above all objects, from ParseHTTP.
	Base *url.URL
	// Roots verify the web server's certificate; nil means those of the system.
	Roots *x509.CertPool
	// AllowHTTP permits a web server, and redirects from it, without TLS.
	AllowHTTP bool
	// Credentials returns the user and the password for a host; nil has none.
	// isRedirect is set if another host redirected there.
	Credentials func(host string, isRedirect bool) (user, password string, ok bool)
	// Agent is the User-Agent of requests.
	Agent string
	// Index is a local file with the paths of all objects, one a line. If it is empty, the web
	// server's own listings are used.
	Index string
	Cache *Cache
	Log   *slog.Logger
}

// ParseHTTP parses the URL of a root.
func ParseHTTP(text string, allowHTTP bool) (*url.URL, error) {
	u, err := webfile.Parse(text, allowHTTP)
	switch {
	case err != nil:
		return nil, err
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("it must not contain a query (?)")
	}
	return u, nil
}

// OpenHTTP opens a root with the files of a web server. It fails if the web server does not answer,
// and with ErrLogin if it refuses the credentials. The caller closes the root.
func OpenHTTP(ctx context.Context, o HTTPOptions) (Root, error) {
	s, err := openHTTPStore(o)
	if err != nil {
		return nil, err
	}
	if err := s.check(ctx); err != nil {
		s.close()
		return nil, err
	}
	return newRemote(s, o.Cache, o.Log, httpParallel), nil
}

// openHTTPStore returns the store of a web server. It sends no request.
func openHTTPStore(o HTTPOptions) (*httpStore, error) {
	client := webfile.New(webfile.Options{
		Roots: o.Roots, AllowHTTP: o.AllowHTTP, Credentials: o.Credentials, Agent: o.Agent,
	})
	s := &httpStore{base: o.Base, client: client, wait: waitFor}
	s.retry = backoff.Policy{Min: 200 * time.Millisecond, Max: 5 * time.Second, Random: rand.Float64}
	if o.Index != "" {
		s.index = &indexFile{path: o.Index, log: o.Log}
		if err := s.index.refresh(); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// An httpStore is a web server below a URL.
type httpStore struct {
	base   *url.URL
	client *webfile.Client
	index  *indexFile // nil without one
	retry  backoff.Policy
	wait   func(context.Context, time.Duration) error // waits so long, or until the context ends
}

func (s *httpStore) describe() string { return webfile.Shown(s.base) }

func (s *httpStore) close() error {
	s.client.Close()
	return nil
}

// url returns the URL of an object, or that of a directory.
func (s *httpStore) url(name string, isDir bool) *url.URL {
	escaped := strings.TrimRight(s.base.EscapedPath(), "/")
	if name != "" {
		for component := range strings.SplitSeq(name, "/") {
			escaped += "/" + url.PathEscape(component)
		}
	}
	if isDir {
		escaped += "/"
	}
	u := *s.base
	u.Path, _ = url.PathUnescape(escaped) // of what was escaped
	u.RawPath = escaped
	return &u
}

// request sends a request, and repeats it while it fails for a moment. The caller closes the body.
func (s *httpStore) request(
	ctx context.Context, method string, u *url.URL, header http.Header,
) (*http.Response, error) {
	start := time.Now()
	for failures := 1; ; failures++ {
		answer, err := s.client.Request(ctx, method, u, header)
		if err == nil {
			failure := webfile.StatusError(u, answer)
			if failure.Permanent {
				return answer, nil
			}
			answer.Body.Close()
			err = failure
		}
		failure, ok := errors.AsType[*webfile.Error](err)
		if !ok {
			return nil, err // ctx ended
		}
		delay := max(s.retry.Delay(failures), failure.RetryAfter)
		if failure.Permanent || time.Since(start)+delay > repeatFor {
			return nil, s.unavailable(failure.Err)
		}
		if s.wait(ctx, delay) != nil {
			return nil, s.unavailable(failure.Err)
		}
	}
}

func (s *httpStore) unavailable(err error) error { return &Unavailable{Root: s.describe(), Err: err} }

// check asks for the URL above all objects. It need not exist.
func (s *httpStore) check(ctx context.Context) error {
	u := s.url("", true)
	answer, err := s.client.Request(ctx, http.MethodHead, u, nil)
	if err != nil {
		if failure, ok := errors.AsType[*webfile.Error](err); ok {
			err = s.unavailable(failure.Err)
		}
		return err
	}
	answer.Body.Close()
	failure := webfile.StatusError(u, answer)
	switch {
	case answer.StatusCode == http.StatusUnauthorized:
		return s.unavailable(fmt.Errorf("%w (%w)", ErrLogin, failure.Err))
	case !failure.Permanent, answer.StatusCode == http.StatusProxyAuthRequired:
		return s.unavailable(failure.Err)
	}
	if s.index != nil {
		return s.index.refresh()
	}
	return nil
}

// isDirectory reports whether an answer redirected to the same name with a slash, as web servers do
// for directories.
func isDirectory(u *url.URL, answer *http.Response) bool {
	last := answer.Request.URL
	return last.Host == u.Host && last.EscapedPath() == u.EscapedPath()+"/"
}

// missing returns the error of an answer without content, nil if it has some.
func (s *httpStore) missing(u *url.URL, answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if encoding := answer.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
			return s.unavailable(fmt.Errorf("the web server encodes the file as %q", encoding))
		}
		return nil
	case http.StatusNotFound, http.StatusGone:
		return fs.ErrNotExist
	case http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("%w (%w)", fs.ErrPermission, webfile.StatusError(u, answer).Err)
	case http.StatusPreconditionFailed:
		return disk.ErrChanged
	}
	return s.unavailable(webfile.StatusError(u, answer).Err)
}

// stat describes an object by a HEAD request.
func (s *httpStore) stat(ctx context.Context, name string) (info objectInfo, err error) {
	u := s.url(name, false)
	answer, err := s.requestSettled(ctx, http.MethodHead, u, nil)
	if err != nil {
		return info, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		body, info, err := s.get(ctx, name, nil, 0, 1)
		if err != nil {
			return info, err
		}
		return info, body.Close()
	}
	if isDirectory(u, answer) {
		return objectInfo{name: name, isDir: true}, nil
	}
	if err := s.missing(u, answer); err != nil {
		return info, err
	}
	return s.infoOf(name, answer, answer.ContentLength)
}

// infoOf returns the description of an object in an answer.
func (s *httpStore) infoOf(name string, answer *http.Response, size int64) (objectInfo, error) {
	info := objectInfo{name: name, size: size, tag: answer.Header.Get("ETag")}
	if size < 0 {
		return info, s.unavailable(errors.New("the web server does not tell the size of the file"))
	}
	if at, err := http.ParseTime(answer.Header.Get("Last-Modified")); err == nil {
		info.mtime = at
	}
	return info, nil
}

// get requests a range. A web server that knows no ranges may send a small object as a whole.
func (s *httpStore) get(
	ctx context.Context, name string, pinned *objectInfo, start, end int64,
) (body io.ReadCloser, info objectInfo, err error) {
	u := s.url(name, false)
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", start, end-1)}}
	if pinned != nil && webfile.IsStrong(pinned.tag) {
		header["If-Match"] = []string{pinned.tag}
		header["If-Range"] = []string{pinned.tag}
	}
	request := s.request
	if pinned == nil {
		request = s.requestSettled
	}
	answer, err := request(ctx, http.MethodGet, u, header)
	if err != nil {
		return nil, info, err
	}
	defer func() {
		if body == nil {
			answer.Body.Close()
		}
	}()
	if isDirectory(u, answer) {
		return nil, info, disk.ErrNotAFile
	}
	isBeyond := answer.StatusCode == http.StatusRequestedRangeNotSatisfiable
	switch {
	case isBeyond && pinned != nil:
		return nil, info, disk.ErrChanged
	case isBeyond && start == 0: // it is empty
		if info, err = s.stat(ctx, name); err != nil || info.size == 0 {
			return http.NoBody, info, err
		}
		return nil, info, disk.ErrChanged
	}
	if err := s.missing(u, answer); err != nil {
		return nil, info, err
	}
	content, err := s.checkRange(answer, pinned, start, end)
	if err != nil {
		return nil, info, err
	}
	if info, err = s.infoOf(name, answer, content.total); err != nil {
		return nil, info, err
	}
	if pinned != nil && !isVersion(&info, pinned) {
		return nil, info, disk.ErrChanged
	}
	return webfile.Expect(answer.Body, content.bytes), info, nil
}

// isVersion reports whether an answer is of a version.
func isVersion(info, pinned *objectInfo) bool {
	if info.tag == "" && pinned.tag == "" && !info.mtime.Equal(pinned.mtime) {
		return false
	}
	return info.tag == pinned.tag && info.size == pinned.size
}

// A rangeContent is the content of an answer to a request of a range.
type rangeContent struct {
	bytes int64 // of the content
	total int64 // of the object
}

// checkRange returns which bytes an answer has. They are those of the range that the object has.
func (s *httpStore) checkRange(answer *http.Response, pinned *objectInfo, start, end int64) (rangeContent, error) {
	size := answer.ContentLength
	if answer.StatusCode == http.StatusOK {
		isWhole := start == 0 && size >= 0 && size <= end
		isOther := pinned != nil && (size >= 0 && size != pinned.size || answer.Header.Get("ETag") != pinned.tag)
		switch {
		case isWhole:
			return rangeContent{size, size}, nil
		case isOther:
			return rangeContent{}, disk.ErrChanged
		case size < 0:
			return rangeContent{}, s.unavailable(errors.New("the web server does not tell the size of the file"))
		}
		return rangeContent{}, s.unavailable(errors.New("the web server does not send parts of files"))
	}
	first, last, total, err := webfile.ParseContentRange(answer.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return rangeContent{}, s.unavailable(err)
	case total < 0 && pinned != nil:
		total = pinned.size
	case total < 0:
		return rangeContent{}, s.unavailable(errors.New("the web server does not tell the size of the file"))
	}
	if first != start || last >= end || last >= total {
		return rangeContent{}, s.unavailable(fmt.Errorf("the web server sent the bytes %d to %d instead of %d to %d",
			first, last, start, end-1))
	}
	return rangeContent{min(end, total) - start, total}, nil // it may send fewer
}

// list yields the entries of a directory, of the index or of the web server's own listing.
func (s *httpStore) list(ctx context.Context, dir string) iter.Seq2[objectInfo, error] {
	return func(yield func(objectInfo, error) bool) {
		if s.index != nil {
			s.index.list(dir, yield)
			return
		}
		entries, err := s.autoindex(ctx, dir)
		if err != nil {
			yield(objectInfo{}, err)
			return
		}
		for _, info := range entries {
			if !yield(info, nil) {
				return
			}
		}
	}
}
