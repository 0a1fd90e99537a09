package cmd

import (
	"log/slog"

	"kwikcp/internal/escape"
	"kwikcp/internal/udp"
	"kwikcp/transfer"
)

// This file tells what the file system of a target cannot do, which servers failed, and that UDP
// buffers are small.

// A warningJSON is a transfer.Warning in a result.
type warningJSON struct {
	Operation string `json:"operation"`
	Message   string `json:"message"`
	Count     int64  `json:"count"`
}

// newWarnings returns nil if there are none.
func newWarnings(all []transfer.Warning) (warnings []warningJSON) {
	for _, w := range all {
		warnings = append(warnings, warningJSON{string(w.Operation), w.Message, w.Count})
	}
	return warnings
}

// A warningMemory holds the warnings that were printed, so that each is printed once: for each
// operation the first, and for names all.
type warningMemory map[string]bool

// news returns the warnings of kinds that are new, and remembers them.
func (m *warningMemory) news(all []transfer.Warning) (news []transfer.Warning) {
	for _, w := range all {
		key := string(w.Operation)
		if w.Operation == transfer.OpNames {
			key = w.Message
		}
		if !(*m)[key] {
			if *m == nil {
				*m = make(warningMemory)
			}
			(*m)[key] = true
			news = append(news, w)
		}
	}
	return news
}

// print prints one line for each kind that is new.
func (m *warningMemory) print(t *terminal, all []transfer.Warning) {
	for _, w := range m.news(all) {
		t.warningf("%s", escape.Line(w.Message))
	}
}

// log logs one line for each kind that is new.
func (m *warningMemory) log(log *slog.Logger, all []transfer.Warning) {
	for _, w := range m.news(all) {
		log.Warn("not possible here", "operation", w.Operation, "err", w.Message)
	}
}

// warnOfLosses names the servers that failed though the transfer succeeded. Banned servers were
// named before.
func warnOfLosses(t *terminal, r transfer.Result) {
	for _, s := range r.Servers {
		if s.State != transfer.ServerStalled && s.State != transfer.ServerLost {
			continue
		}
		why := string(s.State)
		if s.Reason != "" {
			why += ": " + s.Reason
		}
		t.warningf("%s %s failed during the transfer (%s); the other servers delivered the rest", s.Role, s.Addr, escape.Line(why))
	}
}

// bufferWarningBytes is how much must be fetched before small UDP buffers matter.
const bufferWarningBytes = 16 << 20

// inspectUDP is udp.Inspect; tests replace it.
var inspectUDP = udp.Inspect

// warnOfBuffers warns of small UDP buffers after a large transfer.
func warnOfBuffers(t *terminal, fetched int64) {
	if fetched < bufferWarningBytes {
		return
	}
	if machine, err := inspectUDP(); err == nil && machine.Advice() != "" {
		t.warningf("%s", machine.Advice())
	}
}
