package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"kwikcp/internal/escape"
)

// A buffer holds a log. A summary may be written while a test reads it.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) Len() int { return len(b.String()) }

func (b *buffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

// hostile are texts that forge lines, hide text or break a parser.
var hostile = []string{
	"", "plain", "\n level=ERROR msg=forged", "\r\x1b[2J\x07", "\u0085\u009b31m",
	"\u202egnp.exe\u2066\u2069", "\u2028\u2029",
	"\xff\xfe\xc3", "\U000e0001\U000e007f", "\ufeff\u200b\u00ad", `" err="forged`, "\x00", "\ufffd",
}

// formats are the two formats of a log.
func formats(w *buffer) map[string]slog.Handler {
	o := &slog.HandlerOptions{Level: slog.LevelDebug}
	return map[string]slog.Handler{
		"text": slog.NewTextHandler(w, o), "json": slog.NewJSONHandler(escape.JSON(w), o),
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

// TestAttackLogLines writes texts of clients in every place of a line. A line stays one line of
// bounded length, of printable characters, and JSON stays JSON.
func TestAttackLogLines(t *testing.T) {
	var out buffer
	for format, inner := range formats(&out) {
		for _, text := range hostile {
			for _, times := range []int{1, 7, 5000} {
				s := strings.Repeat(text, times)
				out.Reset()
				log := slog.New(NewHandler(inner)).With("with", s).WithGroup("g")
				log.Warn(s, "path", s, "err", errors.New(s), "stringer", stringer(s), "bytes", []byte(s),
					"any", struct{ S string }{s}, slog.Group("group", "member", s), "end", 7)
				line := out.String()
				body, isLine := strings.CutSuffix(line, "\n")
				isHidden := func(r rune) bool { return !unicode.IsPrint(r) }
				if !isLine || !utf8.ValidString(line) || strings.ContainsFunc(body, isHidden) {
					t.Errorf("%s: %q x %d: %.200q", format, text, times, line)
				}
				if most := MaxLine + MaxValue + 8*minValue + 300; len(line) > most {
					t.Errorf("%s: %q x %d: a line of %d bytes, more than %d", format, text, times, len(line), most)
				}
				if format == "json" && !json.Valid([]byte(body)) {
					t.Errorf("%q x %d: not JSON: %.200s", text, times, line)
				}
			}
		}
	}
}

func TestCut(t *testing.T) {
	long := strings.Repeat("a/", 3000) + "name.bin"
	got := Cut(long, 200)
	shape := regexp.MustCompile(`^a/a/.*\.\.\.\(6008 bytes\)\.\.\..*/name\.bin$`)
	if len(got) > 200 || !shape.MatchString(got) {
		t.Errorf("%q", got)
	}
	for _, s := range []string{"", "short", strings.Repeat("x", 200)} {
		if got := Cut(s, 200); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func FuzzCut(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, 100)
		f.Add(strings.Repeat(s, 100), 100)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = min(max(limit, minValue), 1<<16)
		got := Cut(s, limit)
		if writtenLen(got) > limit {
			t.Errorf("%q: %d bytes of at most %d", got, writtenLen(got), limit)
		}
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("%q was cut in a character: %q", s, got)
		}
		var out buffer
		for format, h := range formats(&out) {
			out.Reset()
			slog.New(h).Info("", "v", got)
			if out.Len() > writtenLen(got)+150 {
				t.Errorf("%s: %q takes %d bytes, not %d", format, got, out.Len(), writtenLen(got))
			}
		}
	})
}

// count returns the lines of a log with a text.
func count(log *buffer, text string) int { return strings.Count(log.String(), text) }

// TestAttackLogFlood floods a log from one session, from many sessions of one address, and from
// many addresses. The lines are bounded, others are still written, and one line has the number of
// those that were dropped.
func TestAttackLogFlood(t *testing.T) {
	for name, c := range map[string]struct {
		client  func(i int) (addr, session string)
		most    int
		mostly  string
		victims string // a client that may still log; empty for none
	}{
		"a session": {func(int) (string, string) { return "192.0.2.1:5", "s" },
			sessionLines.Burst + 10*int(sessionLines.PerSecond) + 1, "192.0.2.1", "192.0.2.1:6"},
		"sessions of an address": {
			func(i int) (string, string) { return fmt.Sprint("192.0.2.1:", i%1000), fmt.Sprint(i) },
			prefixLines.Burst + 10*int(prefixLines.PerSecond) + 1, "192.0.2.1", "192.0.2.2:1"},
		"hosts of a network": {
			func(i int) (string, string) { return fmt.Sprintf("[2001:db8::%x]:1", i%60000), fmt.Sprint(i) },
			prefixLines.Burst + 10*int(prefixLines.PerSecond) + 1, "2001:db8::/64", "[2001:db8:0:1::1]:1"},
		"all addresses": {
			func(i int) (string, string) { return fmt.Sprintf("10.0.%d.%d:1", i/256%256, i%256), fmt.Sprint(i) },
			totalLines.Burst + 10*int(totalLines.PerSecond) + 1, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out buffer
				h := NewHandler(slog.NewTextHandler(&out, nil))
				log := slog.New(h)
				const flood = 100_000 // in 10 s
				for i := range flood {
					addr, session := c.client(i)
					log.With("client", addr, "session", session).Info("attack")
					if i%100 == 99 {
						time.Sleep(10 * time.Millisecond)
					}
				}
				synctest.Wait() // for a summary that is being written
				written := count(&out, "attack")
				if written > c.most || written < c.most/2 {
					t.Errorf("%d lines, want at most %d", written, c.most)
				}
				if c.victims != "" {
					log.Info("honest", "client", c.victims, "session", "other")
				}
				log.Info("own")
				if count(&out, "own") != 1 || c.victims != "" && count(&out, "honest") != 1 {
					t.Error("the lines of others were dropped")
				}
				time.Sleep(2 * summaryInterval)
				synctest.Wait()
				if n := count(&out, fmt.Sprint("lines=", flood-written)); n != 1 || count(&out, "dropped") != 1 {
					t.Errorf("%d lines have the number of dropped lines: %s", n, out.String()[max(0, out.Len()-300):])
				}
				if c.mostly != "" && count(&out, "mostly="+c.mostly) != 1 {
					t.Errorf("the summary does not name %s: %s", c.mostly, out.String()[max(0, out.Len()-300):])
				}
				h.Flush()
				if count(&out, "dropped") != 1 {
					t.Error("a second summary of nothing")
				}
				t.Logf("%d lines of %d, %d bytes", written, flood, out.Len())
			})
		})
	}
}

