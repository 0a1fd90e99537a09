//go:build unix

package cmd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// This file has the commands of scripts that read what --json printed.

func cmdEvents(ts *testscript.TestScript, _ *world, args []string) error {
	return checkEvents(ts.ReadFile(args[0]), args[1:])
}

// checkEvents checks the contract of --json, and that every wanted event is there.
func checkEvents(text string, want []string) error {
	var names []string
	for line := range strings.Lines(text) {
		var e struct {
			V     int    `json:"v"`
			Event string `json:"event"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.V != 1 || e.Event == "" || !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("not an event: %q (%v)", line, err)
		}
		if err := checkAgainstSchema(line); err != nil {
			return err
		}
		names = append(names, e.Event)
	}
	for i, name := range names {
		if (name == "start") != (i == 0) || (name == "result") != (i == len(names)-1) {
			return fmt.Errorf("out of order: %v", names)
		}
	}
	for _, name := range append(want, "start", "result") {
		if !slices.Contains(names, name) {
			return fmt.Errorf("no event %q among %v", name, names)
		}
	}
	return nil
}

// A resultLine is the last of the JSON lines of a get.
type resultLine struct {
	Bytes   int64 `json:"bytes"`
	Resumed int64 `json:"resumed_bytes"`
	Holes   int64 `json:"hole_bytes"`
	Servers []struct {
		Bytes int64 `json:"bytes"`
	} `json:"servers"`
}

// readResult reads it and checks that every byte was delivered or there before.
func readResult(text string) (r resultLine, delivering int, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return r, 0, err
	}
	sum := r.Resumed + r.Holes
	for _, s := range r.Servers {
		sum += s.Bytes
		if s.Bytes > 0 {
			delivering++
		}
	}
	if sum != r.Bytes {
		err = fmt.Errorf("%d of %d bytes were delivered or there before", sum, r.Bytes)
	}
	return r, delivering, err
}

func cmdDelivered(ts *testscript.TestScript, _ *world, args []string) error {
	_, delivering, err := readResult(ts.ReadFile(args[0]))
	if err == nil && strconv.Itoa(delivering) != args[1] {
		err = fmt.Errorf("%d servers delivered", delivering)
	}
	return err
}

func cmdResumed(ts *testscript.TestScript, _ *world, args []string) error {
	text := ts.ReadFile(args[0])
	r, _, err := readResult(text)
	if err == nil && (r.Resumed == 0 || !strings.Contains(text, fmt.Sprintf(`"event":"resume","bytes":%d}`, r.Resumed))) {
		err = fmt.Errorf("%d bytes were resumed, or another event says so", r.Resumed)
	}
	return err
}

func cmdTook(ts *testscript.TestScript, _ *world, args []string) error {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	var result struct {
		Seconds float64 `json:"seconds"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil {
		return err
	}
	want, err := time.ParseDuration(args[1])
	if err == nil && (result.Seconds < 0.85*want.Seconds() || result.Seconds > 4*want.Seconds()) {
		err = fmt.Errorf("it took %.2f s", result.Seconds)
	}
	return err
}
