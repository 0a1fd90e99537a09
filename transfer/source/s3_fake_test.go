package source

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	fakeBucket    = "bucket"
	fakeAccessKey = "testaccess"
	fakeSecret    = "very-secret-key"
)

// A fakeS3 is a server of one bucket. It knows as much of S3 as the store needs.
type fakeS3 struct {
	*httptest.Server
	hasVersions bool
	pageSize    int
	// fault answers a request in its place, if it returns true. It is called with the lock held.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	objects  map[string][]fakeVersion // by key; the newest last
	requests []string
}

type fakeVersion struct {
	data  []byte
	etag  string
	id    string
	mtime time.Time
}

func newFakeS3(t testing.TB) *fakeS3 {
	f := &fakeS3{pageSize: 1000, objects: make(map[string][]fakeVersion)}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// store returns a store of the fake that waits for no time.
func (f *fakeS3) store(t testing.TB, prefix string) *s3Store {
	t.Helper()
	u, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	creds := credentials.NewStaticV4(fakeAccessKey, fakeSecret, "")
	s, err := openS3Store(S3Location{fakeBucket, prefix}, S3Options{Endpoint: u, Region: "us-east-1"}, creds)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	clock := time.Unix(1700000000, 0)
	s.now = func() time.Time { return clock }
	s.wait = func(ctx context.Context, d time.Duration) error {
		clock = clock.Add(d)
		return ctx.Err()
	}
	return s
}

func (f *fakeS3) put(key, content string) { f.putBytes(key, []byte(content)) }

func (f *fakeS3) putBytes(key string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(key, content)
}

func (f *fakeS3) add(key string, content []byte) {
	n := len(f.objects[key])
	v := fakeVersion{
		data: content, etag: fmt.Sprintf("etag-%d-%d", len(content), n), mtime: time.Unix(1600000001+int64(n), 5e8),
	}
	if f.hasVersions {
		v.id = fmt.Sprint("version-", n)
	}
	f.objects[key] = append(f.objects[key], v)
}

func (f *fakeS3) remove(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objects, key)
}

// count returns how many requests began with a text: a method and a path.
func (f *fakeS3) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
	if f.fault != nil && f.fault(w, r) {
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case !strings.Contains(r.Header.Get("Authorization"), fakeAccessKey):
		fakeError(w, http.StatusForbidden, "AccessDenied")
	case bucket != fakeBucket:
		fakeError(w, http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.Method == http.MethodGet:
		f.list(w, r)
	case r.Method == http.MethodPut:
		f.add(key, unchunked(r, body))
		w.Header().Set("ETag", `"`+f.objects[key][len(f.objects[key])-1].etag+`"`)
	default:
		f.get(w, r, key)
	}
}

// unchunked returns the content of a PUT request, whose chunks may be signed.
func unchunked(r *http.Request, body []byte) []byte {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return body
	}
	var content []byte
	for {
		head, rest, ok := bytes.Cut(body, []byte("\r\n"))
		size, err := strconv.ParseInt(strings.Split(string(head), ";")[0], 16, 64)
		if !ok || err != nil || size == 0 {
			return content
		}
		content, body = append(content, rest[:size]...), rest[size+2:]
	}
}

func fakeError(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>the fake refuses</Message></Error>", code)
}

func (f *fakeS3) get(w http.ResponseWriter, r *http.Request, key string) {
	versions := f.objects[key]
	if id := r.URL.Query().Get("versionId"); id != "" {
		i := slices.IndexFunc(versions, func(v fakeVersion) bool { return v.id == id })
		if i < 0 {
			fakeError(w, http.StatusNotFound, "NoSuchVersion")
			return
		}
		versions = versions[i : i+1]
	}
	if len(versions) == 0 {
		fakeError(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	v := versions[len(versions)-1]
	w.Header().Set("ETag", `"`+v.etag+`"`)
	if v.id != "" {
		w.Header().Set("X-Amz-Version-Id", v.id)
	}
	if match := r.Header.Get("If-Match"); match != "" && match != `"`+v.etag+`"` {
		fakeError(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	http.ServeContent(w, r, "", v.mtime, bytes.NewReader(v.data))
}

type fakeListing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []fakeContent
	CommonPrefixes        []fakePrefix
	EncodingType          string
}

type fakeContent struct {
	Key          string
	LastModified string
	ETag         string
	Size         int
}

type fakePrefix struct{ Prefix string }

func (f *fakeS3) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	prefix, after := q.Get("prefix"), max(q.Get("start-after"), q.Get("continuation-token"))
	size := f.pageSize
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil && n > 0 {
		size = min(size, n)
	}
	var keys []string
	for key := range f.objects {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	result := fakeListing{EncodingType: "url"}
	seen := make(map[string]bool)
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok || key <= after {
			continue
		}
		if len(result.Contents)+len(seen) == size {
			result.IsTruncated = true
			break
		}
		result.NextContinuationToken = key
		if dir, _, ok := strings.Cut(rest, "/"); ok && q.Get("delimiter") == "/" {
			if dir = prefix + dir + "/"; !seen[dir] {
				seen[dir] = true
				result.CommonPrefixes = append(result.CommonPrefixes, fakePrefix{url.QueryEscape(dir)})
			}
			continue
		}
		v := f.objects[key][len(f.objects[key])-1]
		result.Contents = append(result.Contents, fakeContent{
			url.QueryEscape(key), v.mtime.UTC().Format("2006-01-02T15:04:05.000Z"), `"` + v.etag + `"`, len(v.data),
		})
	}
	if !result.IsTruncated {
		result.NextContinuationToken = ""
	}
	xml.NewEncoder(w).Encode(result)
}
