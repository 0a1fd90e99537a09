package cmd

import (
	"bytes"
	"context"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// placeholders are the values that options take: those that are numbers have true. An option with a
// new placeholder fails the tests until it is here.
var placeholders = map[string]bool{
	"N": true, "TIME": true, "RATE": true, "SIZE": true, "N|P%": true,
	"ALGORITHM=HEX": false, "FILE": false, "DIR": false, "OLD": false, "LIST": false, "PATTERN": false, "ROLE": false,
	"ADDR": false, "ADDR|URL": false, "FORMAT": false, "LEVEL": false, "NAME": false, "PATH": false,
	"START-END": false, "auto": false, "URL": false, "TEMPLATE[,PRIORITY]": false, "REGION": false,
}

// A valued is an option that takes a value.
type valued struct {
	command     *cli.Command
	flag        cli.Flag
	name        string
	placeholder string
}

// valuedOptions returns the options of all commands that take values.
func valuedOptions(t *testing.T) (all []valued) {
	usage := regexp.MustCompile("`([^`]+)`")
	app := newApp(&terminal{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}})
	for _, command := range app.Commands {
		for _, flag := range command.Flags {
			if !takesValue(flag) {
				continue
			}
			v := valued{command: command, flag: flag, name: flag.Names()[0]}
			if m := usage.FindStringSubmatch(flag.(cli.DocGenerationFlag).GetUsage()); m != nil {
				v.placeholder = m[1]
			} else {
				v.placeholder = "FILE" // man.go's rule is tested elsewhere
			}
			if _, ok := placeholders[v.placeholder]; !ok {
				t.Errorf("%s --%s: is its value %q a number?", command.Name, v.name, v.placeholder)
			}
			all = append(all, v)
		}
	}
	return all
}

// try runs a command that is interrupted at once, and returns its exit code and stderr. base has
// the words that it needs.
func (v valued) try(words ...string) (code int, message string) {
	base := map[string][]string{
		"get":    {"-r", "--delete", "kwik://127.0.0.1:1/d/"},
		"ls":     {"kwik://127.0.0.1:1/d/"},
		"verify": {"-r", "kwik://127.0.0.1:1/d/", "d"},
		"serve": {"--role=secondary", "--primary=127.0.0.1:1", "--listen=127.0.0.1:0", "--mirror", "--mirror-delete",
			"--root=."},
		"doctor": {"kwik://127.0.0.1:1/"},
		"token":  {"--allow=/", "--name=n", "--expires=1d"},
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	code = run(ctx, slices.Concat([]string{"kwikcp", v.command.Name}, base[v.command.Name], words), &stdout, &stderr)
	return code, stderr.String()
}

// TestEmptyValues gives each option of each command an empty value.
func TestEmptyValues(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for _, v := range valuedOptions(t) {
		for _, name := range v.flag.Names() {
			for _, words := range [][]string{{dashed(name) + "="}, {dashed(name), ""}} {
				code, message := v.try(words...)
				if want := dashed(name) + " has an empty value"; code != exitUsage || !strings.Contains(message, want) {
					t.Errorf("%s %q: %d, %s", v.command.Name, words, code, message)
				}
			}
		}
	}
}

// TestEmptyVariables sets the variables of all options to nothing, which counts as none.
func TestEmptyVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	first := make(map[string]valued)
	codes := make(map[string]int)
	for _, v := range valuedOptions(t) {
		if _, ok := first[v.command.Name]; !ok {
			first[v.command.Name] = v
			codes[v.command.Name], _ = v.try()
		}
		t.Setenv(variableOf(v.name), "")
	}
	for name, v := range first {
		if code, message := v.try(); code != codes[name] {
			t.Errorf("%s: %d instead of %d: %s", name, code, codes[name], message)
		}
	}
}

// notNumbers are texts that package strconv takes for numbers, or users may.
var notNumbers = []string{
	"-1", "-0.4", "1e3", "0x10", "0o10", "0b1", "0x1p4", " 5", "5 ", "5\n", "+5", "1_000", "1,5", "NaN", "Inf", "-Inf",
	"infinity", "9999999999999999999", strings.Repeat("9", 50), "٥", ".", "5..", "5.5.5", "5x", "--5", "-", "%", "",
}

// TestNumbers gives each option for a number values that are none, on the command line and by its
// variable. TestNumberParsers has more values.
func TestNumbers(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for _, v := range valuedOptions(t) {
		if !placeholders[v.placeholder] {
			continue
		}
		if code, message := v.try(); code == exitUsage {
			t.Fatalf("%s: %s", v.command.Name, message)
		}
		refused := func(name, text string, words ...string) {
			if code, message := v.try(words...); code != exitUsage || !strings.Contains(message, name) {
				t.Errorf("%s %s=%q: %d, %s", v.command.Name, name, text, code, message)
			}
		}
		for _, text := range []string{"-1", "0x10"} {
			refused(dashed(v.name), text, dashed(v.name)+"="+text)
		}
		t.Run(v.name, func(t *testing.T) {
			if variable := variableOf(v.name); v.name != "expires" { // which is on the command line
				t.Setenv(variable, "1_000")
				refused("1_000", "1_000")
			}
		})
	}
}

