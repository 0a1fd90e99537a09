package transfer

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A faultyWriter is the answer of a web server that has a fault in the middle of its body.
type faultyWriter struct {
	http.ResponseWriter
	left  int // bytes until the fault
	fault func(w http.ResponseWriter, p []byte)
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	n := min(w.left, len(p))
	if n > 0 {
		w.left -= n
		if _, err := w.ResponseWriter.Write(p[:n]); err != nil || n == len(p) {
			return n, err
		}
	}
	w.fault(w.ResponseWriter, p[n:])
	return len(p), nil // less would end the answer
}

// abort ends the connection.
func abort(http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) }

// A webFault is what a mirror does from a moment of a transfer on.
type webFault struct {
	// answer answers a request after the first ones; nil serves it with a fault in its body.
	answer func(w http.ResponseWriter, r *http.Request)
	body   func(w http.ResponseWriter, r *http.Request, p []byte)
	state  ServerState // of the mirror at the end
	needed string      // in the reason
	// isRight is set if the mirror goes on delivering right bytes.
	isRight bool
}

// webFaults are faults in mid-transfer. other is another web server; private is one without TLS.
func webFaults(content []byte, other, plain string) map[string]webFault {
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to+r.URL.Path, http.StatusFound) }
	}
	return map[string]webFault{
		"lies": {
			body:  func(w http.ResponseWriter, _ *http.Request, p []byte) { w.Write(make([]byte, len(p))) },
			state: ServerBanned,
		},
		"sends less": {body: func(w http.ResponseWriter, _ *http.Request, p []byte) { abort(w, p) }, isRight: true},
		"dies":       {answer: func(w http.ResponseWriter, _ *http.Request) { abort(w, nil) }, state: ServerLost},
		"is silent": {
			body:    func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done(); abort(nil, nil) },
			isRight: true,
		},
		"drips": {
			body: func(w http.ResponseWriter, r *http.Request, p []byte) {
				for len(p) > 0 && r.Context().Err() == nil {
					w.Write(p[:1])
					w.(http.Flusher).Flush()
					p = p[1:]
					time.Sleep(20 * time.Millisecond) // its rate
				}
				abort(nil, nil)
			},
			isRight: true,
		},
		"sends all": {
			answer: func(w http.ResponseWriter, _ *http.Request) { w.Write(content) },
			state:  ServerLost, needed: "parts of files",
		},
		"sends other ranges": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				r.Header.Set("Range", "bytes=1-1000")
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			},
			state: ServerLost, needed: "instead of",
		},
		"has another size": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(append(content, 1)))
			},
			state: ServerLost, needed: "bytes, not",
		},
		"changes its tag": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"another"`)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			},
			isRight: true,
		},
		"has new tags": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", fmt.Sprintf(`"%d"`, time.Now().UnixNano()))
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			},
			isRight: true,
		},
		"demands a login":  {answer: status(http.StatusUnauthorized), state: ServerLost, needed: "401"},
		"loses the file":   {answer: status(http.StatusNotFound), state: ServerLost, needed: "404"},
		"has fewer bytes":  {answer: status(http.StatusRequestedRangeNotSatisfiable), state: ServerLost, needed: "416"},
		"is busy":          {answer: status(http.StatusServiceUnavailable), state: ServerLost},
		"moves":            {answer: redirect(other), isRight: true},
		"moves to no TLS":  {answer: redirect(plain), state: ServerLost, needed: "not https"},
		"moves in circles": {answer: redirect(""), state: ServerLost, needed: "10 redirects"},
		"compresses": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			},
			state: ServerLost, needed: "gzip",
		},
	}
}

// faultyHandler serves content. Its first answer is right, but pauses in the middle until another
// request has met the fault, which isMet reports.
func faultyHandler(content []byte, fault webFault) (h http.HandlerFunc, isMet func() bool) {
	var n atomic.Int32
	var once sync.Once
	met := make(chan struct{})
	h = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		meet := func() { once.Do(func() { close(met) }) }
		isFaulty := n.Add(1) > 1
		switch {
		case !isFaulty:
			w = &faultyWriter{w, 100_000, func(w http.ResponseWriter, p []byte) {
				select {
				case <-met:
				case <-r.Context().Done():
				}
				w.Write(p)
			}}
		case fault.answer != nil:
			meet()
			fault.answer(w, r)
			return
		default:
			w = &faultyWriter{w, 100_000, func(w http.ResponseWriter, p []byte) { meet(); fault.body(w, r, p) }}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
	return h, func() bool {
		select {
		case <-met:
			return true
		default:
			return false
		}
	}
}

// A mirror that fails in mid-transfer costs what a bad server costs: the file arrives from the
// others, about as fast as without it.
func TestWebMirrorFailsInMidTransfer(t *testing.T) {
	content := someBytes(1, 2<<20) // 1 s from the primary alone
	handler := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
	other := httptest.NewTLSServer(http.HandlerFunc(handler))
	defer other.Close()
	plain := httptest.NewServer(http.HandlerFunc(handler))
	defer plain.Close()
	var wg sync.WaitGroup           // t.Parallel runs two at a time
	slots := make(chan struct{}, 9) // all at once take too long with the race detector
	for name, fault := range webFaults(content, other.URL, plain.URL) {
		w := newWebWorldOf(t, 2<<20, map[string][]byte{"file": content})
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(name, func(t *testing.T) {
				for n := 1; !failsOnce(t, w, name, fault, content); n++ { // the primary may have been faster
					if n == 5 {
						t.Fatal("the fault is never met")
					}
				}
			})
		})
	}
	wg.Wait()
}

// failsOnce fetches the file with a mirror that has a fault. It reports whether the fault was met.
func failsOnce(t *testing.T, w *webWorld, name string, fault webFault, content []byte) (isMet bool) {
	h, met := faultyHandler(content, fault)
	web := httptest.NewUnstartedServer(h)
	web.EnableHTTP2 = len(name)%2 == 0
	web.StartTLS()
	defer web.Close()
	defer web.CloseClientConnections()
	o := w.options()
	o.minExtent = 128 << 10
	o.Mirrors = []WebMirror{{Template: web.URL + "/file"}}
	begun := time.Now()
	result, got := w.getIn(t, "file", o)
	took := time.Since(begun)
	if !bytes.Equal(got, content) {
		t.Fatal("the file is wrong")
	}
	mirrors := fromWeb(result.Servers)
	if !met() || len(mirrors) == 0 {
		return false
	}
	m := mirrors[0]
	isWanted := (fault.state == "" || m.State == fault.state) && strings.Contains(m.Reason, fault.needed)
	isBlamed := fault.isRight && m.State == ServerBanned
	if !isWanted || isBlamed || took > 12*time.Second {
		t.Errorf("%v: %+v", took, m)
	}
	return true
}
