// Package logs bounds what clients can make a server log. It bounds the length of a line, and the
// lines of a client and of all clients together.
//
// A line is a client's if it has the attribute "client", the client's address. Its attribute
// "session", if there is one, names the client's session. Lines without "client" have no limit but
// their length. Lines beyond a limit are dropped, and one line a minute has their number.
package logs

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"kwikcp/internal/bucket"
	"kwikcp/internal/netprefix"
)

const (
	// MaxValue bounds a value in a line, in bytes as it is written. A longer one is cut in the
	// middle.
	MaxValue = 1 << 10
	// MaxLine is about the maximum length of a line, in bytes: the values share them. A value of
	// which nothing else is left has minValue.
	MaxLine  = 3 << 10
	minValue = 64
	// maxClients bounds the sessions, and the addresses, that have separate limits.
	maxClients = 4096
	// summaryInterval is how long dropped lines are counted before a line has their number.
	summaryInterval = time.Minute
)

// The limits of lines. A client that fetches single files has a line for each of them. So the
// limits are far above the lines of a program that fetches directories.
var (
	sessionLines = bucket.Rate{PerSecond: 10, Burst: 100}
	prefixLines  = bucket.Rate{PerSecond: 50, Burst: 500}
	totalLines   = bucket.Rate{PerSecond: 300, Burst: 3000}
)

// A Handler passes bounded lines to another handler. It is safe for concurrent use. Handlers that
// WithAttrs or WithGroup return share the limits.
type Handler struct {
	inner  slog.Handler
	lines  *lines
	client client
	length int // of the values in inner
}

// A client is the cause of a line. Without an address it is this server.
type client struct{ addr, session string }

// NewHandler returns a handler that passes bounded lines to inner. If inner is a Handler already,
// it returns inner.
func NewHandler(inner slog.Handler) *Handler {
	if h, ok := inner.(*Handler); ok {
		return h
	}
	return &Handler{inner: inner, lines: newLines(inner)}
}

// Flush writes the number of dropped lines, if there are any.
func (h *Handler) Flush() { h.lines.summarize() }

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	x := *h
	bounded := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		x.client.note(a)
		bounded[i] = x.bound(a)
	}
	x.inner = h.inner.WithAttrs(bounded)
	return &x
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	x := *h
	x.inner = h.inner.WithGroup(name)
	return &x
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	x := *h
	r.Attrs(func(a slog.Attr) bool {
		x.client.note(a)
		return true
	})
	if !h.lines.allow(x.client, time.Now()) {
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, Cut(r.Message, MaxValue), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(x.bound(a))
		return true
	})
	return h.inner.Handle(ctx, line)
}

// note keeps an attribute that names the client.
func (c *client) note(a slog.Attr) {
	switch a.Key {
	case "client":
		c.addr = a.Value.Resolve().String()
	case "session":
		c.session = a.Value.Resolve().String()
	}
}

// bound returns an attribute of which the value is bounded, and counts its length.
func (h *Handler) bound(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	if isNil := v.Kind() == slog.KindAny && v.Any() == nil; isNil {
		return a
	}
	switch v.Kind() {
	case slog.KindGroup:
		group := v.Group()
		bounded := make([]slog.Attr, len(group))
		for i, member := range group {
			bounded[i] = h.bound(member)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(bounded...)}
	case slog.KindString:
		return slog.String(a.Key, h.cut(v.String()))
	case slog.KindAny:
		return slog.String(a.Key, h.cut(text(v.Any())))
	}
	return slog.Attr{Key: a.Key, Value: v} // a number, a time or a truth value
}

func (h *Handler) cut(s string) string {
	s = Cut(s, min(MaxValue, max(minValue, MaxLine-h.length)))
	h.length += writtenLen(s)
	return s
}

// text returns a value as text.
func text(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v) // it survives a panic of the value's method
}

// lines limits the lines of clients, and counts those that were dropped.
type lines struct {
	out slog.Handler // for the number of dropped lines

	mu       sync.Mutex // guards the fields below; not held while a line is written
	sessions *bucket.Keyed[client]
	prefixes *bucket.Keyed[string]
	total    bucket.Bucket
	dropped  drops
	timer    *time.Timer // runs summarize while lines are being dropped; nil if none are
}

// drops are the lines that were dropped since the last summary.
type drops struct {
	lines int
	// mostly is the prefix of the addresses that caused more than half of them, if there is one.
	mostly string
	votes  int // by which mostly leads (Boyer and Moore's majority vote)
}

func newLines(out slog.Handler) *lines {
	return &lines{
		out: out, sessions: bucket.NewKeyed[client](sessionLines, maxClients),
		prefixes: bucket.NewKeyed[string](prefixLines, maxClients),
	}
}

// allow reports whether a line of a client may be written now.
func (l *lines) allow(c client, now time.Time) bool {
	if c.addr == "" {
		return true
	}
	prefix := prefixOf(c.addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions.Delay(c, now) > 0 || l.prefixes.Delay(prefix, now) > 0 || l.total.Delay(totalLines, now) > 0 {
		l.dropped.add(prefix)
		if l.timer == nil {
			l.timer = time.AfterFunc(summaryInterval, l.summarize)
		}
		return false
	}
	l.sessions.Take(c, now)
	l.prefixes.Take(prefix, now)
	l.total.Take(totalLines, now)
	return true
}

func (d *drops) add(prefix string) {
	d.lines++
	switch {
	case d.votes == 0:
		d.mostly, d.votes = prefix, 1
	case d.mostly == prefix:
		d.votes++
	default:
		d.votes--
	}
}

// summarize writes the number of dropped lines, if there are any.
func (l *lines) summarize() {
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	d := l.dropped
	l.dropped = drops{}
	l.mu.Unlock()
	ctx := context.Background()
	if d.lines == 0 || !l.out.Enabled(ctx, slog.LevelWarn) {
		return
	}
	line := slog.NewRecord(time.Now(), slog.LevelWarn, "too many log lines of clients; some were dropped", 0)
	line.AddAttrs(slog.Int("lines", d.lines))
	if d.votes > 0 {
		line.AddAttrs(slog.String("mostly", d.mostly))
	}
	l.out.Handle(ctx, line)
}

// prefixOf returns the addresses that count as one client's, as text. Text that is no address, with
// or without a port, is a separate client.
func prefixOf(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil {
		ap, err := netip.ParseAddrPort(client)
		if err != nil {
			return Cut(client, minValue)
		}
		addr = ap.Addr()
	}
	prefix := netprefix.Of(addr)
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}