func TestNumberParsers(t *testing.T) {
	parsers := map[string]func(string) (any, error){
		"count":       func(text string) (any, error) { return parseCount(text) },
		"time":        func(text string) (any, error) { return parseTime(text) },
		"size":        func(text string) (any, error) { return parseSize(text) },
		"limit":       func(text string) (any, error) { return transfer.ParseDeleteLimit(text) },
		"connections": func(text string) (any, error) { return parseConnections(text) },
		"expires":     func(text string) (any, error) { return parseExpiry(text, time.Unix(0, 0)) },
		"range":       func(text string) (any, error) { return transfer.ParseByteRange(text + "-") },
	}
	for name, parse := range parsers {
		for _, text := range notNumbers {
			isZero := text == "-" || text == "" && name == "range"
			if got, err := parse(text); err == nil && !isZero {
				t.Errorf("%s %q: %v", name, text, got)
			}
		}
		decimal, err := parse("010")
		if want, _ := parse("10"); err != nil || decimal != want {
			t.Errorf("%s 010: %v, %v", name, decimal, err)
		}
	}
	for text, name := range map[string]string{
		"0.4": "count", "0.0000000001": "time", "0.4ns": "time", "0.0009K": "size", "0.4%": "limit", "0": "connections",
		"3e9": "time", "1h 30m": "time", "h": "time", "1h30": "time", "100y": "time",
		"5201w1w1w1w1w1w1w1w1w1w1w1w1w1w1w": "time",
	} {
		if got, err := parsers[name](text); err == nil {
			t.Errorf("%s %q: %v", name, text, got)
		}
	}
	for text, want := range map[string]time.Duration{
		"1.": time.Second, "1w": 168 * time.Hour, "1.5d": 36 * time.Hour, "1h30m0.5s": 90*time.Minute + time.Second/2,
		"3153600000": maxTime, "1ns": 1, "0.000000001": 1, "2µs": 2000, "2us": 2000, "000000001": time.Second,
	} {
		if got, err := parseTime(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got, err := parseSize("9223372036854775806"); err != nil || got != math.MaxInt64-1 {
		t.Error(got, err)
	}
}

// FuzzNumbers checks that no text makes a parser of numbers panic or return a negative number. Where
// package strconv knows the notation it must agree.
func FuzzNumbers(f *testing.F) {
	for _, text := range notNumbers {
		f.Add(text)
	}
	f.Add("1h30m")
	f.Add("1.5K")
	f.Fuzz(func(t *testing.T, text string) {
		count, _ := parseCount(text)
		size, err := parseSize(text)
		d, _ := parseTime(text)
		if min(int64(count), size, int64(d)) < 0 || d > maxTime {
			t.Fatalf("%q: %d, %d, %v", text, count, size, d)
		}
		n, e := strconv.ParseUint(text, 10, 62)
		isKnown := e == nil && len(text) <= maxDigits
		if isKnown && (err != nil || uint64(size) != n) {
			t.Fatalf("%q: %d, %v, want %d", text, size, err, n)
		}
	})
}

// TestOverruledCompanions checks that options of the command line overrule the variables of those
// that they exclude, and of those that need these.
func TestOverruledCompanions(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for name, value := range map[string]string{
		"mirror": "1", "mirror-interval": "60", "mirror-delete": "1", "max-delete": "5", "owner": "1",
		"numeric-ids": "1",
		"primary":     "127.0.0.1:1", "recursive": "1", "delete": "1", "exclude": "*.o",
		"files-from": "list", "min-age": "1",
		"show": "token",
	} {
		t.Setenv(variableOf(name), value)
	}
	for _, line := range []string{
		"serve --role=primary --listen=127.0.0.1:0", "serve --role=primary --listen=127.0.0.1:0 --mirror=false",
		"get --recursive=false kwik://127.0.0.1:1/f", "get --range=0-1 kwik://127.0.0.1:1/f", "get -i list",
		"token --allow=/ --name=n --expires=1d",
	} {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var stdout, stderr bytes.Buffer
		if code := run(ctx, append([]string{"kwikcp"}, strings.Fields(line)...), &stdout, &stderr); code == exitUsage {
			t.Errorf("%s: %s", line, stderr.String())
		}
	}
	var stderr bytes.Buffer
	line := []string{"kwikcp", "serve", "--role=secondary", "--listen=127.0.0.1:0", "--mirror=false", "--min-age=1"}
	if code := run(t.Context(), line, &bytes.Buffer{}, &stderr); code != exitUsage {
		t.Errorf("%q: %d, %s", line, code, stderr.String())
	}
}
