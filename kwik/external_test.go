package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
)

// A webServer is an external source of a world. It answers after a delay. Each fetch has a rate,
// and so have all together.
type webServer struct {
	*ExternalSource
	w     *world
	data  []byte
	delay time.Duration
	rate  float64 // bytes a second of one fetch; 0 for no limit
	all   float64 // of all fetches
	fault func(n int, start, end int64) error
	spoil func(n int, r io.Reader) io.Reader

	mu      sync.Mutex
	fetches int
	open    int
	most    int // fetches at a time
	sent    int64
	small   int // fetches of less than a megabyte
	busy    time.Time
}

func (w *world) web(c ExternalConfig) *webServer {
	w.t.Helper()
	if c.ID == "" {
		c.ID = "web:1"
	}
	e, err := NewExternalSource(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return &webServer{ExternalSource: e, w: w, data: w.data, delay: 30 * time.Millisecond, all: 100e6}
}

// fetch is a FetchFunc.
func (s *webServer) fetch(ctx context.Context, start, end int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.fetches++
	n := s.fetches
	s.open++
	s.most = max(s.most, s.open)
	if end-start < 1<<20 {
		s.small++
	}
	s.mu.Unlock()
	f := &webFetch{s: s, ctx: ctx, r: bytes.NewReader(s.data[start:end])}
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		f.Close()
		return nil, ctx.Err()
	}
	if s.fault != nil {
		if err := s.fault(n, start, end); err != nil {
			f.Close()
			return nil, err
		}
	}
	if s.spoil != nil {
		f.r = s.spoil(n, f.r)
	}
	return f, nil
}

type webFetch struct {
	s    *webServer
	ctx  context.Context
	r    io.Reader
	once sync.Once
}

func (f *webFetch) Read(p []byte) (int, error) {
	n, err := f.r.Read(p[:min(len(p), 16<<10)])
	s := f.s
	s.mu.Lock()
	s.sent += int64(n)
	now := time.Now()
	if s.busy.Before(now) {
		s.busy = now
	}
	s.busy = s.busy.Add(time.Duration(float64(n) / s.all * 1e9))
	wait := s.busy.Sub(now)
	s.mu.Unlock()
	if s.rate > 0 {
		wait = max(wait, time.Duration(float64(n)/s.rate*1e9))
	}
	select {
	case <-time.After(wait):
	case <-f.ctx.Done():
		return n, f.ctx.Err()
	}
	return n, err
}

func (f *webFetch) Close() error {
	f.once.Do(func() {
		f.s.mu.Lock()
		f.s.open--
		f.s.mu.Unlock()
	})
	return nil
}

// bytesOf returns how many bytes of a stream a server delivered.
func bytesOf(s *AggregateReader, id ServerID) int64 {
	for _, src := range s.Stats().Sources {
		if src.Server == id {
			return src.Bytes
		}
	}
	return 0
}

// goneOf returns why a server does not serve a stream any more.
func goneOf(s *AggregateReader, id ServerID) error {
	for _, src := range s.Stats().Sources {
		if src.Server == id {
			return src.Gone
		}
	}
	return nil
}

// slowLink is that of a primary at 20 MB/s.
var slowLink = simnet.Link{Latency: 2 * time.Millisecond, Rate: 160e6}

// withWeb copies a stream from a slow primary and a web server.
func withWeb(
	t *testing.T, size int, c ExternalConfig, set func(*webServer), check func(*webServer, *copying, time.Duration),
) {
	t.Helper()
	inWorldOf(t, size, 0, slowLink, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, 64<<10, w.prove)
		web := w.web(c)
		set(web)
		if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		copied := w.copy(s)
		copied.wantAll()
		took := time.Since(begun)
		s.Close()
		if web.open != 0 {
			t.Errorf("%d fetches are open after Close", web.open)
		}
		check(web, copied, took)
	})
}

func TestExternalDelivers(t *testing.T) {
	withWeb(t, 48<<20, ExternalConfig{}, func(*webServer) {}, func(web *webServer, c *copying, took time.Duration) {
		n := bytesOf(c.s, "web:1")
		isCounted := 32<<20 <= n && n <= web.sent && web.sent <= n+4<<20
		if !isCounted || took > time.Second {
			t.Errorf("%d bytes of %d sent counted, in %v", n, web.sent, took)
		}
		if web.most != firstFetches || web.small > 8 {
			t.Errorf("%d fetches at a time, %d small ones of %d", web.most, web.small, web.fetches)
		}
		if st := web.Stats(); st.State != PathActive || st.RTT < 30*time.Millisecond || st.Role.String() != "web" {
			t.Errorf("%+v", st)
		}
	})
}

