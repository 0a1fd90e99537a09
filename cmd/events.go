package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

// progressEvery is how often a progress event is printed at most. While bytes are awaited there is one a second at least.
const progressEvery = time.Second / 2

// events prints a transfer as JSON, one object a line (README, "JSON"). Field names are kept for ever; fields are only
// added.
type events struct {
	enc  *json.Encoder
	last time.Time // of the newest progress event
}

func newEvents(w io.Writer) *events {
	enc := json.NewEncoder(printableJSON{w})
	enc.SetEscapeHTML(false)
	return &events{enc: enc}
}

// printableJSON writes JSON, each Write whole values, with escapes for what is not printable and JSON lets be: a name may hold bytes that a
// terminal obeys, or that turn the direction of what follows.
type printableJSON struct{ w io.Writer }

func (p printableJSON) Write(b []byte) (int, error) {
	escaped := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			escaped = utf8.AppendRune(escaped, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	if _, err := p.w.Write(escaped); err != nil {
		return 0, err
	}
	return len(b), nil
}

// event begins every event.
type event struct {
	V     int    `json:"v"`
	Event string `json:"event"`
}

type serverJSON struct {
	ID    kwik.ServerID `json:"id"`
	Role  string        `json:"role"`
	Addr  string        `json:"addr"`
	State string        `json:"state"`
	Bytes int64         `json:"bytes"`
	Rate  *int64        `json:"rate,omitempty"` // bytes a second
	RTTms *float64      `json:"rtt_ms,omitempty"`
}

func (e *events) start(url, path string) {
	e.enc.Encode(struct {
		event
		URL  string `json:"url"`
		Path string `json:"path"`
	}{event{1, "start"}, url, path})
}

// Hashing implements transfer.Reporter.
func (e *events) Hashing(bytes, total int64) {
	e.enc.Encode(struct {
		event
		Bytes int64 `json:"bytes"`
		Total int64 `json:"total"`
	}{event{1, "hashing"}, bytes, total})
}

// Manifest implements transfer.Reporter.
func (e *events) Manifest(m transfer.Manifest) {
	e.enc.Encode(struct {
		event
		Size   int64  `json:"size"`
		BLAKE3 string `json:"blake3"`
		Group  int64  `json:"group"` // bytes
	}{event{1, "manifest"}, m.Size, m.Root.String(), m.Group})
}

// Checking implements transfer.Reporter.
func (e *events) Checking(bytes, total int64) {
	e.enc.Encode(struct {
		event
		Bytes int64 `json:"bytes"`
		Total int64 `json:"total"`
	}{event{1, "checking"}, bytes, total})
}

// Resume implements transfer.Reporter.
func (e *events) Resume(bytes int64) {
	e.enc.Encode(struct {
		event
		Bytes int64 `json:"bytes"`
	}{event{1, "resume"}, bytes})
}

// Retry implements transfer.Reporter.
func (e *events) Retry(r transfer.Retry) {
	_, message, _ := explain(r.Err)
	e.enc.Encode(struct {
		event
		Attempt int     `json:"attempt"`
		Of      int     `json:"of"`
		Delay   float64 `json:"delay_s"`
		Message string  `json:"message"` // why
	}{event{1, "retry"}, r.Attempt, r.Of, r.Delay.Seconds(), message})
}

// Server implements transfer.Reporter.
func (e *events) Server(s transfer.ServerStatus) {
	e.enc.Encode(struct {
		event
		ID     kwik.ServerID `json:"id"`
		Role   string        `json:"role"`
		Addr   string        `json:"addr"`
		State  string        `json:"state"`
		Reason string        `json:"reason"`
	}{event{1, "server"}, s.ID, s.Role.String(), s.Addr, string(s.State), s.Reason})
}

// BadBlock implements transfer.Reporter.
func (e *events) BadBlock(server kwik.ServerID, off, length int64) {
	e.enc.Encode(struct {
		event
		Server kwik.ServerID `json:"server"`
		Offset int64         `json:"offset"`
		Length int64         `json:"length"`
	}{event{1, "bad_block"}, server, off, length})
}

// Progress implements transfer.Reporter.
func (e *events) Progress(p transfer.Progress) {
	now := time.Now()
	if p.Bytes < p.Total && now.Sub(e.last) < progressEvery {
		return
	}
	e.last = now
	var eta *float64
	if p.ETA >= 0 {
		seconds := p.ETA.Seconds()
		eta = &seconds
	}
	servers := []serverJSON{}
	for _, s := range p.Servers {
		bytesPerSecond, rtt := wholeRate(s.Rate), float64(s.RTT)/float64(time.Millisecond)
		servers = append(servers, serverJSON{
			ID: s.ID, Role: s.Role.String(), Addr: s.Addr, State: string(s.State), Bytes: s.Bytes,
			Rate: &bytesPerSecond, RTTms: &rtt,
		})
	}
	e.enc.Encode(struct {
		event
		Bytes   int64        `json:"bytes"`
		Total   int64        `json:"total"`
		Rate    int64        `json:"rate"`
		ETA     *float64     `json:"eta_s"` // null while unknown
		Servers []serverJSON `json:"servers"`
		Files   int64        `json:"files,omitempty"`    // of a mirror, in place
		OfFiles int64        `json:"of_files,omitempty"` // of a mirror, as far as is known
	}{event{1, "progress"}, p.Bytes, p.Total, wholeRate(p.Rate), eta, servers, p.Files, p.OfFiles})
}

// wholeRate returns a rate as an integer of bytes a second, whatever it is.
func wholeRate(rate float64) int64 {
	if rate >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(max(rate, 0))
}

// A resultJSON is what a get ended with.
type resultJSON struct {
	event
	OK        bool         `json:"ok"`
	ExitCode  int          `json:"exit_code"`
	ErrorCode string       `json:"error_code"`
	Message   string       `json:"message"`
	Path      string       `json:"path"`
	Bytes     int64        `json:"bytes"`
	Seconds   float64      `json:"seconds"`
	BLAKE3    string       `json:"blake3"`
	Resumed   int64        `json:"resumed_bytes"`
	Wasted    int64        `json:"wasted_bytes"`
	Servers   []serverJSON `json:"servers"`
	UpToDate  bool         `json:"up_to_date"`
	Offset    int64        `json:"offset"`
}

func newResult(r transfer.Result, err error) resultJSON {
	code, message, _ := explain(err)
	servers := []serverJSON{}
	for _, s := range r.Servers {
		servers = append(servers, serverJSON{ID: s.ID, Role: s.Role.String(), Addr: s.Addr, State: string(s.State), Bytes: s.Bytes})
	}
	root := ""
	if r.Root != (transfer.Result{}).Root {
		root = r.Root.String()
	}
	return resultJSON{
		event: event{1, "result"}, OK: err == nil, ExitCode: code, ErrorCode: errorCode(err), Message: message, Path: r.Path, Bytes: r.Bytes,
		Seconds: r.Seconds, BLAKE3: root, Resumed: r.Resumed, Wasted: r.Wasted, Servers: servers, UpToDate: r.UpToDate, Offset: r.Offset,
	}
}

// result prints the last event, exactly once.
func (e *events) result(r transfer.Result, err error) { e.enc.Encode(newResult(r, err)) }