// TestFlush checks that the end of the process does not hide dropped lines.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		h := NewHandler(slog.NewTextHandler(&out, nil))
		for range sessionLines.Burst + 3 {
			slog.New(h).Info("line", "client", "192.0.2.1:1")
		}
		h.Flush()
		if count(&out, "lines=3") != 1 {
			t.Error(out.String())
		}
	})
}

// TestHonestClients checks that clients which do what people do lose no line.
func TestHonestClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := slog.New(NewHandler(slog.NewTextHandler(&out, nil)))
		for i := range 600 { // a script that fetches ten files a second, and others behind the same address
			for range 10 {
				log.Info("line", "client", "192.0.2.1:1", "session", "a")
			}
			for user := range 4 {
				log.Info("line", "client", "192.0.2.1:2", "session", fmt.Sprint(i, user))
			}
			time.Sleep(time.Second)
		}
		if n := count(&out, "msg=line"); n != 600*14 {
			t.Errorf("%d lines of %d", n, 600*14)
		}
	})
}

func TestNewHandler(t *testing.T) {
	h := NewHandler(slog.DiscardHandler)
	if NewHandler(h) != h {
		t.Error("the limits are doubled")
	}
	if slog.New(h).Handler() != slog.Handler(h) {
		t.Error("a logger has another handler")
	}
}