// A source that fails in one way or another costs little, and no wrong byte.
func TestExternalFails(t *testing.T) {
	const size = 24 << 20 // 1.3 s from the primary alone
	errDown := errors.New("down")
	for name, tt := range map[string]struct {
		fault  func(n int, start, end int64) error
		spoil  func(n int, r io.Reader) io.Reader
		state  PathState
		least  int64 // bytes that the source delivers
		most   time.Duration
		needed string // in the reason why it is gone
	}{
		"refuses for ever": {
			fault: func(int, int64, int64) error { return &FetchError{Err: errDown, Permanent: true} },
			state: PathClosed, most: 1500 * time.Millisecond, needed: "down",
		},
		"is down": {
			fault: func(int, int64, int64) error { return errDown }, state: PathClosed, most: 1500 * time.Millisecond,
		},
		"fails once": {
			fault: func(n int, _, _ int64) error {
				if n == 1 {
					return errDown
				}
				return nil
			},
			state: PathActive, least: 8 << 20, most: time.Second,
		},
		"ends early": {
			spoil: func(_ int, r io.Reader) io.Reader { return io.LimitReader(r, 100_000) },
			state: PathClosed, least: 1, most: 1500 * time.Millisecond,
		},
		"lies": {
			spoil: func(int, io.Reader) io.Reader { return bytes.NewReader(make([]byte, size)) },
			state: PathBanned, most: 1500 * time.Millisecond, needed: "wrong",
		},
		"is silent": {
			spoil: func(_ int, r io.Reader) io.Reader { return silentAfter(r, 200_000) },
			state: PathActive, most: 3 * time.Second,
		},
		"takes two at a time": {
			fault: func(n int, _, _ int64) error {
				if n == 3 || n == 4 {
					return errDown
				}
				return nil
			},
			state: PathActive, least: 12 << 20, most: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withWeb(t, size, ExternalConfig{}, func(web *webServer) { web.fault, web.spoil = tt.fault, tt.spoil },
				func(web *webServer, c *copying, took time.Duration) {
					n, gone := bytesOf(c.s, "web:1"), goneOf(c.s, "web:1")
					if n < tt.least || took > tt.most || web.Stats().State != tt.state {
						t.Errorf("%d bytes in %v, %v: %+v", n, took, gone, web.Stats())
					}
					if tt.needed != "" && (gone == nil || !strings.Contains(gone.Error(), tt.needed)) {
						t.Errorf("it is gone because of %v", gone)
					}
				})
		})
	}
}

// A silentReader never returns bytes, for a day.
type silentReader struct{}

func silentAfter(r io.Reader, n int64) io.Reader {
	return io.MultiReader(io.LimitReader(r, n), silentReader{})
}

func (silentReader) Read([]byte) (int, error) { time.Sleep(24 * time.Hour); return 0, io.EOF }

// A stream goes on with an external source alone when its primary dies.
func TestExternalAlone(t *testing.T) {
	inWorldOf(t, 24<<20, 0, slowLink, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, 64<<10, w.prove)
		web := w.web(ExternalConfig{})
		web.all = 20e6
		web.fault = func(n int, _, _ int64) error { // it has its own troubles
			if n%3 == 0 {
				return &FetchError{Err: errors.New("busy"), RetryAfter: 5 * time.Second}
			}
			return nil
		}
		if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
			t.Fatal(err)
		}
		c := w.copy(s)
		time.Sleep(200 * time.Millisecond)
		w.primary.kill()
		c.wantAll()
		client.CloseWithError(0, "")
	})
}

// The stream ends with an error if its only source fails for ever.
func TestExternalAloneFails(t *testing.T) {
	inWorldOf(t, 24<<20, 0, slowLink, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, 64<<10, w.prove)
		web := w.web(ExternalConfig{})
		web.fault = func(int, int64, int64) error { return errors.New("the mirror is down") }
		if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
			t.Fatal(err)
		}
		c := w.copy(s)
		time.Sleep(200 * time.Millisecond)
		w.primary.kill()
		<-c.done
		wantError(t, c.err, ErrAggregationTimeout)
		client.CloseWithError(0, "")
	})
}

// There are as many fetches at a time as are fastest.
func TestExternalWidth(t *testing.T) {
	for name, tt := range map[string]struct {
		fetches   int
		rate, all float64
		want      int
	}{
		"each fetch is slow":  {0, 2e5, 100e6, maxFetches},
		"all share":           {0, 0, 8e5, firstFetches},
		"a number was chosen": {2, 2e5, 100e6, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, 20<<20, 0, simnet.Link{Latency: 2 * time.Millisecond, Rate: 4e6}, func(w *world) {
				client, server := w.dial(nil)
				s := w.offer(client, server, 64<<10, w.prove)
				web := w.web(ExternalConfig{Fetches: tt.fetches, MinExtent: 256 << 10})
				web.rate, web.all = tt.rate, tt.all
				if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
					t.Fatal(err)
				}
				w.copy(s).wantAll()
				if got := web.trials().width; got != tt.want {
					t.Errorf("%d fetches at a time, want %d", got, tt.want)
				}
				s.Close()
			})
		})
	}
}

