package udp

import (
	"runtime"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	m, err := Inspect()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v: %s", m, m.Advice())
	if runtime.GOOS != "linux" {
		return
	}
	if !m.Known {
		t.Errorf("offloads are not known on Linux: %+v", m)
	}
	if m.ReceiveBuffer < 1<<10 || m.SendBuffer < 1<<10 {
		t.Errorf("buffers of less than 1 KiB: %+v", m)
	}
}

func TestInspectHeedsTheEnvironment(t *testing.T) {
	t.Setenv("QUIC_GO_DISABLE_GSO", "true")
	t.Setenv("QUIC_GO_DISABLE_ECN", "1")
	if m, err := Inspect(); err != nil || m.GSO || m.ECN {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestAdvice(t *testing.T) {
	for _, test := range []struct {
		receive, send int
		want          string
	}{
		{0, 0, ""}, {DesiredBuffer, DesiredBuffer, ""}, {DesiredBuffer, 0, ""},
		{416 << 10, DesiredBuffer, "UDP buffers of 416 KiB to receive and 7168 KiB to send"},
		{0, 1 << 10, "unknown to receive and 1 KiB to send"},
	} {
		got := Machine{ReceiveBuffer: test.receive, SendBuffer: test.send}.Advice()
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%d and %d: %q, want %q in it", test.receive, test.send, got, test.want)
		}
		if got != "" && !strings.HasSuffix(got, cure) {
			t.Errorf("%d and %d: %q does not end with the remedy", test.receive, test.send, got)
		}
	}
}
