package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

func TestUnsettled(t *testing.T) {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name      string
		status    int
		age       time.Duration // of the object; negative if its clock is ahead
		cachedFor string        // seconds
		want      time.Duration
	}{
		{"just written", http.StatusOK, 0, "", 2 * time.Second},
		{"a range", http.StatusPartialContent, time.Second, "", time.Second},
		{"old enough", http.StatusOK, settleTime, "", 0},
		{"old", http.StatusOK, time.Hour, "", 0},
		{"of the future", http.StatusOK, -time.Second, "", 0},
		{"cached", http.StatusOK, 0, "1", time.Second},
		{"long cached", http.StatusOK, 0, "60", 0},
		{"wrong age in a cache", http.StatusOK, 0, "-60", 2 * time.Second},
		{"missing", http.StatusNotFound, 0, "", 0},
	} {
		header := http.Header{}
		header.Set("Date", now.Format(http.TimeFormat))
		header.Set("Last-Modified", now.Add(-tc.age).Format(http.TimeFormat))
		if tc.cachedFor != "" {
			header.Set("Age", tc.cachedFor)
		}
		if got := unsettled(&http.Response{StatusCode: tc.status, Header: header}); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	for _, missing := range []string{"Date", "Last-Modified"} {
		header := http.Header{}
		header.Set("Date", now.Format(http.TimeFormat))
		header.Set("Last-Modified", now.Format(http.TimeFormat))
		header.Del(missing)
		if got := unsettled(&http.Response{StatusCode: http.StatusOK, Header: header}); got != 0 {
			t.Errorf("without %s: %v", missing, got)
		}
	}
}

// A settlingServer has an object that was just written, and a clock that moves when somebody waits.
type settlingServer struct {
	*webServer
	now    time.Time
	cached bool // the clock of answers stands still
	waits  []time.Duration
	onWait func(n int) // 1 for the first
}

func newSettlingServer(t *testing.T, content string) (*settlingServer, *httpStore) {
	s := &settlingServer{webServer: newWebServer(t, []byte(content)), now: time.Unix(1700000000, 0)}
	s.fault = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Date", s.now.UTC().Format(http.TimeFormat))
		return false
	}
	base, err := ParseHTTP(s.URL+"/base", true)
	if err != nil {
		t.Fatal(err)
	}
	store, err := openHTTPStore(HTTPOptions{Base: base, AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.close() })
	store.wait = func(_ context.Context, d time.Duration) error {
		s.mu.Lock()
		s.waits = append(s.waits, d)
		if !s.cached {
			s.now = s.now.Add(d)
		}
		s.mu.Unlock()
		if s.onWait != nil {
			s.onWait(len(s.waits))
		}
		return nil
	}
	return s, store
}

// TestFreshObjects replaces an object in the second in which it was written. The new one has the
// same size and the same entity tag.
func TestFreshObjects(t *testing.T) {
	s, store := newSettlingServer(t, "old content")
	s.onWait = func(n int) {
		if n == 1 {
			s.replace([]byte("new content"), s.tag)
		}
	}
	info, err := store.stat(t.Context(), "f")
	if err != nil || len(s.waits) != 1 || s.waits[0] != settleTime {
		t.Fatalf("%+v, %v, waits %v", info, err, s.waits)
	}
	got := ""
	for _, part := range [][2]int64{{0, 4}, {4, 11}} {
		body, _, err := store.get(t.Context(), "f", &info, part[0], part[1])
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(body)
		body.Close()
		if got += string(p); err != nil {
			t.Fatal(err)
		}
	}
	if got != "new content" || len(s.waits) != 1 {
		t.Errorf("%q, waits %v", got, s.waits)
	}
}

// TestObjectThatKeepsChanging checks that the waits for an object end.
func TestObjectThatKeepsChanging(t *testing.T) {
	s, store := newSettlingServer(t, "content")
	s.onWait = func(int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mtime = s.now
	}
	_, _, err := store.get(t.Context(), "f", nil, 0, 3)
	if !errors.Is(err, disk.ErrChanged) || len(s.waits) != maxSettles {
		t.Errorf("%v after waits %v", err, s.waits)
	}
}

// TestFreshObjectOfACache checks that the answer of a cache is not waited for twice.
func TestFreshObjectOfACache(t *testing.T) {
	s, store := newSettlingServer(t, "content")
	s.cached = true
	if info, err := store.stat(t.Context(), "f"); err != nil || info.size != 7 || len(s.waits) != 1 {
		t.Errorf("%+v, %v, waits %v", info, err, s.waits)
	}
}