// The client's rate limit counts the bytes of external sources, too.
func TestExternalRateLimit(t *testing.T) {
	inWorldOf(t, 8<<20, 0, slowLink, func(w *world) {
		client, server := w.dial(&ClientConfig{Config: Config{RateLimit: NewRateLimit(4 << 20)}})
		s := w.offer(client, server, 64<<10, w.prove)
		web := w.web(ExternalConfig{})
		if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		w.copy(s).wantAll()
		if took := time.Since(begun); took < 1700*time.Millisecond || took > 3*time.Second || bytesOf(s, "web:1") == 0 {
			t.Errorf("8 MiB at 4 MiB/s took %v, %d bytes of the mirror", took, bytesOf(s, "web:1"))
		}
	})
}

// A reader that takes the bytes in order receives those of the source within its window.
func TestExternalInOrder(t *testing.T) {
	inWorldOf(t, 24<<20, 1, slowLink, func(w *world) {
		client, server := w.dial(&ClientConfig{ReorderWindow: minReorderWindow})
		s := w.offer(client, server, 64<<10, w.prove)
		web := w.web(ExternalConfig{})
		if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, w.data) || bytesOf(s, "web:1") == 0 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		s.Close()
	})
}

// A source that lied in one stream is not used in the next.
func TestExternalStaysBanned(t *testing.T) {
	inWorldOf(t, 8<<20, 0, slowLink, func(w *world) {
		client, server := w.dial(nil)
		web := w.web(ExternalConfig{})
		web.data = randomBytes(9, len(w.data))
		for range 2 {
			s := w.offer(client, server, 64<<10, w.prove)
			if err := s.AddExternal(web.ExternalSource, web.fetch); err != nil {
				t.Fatal(err)
			}
			before := web.fetches
			w.copy(s).wantAll()
			if banned := before > 0; banned && web.fetches != before {
				t.Errorf("%d fetches after the ban", web.fetches-before)
			}
			s.Close()
		}
		if web.fetches == 0 {
			t.Error("it was never used")
		}
	})
}

// TestExternalSeeds copies streams from sources with random faults, rates and deaths.
func TestExternalSeeds(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 16))
			inWorldOf(t, 1+dice.IntN(4<<20), dice.IntN(3), slowLink, func(w *world) {
				client, server := w.dial(nil)
				s := w.offer(client, server, 1<<(10+dice.IntN(8)), w.prove)
				for i := range 1 + dice.IntN(3) {
					web := w.web(ExternalConfig{ID: ServerID(fmt.Sprintf("web:%d", i)), Fetches: dice.IntN(5),
						MinExtent: 1 << (12 + dice.IntN(11)), SilenceTimeout: 2 * time.Second})
					web.delay, web.all = time.Duration(dice.IntN(200))*time.Millisecond, 1e5+dice.Float64()*5e7
					web.fault = func(int, int64, int64) error {
						web.mu.Lock() // also the dice's
						defer web.mu.Unlock()
						switch dice.IntN(8) {
						case 0:
							return errors.New("fault")
						case 1:
							return &FetchError{Err: errors.New("fault"), Permanent: dice.IntN(4) == 0}
						}
						return nil
					}
					web.spoil = func(n int, r io.Reader) io.Reader {
						switch {
						case n%5 == 0:
							return io.LimitReader(r, 50_000)
						case n%7 == 0:
							return silentAfter(r, 70_000)
						case seed%5 == 0 && n%6 == 0:
							return bytes.NewReader(make([]byte, len(w.data)))
						}
						return r
					}
					time.AfterFunc(time.Duration(dice.IntN(500))*time.Millisecond, func() {
						s.AddExternal(web.ExternalSource, web.fetch) // an error if the stream has ended
					})
				}
				w.copy(s).wantAll()
				s.Close()
				synctest.Wait()
			})
		})
	}
}

func TestExternalNames(t *testing.T) {
	long := ServerID("web:" + strings.Repeat("x", 64))
	for _, id := range []ServerID{"", "web:", "s1", "primary", "web:a+b", "web:a b", long} {
		if _, err := NewExternalSource(ExternalConfig{ID: id}); err == nil {
			t.Errorf("%q names an external source", id)
		}
	}
	if ServerID("web:1").valid() {
		t.Error("a primary may give the name of an external source")
	}
	for _, c := range []ExternalConfig{{Fetches: -1}, {Fetches: 17}, {MinExtent: -1}, {SilenceTimeout: -1}} {
		c.ID = "web:1"
		if _, err := NewExternalSource(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
