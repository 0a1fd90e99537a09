package cmd

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"kwikcp/internal/escape"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// progressInterval is the least time between two progress events. The transfer reports more often,
// so that there is at least one event per second.
const progressInterval = time.Second / 2

// events prints JSON, one object per line (docs/events.schema.json). Fields are never renamed or
// removed. It is a transfer.Reporter and a transfer.MirrorReporter.
type events struct {
	enc  *json.Encoder
	last time.Time // of the newest progress event
	// silent is the silence of the newest waiting event; 0 after its end.
	silent time.Duration
}

func newEvents(w io.Writer) *events {
	enc := json.NewEncoder(escape.JSON(w))
	enc.SetEscapeHTML(false)
	return &events{enc: enc}
}

// print prints an event. An error of stdout is reported at the end of the command.
func (e *events) print(event any) { e.enc.Encode(event) }

// An event is the head of every event.
type event struct {
	V     int    `json:"v"`
	Event string `json:"event"`
}

func newEvent(name string) event { return event{V: 1, Event: name} }

// An outcome is the head of the last event of a command.
type outcome struct {
	event
	OK        bool   `json:"ok"`
	ExitCode  int    `json:"exit_code"`
	ErrorCode string `json:"error_code"`
	Message   string `json:"message"`
}

func newOutcome(name string, err error) outcome {
	code, message, _ := explain(err)
	return outcome{event: newEvent(name), OK: err == nil, ExitCode: code, ErrorCode: errorCode(err), Message: message}
}

// A nameJSON is a name of any bytes in JSON, which is UTF-8.
type nameJSON struct {
	Path  string `json:"path"`                  // with U+FFFD for bytes that are not UTF-8
	Bytes string `json:"path_base64,omitempty"` // the bytes, if Path does not hold all of them
}

func newName(name string) nameJSON {
	if utf8.ValidString(name) {
		return nameJSON{Path: name}
	}
	return nameJSON{strings.ToValidUTF8(name, "\ufffd"), base64.StdEncoding.EncodeToString([]byte(name))}
}

// jsonTime returns a time as in RFC 3339. That has years of four digits; others have a sign, as in
// ISO 8601.
func jsonTime(t time.Time) string {
	t = t.UTC()
	text := t.Format(time.RFC3339Nano)
	if t.Year() > 9999 {
		text = "+" + text
	}
	return text
}

type serverJSON struct {
	ID    kwik.ServerID `json:"id"`
	Role  string        `json:"role"`
	Addr  string        `json:"addr"`
	State string        `json:"state"`
	Bytes int64         `json:"bytes"`
	Rate  *int64        `json:"rate,omitempty"` // bytes per second
	RTTms *float64      `json:"rtt_ms,omitempty"`
}

func newServer(s transfer.ServerStatus) serverJSON {
	return serverJSON{ID: s.ID, Role: s.Role.String(), Addr: s.Addr, State: string(s.State), Bytes: s.Bytes}
}

// finalServers returns the servers of a result, which have no rate any more.
func finalServers(all []transfer.ServerStatus) []serverJSON {
	servers := []serverJSON{}
	for _, s := range all {
		servers = append(servers, newServer(s))
	}
	return servers
}

func (e *events) start(url, path string) {
	e.print(struct {
		event
		URL string `json:"url"`
		nameJSON
	}{newEvent("start"), url, newName(path)})
}

// Hashing implements transfer.Reporter.
func (e *events) Hashing(bytes, total int64) { e.advance("hashing", bytes, total) }

// Checking implements transfer.Reporter.
func (e *events) Checking(bytes, total int64) { e.advance("checking", bytes, total) }

// advance prints how far the hashing of a file is.
func (e *events) advance(name string, bytes, total int64) {
	e.print(struct {
		event
		Bytes int64 `json:"bytes"`
		Total int64 `json:"total"`
	}{newEvent(name), bytes, total})
}

// Manifest implements transfer.Reporter.
func (e *events) Manifest(m transfer.Manifest) {
	e.print(struct {
		event
		Size   int64  `json:"size"`
		BLAKE3 string `json:"blake3"`
		Group  int64  `json:"group"` // bytes
	}{newEvent("manifest"), m.Size, m.Root.String(), m.Group})
}

// Resume implements transfer.Reporter.
func (e *events) Resume(bytes int64) {
	e.print(struct {
		event
		Bytes int64 `json:"bytes"`
	}{newEvent("resume"), bytes})
}

