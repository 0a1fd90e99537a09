package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// awkward has what a hostile server or file name may have.
const awkward = "\x1b[2J\n\r\u202e\"<&>\\ \xff"

func TestEvents(t *testing.T) {
	var out bytes.Buffer
	e := newEvents(&out)
	e.start("kwik://h/"+awkward, awkward)
	e.Hashing(1, 2)
	e.Manifest(transfer.Manifest{Size: 5, Root: integrity.Root{1}, Group: 65536})
	e.Server(transfer.ServerStatus{ID: "s1", Role: kwik.ServerRoleSecondary, Addr: "127.0.0.1:1", State: transfer.ServerBanned, Reason: awkward})
	e.Checking(2, 3)
	e.Resume(4)
	e.Retry(transfer.Retry{Attempt: 1, Of: 2, Delay: 1500 * time.Millisecond, Err: &transfer.Error{Op: "try " + awkward, Err: errors.New("no luck")}})
	e.BadBlock("s1", 3, 2)
	e.Progress(transfer.Progress{Total: 5, ETA: -1})
	e.Progress(transfer.Progress{Bytes: 5, Total: 5, Rate: 1e300, ETA: time.Second, Servers: []transfer.ServerStatus{{ID: "s1", State: transfer.ServerJoined, RTT: time.Millisecond}}})
	e.result(transfer.Result{Resumed: 7}, &transfer.Error{Kind: transfer.KindIntegrity, Op: awkward, Err: errors.New(awkward)})
	if err := checkEventLines(out.String()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"v":1,"event":"hashing","bytes":1,"total":2}`,
		`{"v":1,"event":"manifest","size":5,"blake3":"0100000000000000000000000000000000000000000000000000000000000000","group":65536}`,
		`"id":"s1","role":"secondary","addr":"127.0.0.1:1","state":"banned","reason":"\u001b[2J`,
		`{"v":1,"event":"checking","bytes":2,"total":3}`,
		`{"v":1,"event":"resume","bytes":4}`,
		`{"v":1,"event":"retry","attempt":1,"of":2,"delay_s":1.5,"message":"try \u001b[2J`,
		`{"v":1,"event":"bad_block","server":"s1","offset":3,"length":2}`,
		`{"v":1,"event":"progress","bytes":0,"total":5,"rate":0,"eta_s":null,"servers":[]}`,
		`"rate":9223372036854775807,"eta_s":1,"servers":[{"id":"s1",`,
		`{"v":1,"event":"result","ok":false,"exit_code":6,"error_code":"integrity",`,
		`"path":"","bytes":0,"seconds":0,"blake3":"","resumed_bytes":7,"wasted_bytes":0,"servers":[],` +
			`"up_to_date":false,"offset":0,"hole_bytes":0}`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Error("control characters in the output")
	}
}

// Names are what they are to whoever parses the events, and harmless to whoever reads them on a
// terminal.
func TestEventsArePrintable(t *testing.T) {
	const name = "\x00\x1b[2J\x7f\u0080\u009b31m\u00a0\u200f\u202e\u2028\U000e0001 ü 漢 😀 \\ \""
	var out bytes.Buffer
	newEvents(&out).start("", name)
	line, ended := strings.CutSuffix(out.String(), "\n")
	for _, r := range line {
		if !unicode.IsPrint(r) {
			t.Errorf("%U is printed", r)
		}
	}
	var start struct{ Path string }
	if err := json.Unmarshal([]byte(line), &start); err != nil || !ended || start.Path != name {
		t.Errorf("%q, %v", line, err)
	}
	for _, r := range "ü漢😀" {
		if !strings.ContainsRune(line, r) {
			t.Errorf("%c is escaped", r)
		}
	}
}

