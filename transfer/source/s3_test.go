package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

// readRange reads the bytes [start, end) of an object.
func readRange(s store, name string, pinned *objectInfo, start, end int64) (string, objectInfo, error) {
	body, info, err := s.get(context.Background(), name, pinned, start, end)
	if err != nil {
		return "", info, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return string(content), info, err
}

func TestS3Reads(t *testing.T) {
	f := newFakeS3(t)
	f.put("top/dir/file", "0123456789")
	f.put("top/empty", "")
	s := f.store(t, "top")
	info, err := s.stat(t.Context(), "dir/file")
	want := objectInfo{name: "dir/file", size: 10, mtime: time.Unix(1600000001, 0).UTC(), tag: "etag-10-0"}
	if err != nil || !reflect.DeepEqual(info, want) {
		t.Errorf("described as %+v: %v", info, err)
	}
	empty, err := s.stat(t.Context(), "empty")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		pinned     *objectInfo
		start, end int64
		want       string
	}{
		{"dir/file", &info, 0, 10, "0123456789"},
		{"dir/file", &info, 3, 5, "34"},
		{"dir/file", nil, 8, 100, "89"},
		{"dir/file", &info, 10, 100, ""},
		{"empty", &empty, 0, 100, ""},
		{"empty", nil, 0, 100, ""},
	} {
		got, described, err := readRange(s, tt.name, tt.pinned, tt.start, tt.end)
		if err != nil || got != tt.want || described.name != tt.name {
			t.Errorf("%s [%d, %d): %q of %+v: %v", tt.name, tt.start, tt.end, got, described, err)
		}
	}
	for _, name := range []string{"missing", "dir", strings.Repeat("x", 1100), "\xff"} {
		if _, err := s.stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%.10q is described: %v", name, err)
		}
		if _, _, err := readRange(s, name, nil, 0, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%.10q is read: %v", name, err)
		}
	}
}

func TestS3Lists(t *testing.T) {
	f := newFakeS3(t)
	var want []string
	for i := range 2500 {
		name := fmt.Sprintf("file+%04d ä&<", i)
		f.put("top/dir/"+name, "x")
		want = append(want, name)
	}
	for _, key := range []string{
		"top/dir/", "top/dir//b", "top/dir/../c", "top/dir/sub/x", "top/dir/sub/y", "top/other", "z",
	} {
		f.put(key, "x")
	}
	want = append(want, "/", "../", "sub/")
	slices.Sort(want)
	broken := 0
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		switch token := r.URL.Query().Get("continuation-token"); {
		case broken == 0 && token != "": // the second page
			broken++
			fakeError(w, http.StatusServiceUnavailable, "SlowDown")
			return true
		case broken == 1 && token != "": // it again, which breaks off
			broken++
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `<ListBucketResult><Contents><Key>top/dir/file`)
			return true
		}
		return false
	}
	s := f.store(t, "top")
	got := make(map[string]bool)
	for info, err := range s.list(t.Context(), "dir") {
		if err != nil {
			t.Fatal(err)
		}
		name := info.name
		if info.isDir {
			name += "/"
		} else if info.size != 1 || info.tag != "etag-1-0" || info.mtime.Nanosecond() != 0 {
			t.Errorf("%q is listed as %+v", name, info)
		}
		got[name] = true
	}
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, want) || broken != 2 {
		t.Errorf("%d names, want %d, after %d faults", len(names), len(want), broken)
	}
}