// Retry implements transfer.Reporter.
func (e *events) Retry(r transfer.Retry) {
	e.print(struct {
		event
		Attempt int     `json:"attempt"`
		Of      int     `json:"of"`
		Delay   float64 `json:"delay_s"`
		Message string  `json:"message"`
	}{newEvent("retry"), r.Attempt, r.Of, r.Delay.Seconds(), messageOf(r.Err)})
}

// Waiting implements transfer.Reporter. There is an event at the start of a silence, then one every
// ten seconds, and one at its end.
func (e *events) Waiting(w transfer.Waiting) {
	isDue := w.Silent == 0 || e.silent == 0 || w.Silent-e.silent >= plainInterval
	if !isDue {
		return
	}
	e.silent = w.Silent
	var limit *float64
	if w.Limit > 0 {
		seconds := w.Limit.Seconds()
		limit = &seconds
	}
	e.print(struct {
		event
		Host    string   `json:"host"`
		Seconds float64  `json:"seconds"`
		Limit   *float64 `json:"limit_s"` // null until the primary has answered
	}{newEvent("waiting"), w.Host, w.Silent.Seconds(), limit})
}

// Server implements transfer.Reporter.
func (e *events) Server(s transfer.ServerStatus) {
	e.print(struct {
		event
		ID     kwik.ServerID `json:"id"`
		Role   string        `json:"role"`
		Addr   string        `json:"addr"`
		State  string        `json:"state"`
		Reason string        `json:"reason"`
	}{newEvent("server"), s.ID, s.Role.String(), s.Addr, string(s.State), s.Reason})
}

// BadBlock implements transfer.Reporter.
func (e *events) BadBlock(server kwik.ServerID, off, length int64) {
	e.print(struct {
		event
		Server kwik.ServerID `json:"server"`
		Offset int64         `json:"offset"`
		Length int64         `json:"length"`
	}{newEvent("bad_block"), server, off, length})
}

// Progress implements transfer.Reporter.
func (e *events) Progress(p transfer.Progress) {
	now := time.Now()
	if p.Bytes < p.Total && now.Sub(e.last) < progressInterval {
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
		server, speed, rtt := newServer(s), wholeRate(s.Rate), milliseconds(s.RTT)
		server.Rate, server.RTTms = &speed, &rtt
		servers = append(servers, server)
	}
	e.print(struct {
		event
		Bytes   int64        `json:"bytes"`
		Total   int64        `json:"total"`
		Rate    int64        `json:"rate"`
		ETA     *float64     `json:"eta_s"` // null while unknown
		Servers []serverJSON `json:"servers"`
		Files   int64        `json:"files,omitempty"`    // of a mirror, complete
		OfFiles int64        `json:"of_files,omitempty"` // of a mirror, listed so far
	}{newEvent("progress"), p.Bytes, p.Total, wholeRate(p.Rate), eta, servers, p.Files, p.OfFiles})
}

// wholeRate returns a rate as an integer; JSON has no infinity.
func wholeRate(rate float64) int64 {
	if rate >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(max(rate, 0))
}

// A resultJSON is the result of a get.
type resultJSON struct {
	outcome
	nameJSON
	Bytes    int64        `json:"bytes"`
	Seconds  float64      `json:"seconds"`
	BLAKE3   string       `json:"blake3"`
	Resumed  int64        `json:"resumed_bytes"`
	Wasted   int64        `json:"wasted_bytes"`
	Servers  []serverJSON `json:"servers"`
	UpToDate bool         `json:"up_to_date"`
	Offset   int64        `json:"offset"`
	Holes    int64        `json:"hole_bytes"`
	// Checksums are those that were required and proved.
	Checksums []string      `json:"checksums,omitempty"`
	Warnings  []warningJSON `json:"warnings,omitempty"`
	// Proof says by what the bytes are proved.
	Proof transfer.Proof `json:"proof,omitempty"`
}

func newResult(r transfer.Result, err error) resultJSON {
	root := ""
	if r.Root != (transfer.Result{}).Root {
		root = r.Root.String()
	}
	var checksums []string
	for _, c := range r.Checksums {
		checksums = append(checksums, c.String())
	}
	return resultJSON{
		outcome: newOutcome("result", err), nameJSON: newName(r.Path), Bytes: r.Bytes, Seconds: r.Seconds, BLAKE3: root, Resumed: r.Resumed,
		Wasted: r.Wasted, Servers: finalServers(r.Servers), UpToDate: r.UpToDate, Offset: r.Offset, Holes: r.Holes,
		Checksums: checksums, Warnings: newWarnings(r.Warnings), Proof: r.Proof,
	}
}

// result prints the last event of a get, exactly once.
func (e *events) result(r transfer.Result, err error) { e.print(newResult(r, err)) }