// A rate or a duration that JSON cannot express must not silence the result.
func TestResultWithOddNumbers(t *testing.T) {
	for _, seconds := range []float64{0, math.SmallestNonzeroFloat64, math.MaxFloat64} {
		var out bytes.Buffer
		newEvents(&out).result(transfer.Result{Bytes: math.MaxInt64, Wasted: math.MaxInt64, Seconds: seconds, Root: integrity.Root{9}}, nil)
		if err := checkEventLines(out.String()); err != nil || !strings.Contains(out.String(), `"ok":true,"exit_code":0,"error_code":"","message":""`) {
			t.Errorf("%v: %v, %q", seconds, err, out.String())
		}
	}
}

func checkEventLines(text string) error {
	for line := range strings.Lines(text) {
		if err := checkAgainstSchema(line); err != nil {
			return err
		}
	}
	if !strings.HasSuffix(text, "\n") {
		return errors.New("the last line does not end")
	}
	return nil
}

// TestProgressInterval checks that of the ten reports a second at least one gets through, and not
// all.
func TestProgressInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		e := newEvents(&out)
		for range 10 {
			out.Reset()
			for range 10 {
				e.Progress(transfer.Progress{Bytes: 1, Total: 2})
				time.Sleep(100 * time.Millisecond)
			}
			if n := strings.Count(out.String(), "\n"); n < 1 || n > 2 {
				t.Errorf("%d events in a second", n)
			}
		}
	})
}

// TestNamesInEvents checks that every event with the name of a local file has all its bytes.
func TestNamesInEvents(t *testing.T) {
	const name = "out/b\xe4d"
	prints := map[string]func(*events){
		"start":  func(e *events) { e.start("kwik://h/f", name) },
		"get":    func(e *events) { e.result(transfer.Result{Path: name}, nil) },
		"list":   func(e *events) { e.lineResult(listLine{number: 1}, transfer.Result{Path: name}, nil) },
		"mirror": func(e *events) { e.mirrorResult(treeGet{target: name}, transfer.MirrorResult{}, nil) },
		"verify": func(e *events) { e.verifyResult(verdict{path: name}, nil) },
		"tree":   func(e *events) { e.treeResult(treeCheck{target: name}, transfer.TreeComparison{}, nil) },
		"entry":  func(e *events) { e.entry(transfer.Entry{Path: name}, nil) },
		"file":   func(e *events) { e.File(transfer.FileReport{Path: name, Action: transfer.FileMade}) },
	}
	for kind, print := range prints {
		var out bytes.Buffer
		print(newEvents(&out))
		if err := checkEventLines(out.String()); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		var event struct {
			Path  string
			Bytes []byte `json:"path_base64"`
		}
		err := json.Unmarshal(out.Bytes(), &event)
		if err != nil || event.Path != "out/b\ufffdd" || string(event.Bytes) != name {
			t.Errorf("%s: %+v, %v, %s", kind, event, err, out.String())
		}
	}
}

// TestTimesInEvents checks times that RFC 3339 cannot express.
func TestTimesInEvents(t *testing.T) {
	for seconds, want := range map[int64]string{
		0: "1970-01-01T00:00:00Z", -62167219200: "0000-01-01T00:00:00Z", -62167219201: "-0001-12-31T23:59:59Z",
		253402300799: "9999-12-31T23:59:59Z", 253402300800: "+10000-01-01T00:00:00Z", 1 << 40: "+36812-02-20T00:36:16Z",
		-1 << 40: "-32873-11-12T23:23:44Z",
	} {
		var out bytes.Buffer
		newEvents(&out).entry(transfer.Entry{Path: "f", Type: transfer.EntryFile, MTime: time.Unix(seconds, 0)}, nil)
		if err := checkEventLines(out.String()); err != nil || !strings.Contains(out.String(), `"mtime":"`+want+`"`) {
			t.Errorf("%d: %v, %s", seconds, err, out.String())
		}
	}
	if got := jsonTime(time.Unix(1, 5)); got != "1970-01-01T00:00:01.000000005Z" {
		t.Error(got)
	}
}