// TestS3ListingIsWholeOrFails lists a bucket whose last page is never answered.
func TestS3ListingIsWholeOrFails(t *testing.T) {
	f := newFakeS3(t)
	for i := range 3 {
		f.put(fmt.Sprint(i), "x")
	}
	f.pageSize = 2
	s := f.store(t, "")
	for what, fault := range map[string]func(w http.ResponseWriter){
		"500":           func(w http.ResponseWriter) { fakeError(w, 500, "InternalError") },
		"no bucket":     func(w http.ResponseWriter) { fakeError(w, 404, "NoSuchBucket") },
		"denied":        func(w http.ResponseWriter) { fakeError(w, 403, "AccessDenied") },
		"truncated XML": func(w http.ResponseWriter) { io.WriteString(w, "<ListBucketResult><Contents>") },
		"no token": func(w http.ResponseWriter) {
			io.WriteString(w, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
		},
	} {
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("continuation-token") == "" && r.URL.Query().Get("start-after") == "" {
				return false
			}
			fault(w)
			return true
		}
		var last error
		for _, err := range s.list(t.Context(), "") {
			last = err
		}
		if last == nil {
			t.Errorf("%s: the listing ends without an error", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range s.list(ctx, "") {
		last = err
	}
	if last == nil {
		t.Error("a canceled listing ends without an error")
	}
}

// TestS3Faults reads an object while a fault lasts for some requests.
func TestS3Faults(t *testing.T) {
	const forever = 1 << 30
	answer := func(status int, code string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { fakeError(w, status, code) }
	}
	unavailable := func(err error) bool { _, ok := errors.AsType[*Unavailable](err); return ok }
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) && !unavailable(err) }
	}
	for _, tt := range []struct {
		name     string
		fault    func(http.ResponseWriter, *http.Request)
		lasts    int
		requests int // most that are sent
		is       func(error) bool
	}{
		{"throttled for a while", answer(503, "SlowDown"), 8, 9, nil},
		{"throttled", answer(503, "SlowDown"), forever, 20, unavailable},
		{"throttled with 429", answer(429, ""), 3, 4, nil},
		{"fails for a while", answer(500, "InternalError"), 2, 3, nil},
		{"fails", answer(500, "InternalError"), forever, maxAttempts, unavailable},
		{"times out", answer(400, "RequestTimeout"), 1, 2, nil},
		{"bad gateway", answer(502, ""), 1, 2, nil},
		{"denied", answer(403, "AccessDenied"), forever, 1, is(fs.ErrPermission)},
		{"wrong key", answer(403, "InvalidAccessKeyId"), forever, 1, unavailable},
		{"bucket is gone", answer(404, "NoSuchBucket"), forever, 1, unavailable},
		{"removed", answer(404, "NoSuchKey"), forever, 1, is(disk.ErrChanged)},
		{"replaced", answer(412, "PreconditionFailed"), forever, 1, is(disk.ErrChanged)},
		{"breaks off before the answer", func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, 1, 3, nil},
		{"breaks off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.Header().Set("ETag", `"etag-10-0"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(206)
			io.WriteString(w, "23")
		}, forever, 1, is(io.ErrUnexpectedEOF)},
		{"sends fewer bytes", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.Header().Set("ETag", `"etag-10-0"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			w.WriteHeader(206)
			io.WriteString(w, "23")
		}, forever, 1, is(io.ErrUnexpectedEOF)},
		{"wrong entity tag", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.Header().Set("ETag", `"another"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			w.WriteHeader(206)
			io.WriteString(w, "2345")
		}, forever, 1, is(disk.ErrChanged)},
		{"another size", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/11")
			w.Header().Set("ETag", `"etag-10-0"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			w.WriteHeader(206)
			io.WriteString(w, "2345")
		}, forever, 1, is(disk.ErrChanged)},
		{"another range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 3-6/10")
			w.Header().Set("ETag", `"etag-10-0"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			w.WriteHeader(206)
			io.WriteString(w, "3456")
		}, forever, 1, unavailable},
		{"no ranges", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"etag-10-0"`)
			w.Header().Set("Last-Modified", "Sun, 13 Sep 2020 12:26:41 GMT")
			io.WriteString(w, "0123456789")
		}, forever, 1, unavailable},
		{"an error page", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			io.WriteString(w, strings.Repeat("<html>busy", 1000))
		}, forever, 20, unavailable},
	} {
		f := newFakeS3(t)
		f.put("file", "0123456789")
		s := f.store(t, "")
		pinned, err := s.stat(t.Context(), "file")
		if err != nil {
			t.Fatal(err)
		}
		sent := 0
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if sent++; sent > tt.lasts {
				return false
			}
			tt.fault(w, r)
			return true
		}
		began := s.now()
		got, _, err := readRange(s, "file", &pinned, 2, 6)
		switch {
		case tt.is == nil && (err != nil || got != "2345"):
			t.Errorf("%s: read %q: %v", tt.name, got, err)
		case tt.is != nil && (err == nil || !tt.is(err)):
			t.Errorf("%s: %v", tt.name, err)
		case err != nil && strings.Contains(err.Error(), fakeSecret):
			t.Errorf("%s: the error has the secret: %v", tt.name, err)
		case err != nil && len(err.Error()) > 400:
			t.Errorf("%s: the error has %d bytes", tt.name, len(err.Error()))
		}
		if waited := s.now().Sub(began); sent > tt.requests || waited > throttledFor {
			t.Errorf("%s: %d requests in %v", tt.name, sent, waited)
		}
	}
}

func TestS3RetryEndsWithContext(t *testing.T) {
	f := newFakeS3(t)
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		fakeError(w, 503, "SlowDown")
		return true
	}
	s := f.store(t, "")
	s.now, s.wait = time.Now, waitFor
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := s.stat(ctx, "file")
	if took := time.Since(start); err == nil || took > 10*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

// TestS3PinsVersions replaces an object after it was opened.
func TestS3PinsVersions(t *testing.T) {
	for _, hasVersions := range []bool{false, true} {
		f := newFakeS3(t)
		f.hasVersions = hasVersions
		f.put("file", "0123456789")
		s := f.store(t, "")
		pinned, err := s.stat(t.Context(), "file")
		if err != nil {
			t.Fatal(err)
		}
		f.put("file", "abcdefghij")
		got, _, err := readRange(s, "file", &pinned, 0, 10)
		if hasVersions && (err != nil || got != "0123456789") {
			t.Errorf("read %q of a bucket with versions: %v", got, err)
		}
		if !hasVersions && !errors.Is(err, disk.ErrChanged) {
			t.Errorf("read %q of a bucket without versions: %v", got, err)
		}
		now, err := s.stat(t.Context(), "file")
		if err != nil || now.versionTag() == pinned.versionTag() {
			t.Errorf("both versions have the tag %x: %v", now.versionTag(), err)
		}
		f.remove("file")
		if got, _, err := readRange(s, "file", &pinned, 0, 10); !errors.Is(err, disk.ErrChanged) {
			t.Errorf("read %q of a version that is gone: %v", got, err)
		}
	}
}

func TestS3Check(t *testing.T) {
	f := newFakeS3(t)
	s := f.store(t, "empty")
	if err := s.check(t.Context()); err != nil {
		t.Errorf("a bucket without objects: %v", err)
	}
	for code, target := range map[string]error{"NoSuchBucket": ErrNoBucket, "AccessDenied": fs.ErrPermission} {
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			fakeError(w, 404, code)
			return true
		}
		err := s.check(t.Context())
		if _, ok := errors.AsType[*Unavailable](err); !ok || !errors.Is(err, target) {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestTreeFiles(t *testing.T) {
	f := newFakeS3(t)
	trees := &TreeFiles{f.store(t, "top")}
	key := []byte("file\x00version")
	if _, err := trees.Get(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file before it was written: %v", err)
	}
	content := strings.Repeat("tree", 100_000)
	if err := trees.Put(t.Context(), key, []byte(content)); err != nil {
		t.Fatal(err)
	}
	got, err := trees.Get(t.Context(), key)
	if err != nil || string(got) != content {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	if n := f.count("PUT /bucket/top/.kwikcp/trees/"); n != 1 {
		t.Errorf("%d files were written", n)
	}
	for _, name := range []string{treeFile(key), ".kwikcp", ".kwikcp/trees"} {
		if _, err := trees.store.stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q is described: %v", name, err)
		}
		if _, _, err := readRange(trees.store, name, nil, 0, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q is read: %v", name, err)
		}
	}
	f.put("top/sub/.kwikcp", "a file of a user")
	for _, dir := range []string{"", ".kwikcp", ".kwikcp/trees"} {
		for info, err := range trees.store.list(t.Context(), dir) {
			if err != nil || info.name != "sub" {
				t.Errorf("%q has the entry %q: %v", dir, info.name, err)
			}
		}
	}
	if _, err := trees.store.stat(t.Context(), "sub/.kwikcp"); err != nil {
		t.Error(err)
	}
	var refused atomic.Int32
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			refused.Add(1)
			fakeError(w, 403, "AccessDenied")
		}
		return r.Method == http.MethodPut
	}
	if err := trees.Put(t.Context(), key, nil); !errors.Is(err, fs.ErrPermission) || refused.Load() != 1 {
		t.Errorf("after %d refusals: %v", refused.Load(), err)
	}
}
