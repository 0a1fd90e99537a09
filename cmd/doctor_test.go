package cmd

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"kwikcp/internal/udp"
)

func TestWarnOfBuffers(t *testing.T) {
	defer func() { inspectUDP = udp.Inspect }()
	inspectUDP = func() (udp.Machine, error) { return udp.Machine{ReceiveBuffer: 416 << 10, SendBuffer: 416 << 10}, nil }
	var stderr bytes.Buffer
	warnOfBuffers(&terminal{stderr: &stderr}, bufferWarningBytes-1)
	if stderr.Len() > 0 {
		t.Errorf("%q", stderr.String())
	}
	warnOfBuffers(&terminal{stderr: &stderr}, bufferWarningBytes)
	if got := stderr.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "kwikcp: warning: the system allows UDP buffers of 416 KiB") {
		t.Errorf("%q", got)
	}
}

func TestDescribeMachine(t *testing.T) {
	for m, want := range map[udp.Machine]string{
		{}: "receive unknown, send unknown\n  offloads, ECN  unknown on this system\n",
		{ReceiveBuffer: 8 << 20, SendBuffer: 8 << 20, Known: true, GRO: true, ECN: true}: "receive 8.0 MiB, send 8.0 MiB\n  offloads       receive (GRO) yes, send (GSO) no, ECN yes\n",
		{ReceiveBuffer: 1 << 20, SendBuffer: 8 << 20, Known: true}:                       "\n                 too small: the system allows UDP buffers of 1024 KiB",
	} {
		if got := describeMachine(m); !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestValidity(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(49 * time.Hour)}
	for at, want := range map[time.Time]string{
		now:                        "valid until 2026-11-25, 2 days",
		now.Add(-2 * time.Hour):    "not valid before 2026-11-23 11:00:00: the clock here or there is wrong",
		now.Add(100 * time.Hour):   "expired on 2026-11-25",
		cert.NotAfter.Add(-1):      "valid until 2026-11-25, 0 days",
		cert.NotBefore.Add(-1):     "not valid before 2026-11-23 11:00:00: the clock here or there is wrong",
		cert.NotAfter.Add(1 << 40): "expired on 2026-11-25",
	} {
		if got := validity(cert, at); got != want {
			t.Errorf("%v: %q, want %q", at, got, want)
		}
	}
}
