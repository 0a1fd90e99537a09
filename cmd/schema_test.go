package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaVariable names the environment variable that tells a kwikcp under test where the schema of
// the events is.
const schemaVariable = "KWIKCP_TEST_SCHEMA"

// schemaPath returns where the schema is: the tests run in the directory of their package, the
// processes that they start elsewhere.
func schemaPath() string {
	if path := os.Getenv(schemaVariable); path != "" {
		return path
	}
	path, err := filepath.Abs("../docs/events.schema.json")
	if err != nil {
		panic(err)
	}
	return path
}

var eventSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(schemaPath())
})

// checkAgainstSchema checks one event, a line.
func checkAgainstSchema(line string) error {
	schema, err := eventSchema()
	if err != nil {
		return err
	}
	event, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
	if err != nil {
		return fmt.Errorf("not JSON: %q: %w", line, err)
	}
	if err := schema.Validate(event); err != nil {
		return fmt.Errorf("%s is not as docs/events.schema.json says: %w", line, err)
	}
	return nil
}

// A schemaWriter is the stdout of a kwikcp under test: it passes everything on, and holds every
// line of JSON against the schema.
type schemaWriter struct {
	w io.Writer

	mu      sync.Mutex
	line    []byte // the current line as far as it was written
	bad     error  // the first that is wrong
	writing bool   // a write is in progress, so that the reader is blocked
}

func (s *schemaWriter) Write(b []byte) (int, error) {
	s.check(b)
	n, err := s.w.Write(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	return n, err
}

func (s *schemaWriter) check(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = true
	s.line = append(s.line, b...)
	for {
		end := bytes.IndexByte(s.line, '\n')
		if end < 0 {
			break
		}
		if err := checkAgainstSchema(string(s.line[:end])); err != nil && s.bad == nil {
			s.bad = err
		}
		s.line = s.line[end+1:]
	}
}

// close returns what was wrong.
func (s *schemaWriter) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad == nil && len(s.line) > 0 && !s.writing {
		return errors.New("the last line does not end")
	}
	return s.bad
}

// Every event of the schema is in docs/SCRIPTING.md with all its fields, and the events of the page
// are in the schema.
func TestEventsInScripting(t *testing.T) {
	raw, err := os.ReadFile("../docs/SCRIPTING.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)`( of [a-z]+)? \\| (.*) \\|$").FindAllStringSubmatch(string(raw), -1) {
		rows[m[1]+m[2]] = m[3]
	}
	schema, err := eventSchema()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range schema.OneOf {
		name := ref.Ref.Location[strings.LastIndex(ref.Ref.Location, "/")+1:]
		name = strings.ReplaceAll(strings.TrimSuffix(name, "_of_get"), "_of_", " of ")
		row, ok := rows[name]
		if !ok {
			t.Errorf("SCRIPTING.md has no event %q", name)
		}
		for field := range ref.Ref.Properties {
			if field != "v" && field != "event" && !strings.Contains(row, "`"+field+"`") {
				t.Errorf("SCRIPTING.md has no field %q of event %q", field, name)
			}
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("SCRIPTING.md has the event %q, the schema does not", name)
	}
}

// The schema is no good if it lets everything pass.
func TestSchemaRefuses(t *testing.T) {
	for _, line := range []string{
		`{}`, `[]`, `{"v":1,"event":"hello"}`, `{"v":2,"event":"start","url":"","path":""}`, `{"v":1,"event":"start","url":""}`,
		`{"v":1,"event":"start","url":"","path":"","more":1}`, `{"v":1,"event":"resume","bytes":0}`, `{"v":1,"event":"hashing","bytes":-1,"total":1}`,
		`{"v":1,"event":"manifest","size":5,"blake3":"01","group":65536}`,
		`{"v":1,"event":"result","ok":true,"exit_code":5,"error_code":"","message":"","path":"","bytes":0,"seconds":0,"blake3":"","actual":"","wrong_bytes":0}`,
		`{"v":1,"event":"result","ok":false,"exit_code":0,"error_code":"other","message":"x","path":"","bytes":0,"seconds":0,"blake3":"","actual":"","wrong_bytes":0}`,
		`{"v":1,"event":"result","ok":true,"exit_code":0,"error_code":"","message":"","path":"","bytes":0,"seconds":0,"blake3":"","actual":"","wrong_bytes":0,"servers":[]}`,
	} {
		if checkAgainstSchema(line) == nil {
			t.Errorf("%s passes", line)
		}
	}
}
