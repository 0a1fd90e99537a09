package cmd

import (
	"errors"
	"testing"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"30d":                       now.AddDate(0, 0, 30),
		"1.5d":                      now.Add(36 * time.Hour),
		"2w":                        now.AddDate(0, 0, 14),
		"12h":                       now.Add(12 * time.Hour),
		"90m":                       now.Add(90 * time.Minute),
		"1h30m":                     now.Add(90 * time.Minute),
		"3600":                      now.Add(time.Hour),
		"0.5":                       now.Add(500 * time.Millisecond),
		"2027-01-31":                time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC),
		"2026-11-27":                time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC),
		"2027-01-31T10:00:00+02:00": time.Date(2027, 1, 31, 8, 0, 0, 0, time.UTC),
		"never":                     {},
	} {
		if got, err := parseExpiry(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "-1", "-30d", "0d", "d", "1e3d", "soon", "Never", "2026-11-26", "2027-02-30", "2027-1-1", "200y",
		"100000w", "NaN", "Infd", "1h1", "2126-12-01", "0x10d",
	} {
		if got, err := parseExpiry(text, now); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// A client with a token accepts no server without a question. One that was accepted without a
// question, and without a token, is still not authenticated.
func TestTrustBeforeATokenIsSent(t *testing.T) {
	p, _ := newPolicy(t, "")
	cert := selfSigned(t)
	const host = "127.0.0.1:4433"
	wantUnknown := func() {
		t.Helper()
		err := p.verify(host, shown(cert), true)
		if e, ok := errors.AsType[unknownHostError](err); !ok || !e.secret {
			t.Fatalf("a server on this machine: %v", err)
		}
	}
	wantUnknown()
	if _, found, _ := p.known.Lookup(host); found {
		t.Fatal("a refused server was recorded")
	}
	if err := p.verify(host, shown(cert), false); err != nil {
		t.Fatal(err)
	}
	wantUnknown()
	refused := &transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: p.verify(host, shown(cert), true)}
	p.ask = func(string) bool { return false }
	if p.accepted(refused) {
		t.Error("accepted without a yes")
	}
	wantUnknown()
	p.ask = func(string) bool { return true }
	if !p.accepted(refused) {
		t.Error("not accepted")
	}
	if err := p.verify(host, shown(cert), true); err != nil {
		t.Errorf("after a yes: %v", err)
	}
}

// The token of a list is for one server.
func TestTokensOfAList(t *testing.T) {
	s := &tokens{given: "secret", credentials: trust.OpenCredentials(t.TempDir()+"/none", "4433")}
	s.bindTo("not a URL")
	s.bindTo("kwik://a.example/x")
	s.bindTo("kwik://b.example/x")
	for host, want := range map[string]string{
		"a.example:4433": "secret", "A.example:4433": "secret", "a.example:4434": "", "b.example:4433": "",
	} {
		if got, err := s.forServer(host); got != want || err != nil {
			t.Errorf("%s: %q, %v", host, got, err)
		}
	}
}

// Each reason of a refusal has a hint.
func TestAccessHints(t *testing.T) {
	for reason := transfer.AccessOther; reason <= transfer.AccessCertificateOther; reason++ {
		refusal := &transfer.AccessError{Reason: reason, Message: "no"}
		code, _, hint := explain(&transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: refusal})
		if code != exitRefused || hint == "" {
			t.Errorf("reason %d: exit code %d, hint %q", reason, code, hint)
		}
	}
}
