package kwik

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/quic-go/quic-go"
)

// This file contains panics: one in a session ends that session, and the process lives. Functions
// of the application run contained wherever this package calls them, and so do the goroutines of
// a session, a membership or a path.
//
// A contained goroutine runs its deferred functions. A bug of this package may still leave a lock
// held. Goroutines of the listener itself are not contained: without them it would be deaf.

// maxFrames bounds the frames of a PanicError.
const maxFrames = 12

// A PanicError is a panic that was contained.
type PanicError struct {
	// Value is the value of the panic.
	Value any
	// Frames are the first frames of its stack, innermost first: function (file:line).
	Frames []string
}

// Error returns the panic's value, on one line and of bounded length, and its frames.
func (e *PanicError) Error() string {
	return fmt.Sprintf("kwik: panic: %s [%s]", e.Text(), strings.Join(e.Frames, " < "))
}

// Text returns the panic's value on one line, of bounded length.
func (e *PanicError) Text() string { return printable(fmt.Sprint(e.Value)) }

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// newPanicError is called by the deferred function that recovered value.
func newPanicError(value any) *PanicError {
	if e, ok := value.(*PanicError); ok && e != nil {
		return e // contained before, and passed on
	}
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	e := &PanicError{Value: value}
	for more := true; more && len(e.Frames) < maxFrames; {
		var f runtime.Frame
		f, more = frames.Next()
		if isStart := len(e.Frames) == 0 && strings.HasPrefix(f.Function, "runtime."); isStart || f.Function == "" {
			continue // between the fault and the deferred function
		}
		if isContainer := strings.HasSuffix(f.File, "/contain.go"); isContainer {
			break
		}
		e.Frames = append(e.Frames, fmt.Sprintf("%s (%s:%d)", filepath.Base(f.Function), filepath.Base(f.File), f.Line))
	}
	return e
}

// Contain calls f and returns its error. If f panics, the error is a [*PanicError].
func Contain(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
	}()
	return f()
}

// containTo calls f, and passes a panic of f to report.
func containTo(report func(*PanicError), f func()) {
	defer func() {
		if v := recover(); v != nil {
			report(newPanicError(v))
		}
	}()
	f()
}

// logPanic is the default of ServerConfig.OnPanic.
func logPanic(client net.Addr, err *PanicError) {
	log := slog.Default()
	if client != nil {
		log = log.With("client", client.String())
	}
	log.Error("panic contained", "panic", err.Text(), "stack", strings.Join(err.Frames, " < "))
}

// Panics returns the number of panics that were contained since the server began to listen.
func (l *Listener) Panics() uint64 { return l.panics.Load() }

// countPanics returns an OnPanic that counts, and survives a panic of report.
func (l *Listener) countPanics(report func(net.Addr, *PanicError)) func(net.Addr, *PanicError) {
	return func(client net.Addr, err *PanicError) {
		l.panics.Add(1)
		containTo(func(*PanicError) { l.panics.Add(1) }, func() { report(client, err) })
	}
}

// messageFailed is sent to the client of a session that ends because this server panicked.
const messageFailed = "the server failed"

// contain calls f for a session or a membership. A panic ends it.
func (l *Listener) contain(conn *quic.Conn, f func()) {
	containTo(func(err *PanicError) {
		l.config.OnPanic(conn.RemoteAddr(), err)
		conn.CloseWithError(ApplicationErrorCode(ErrServerBusy), messageFailed)
	}, f)
}

// Contain calls f, which an application runs in another goroutine for the session. A panic of f is
// passed to ServerConfig.OnPanic and ends the session.
func (s *ServerSession) Contain(f func()) { s.listener.contain(s.conn, f) }

// start runs f in a goroutine of the session. A panic ends the session.
func (s *ServerSession) start(f func()) { s.wg.Go(func() { s.Contain(f) }) }

// containCallbacks makes the callbacks of a configuration pass their panics to OnPanic.
func (c *ServerConfig) containCallbacks() {
	report := func(err *PanicError) { c.OnPanic(nil, err) }
	membership, failure, reject := c.OnMembership, c.OnJoinFailure, c.OnReject
	suspension, refusal, recheck, unreachable := c.OnSuspension, c.OnRefusal, c.Recheck, c.OnUnreachable
	complete := c.ChallengeDescriptor
	c.ChallengeDescriptor = func(descriptor []byte) []byte {
		completed := descriptor // also after a panic
		containTo(report, func() { completed = complete(descriptor) })
		return completed
	}
	c.Recheck = func(descriptor []byte, size, start, end int64) {
		containTo(report, func() { recheck(descriptor, size, start, end) })
	}
	c.OnMembership = func(id ServerID, addr netip.AddrPort, err error) {
		containTo(report, func() { membership(id, addr, err) })
	}
	c.OnJoinFailure = func(addr netip.AddrPort, err error) { containTo(report, func() { failure(addr, err) }) }
	c.OnReject = func(s *ServerSession, server ServerID, offset int64, message string) {
		report := func(err *PanicError) { c.OnPanic(s.RemoteAddr(), err) }
		containTo(report, func() { reject(s, server, offset, message) })
	}
	c.OnSuspension = func(id ServerID, err error) { containTo(report, func() { suspension(id, err) }) }
	c.OnUnreachable = func(id ServerID, addr netip.AddrPort, client netip.Prefix, reason string) {
		containTo(report, func() { unreachable(id, addr, client, reason) })
	}
	c.OnRefusal = func(from netip.Prefix, reason string, count int) {
		containTo(report, func() { refusal(from, reason, count) })
	}
}

// abort ends a client's session because of a panic. Calls on it and on its streams fail with err.
// It does not wait.
func (s *ClientSession) abort(err *PanicError) {
	s.cancel(err)
	streams, paths := s.parts()
	for _, a := range streams {
		a.fail(err)
	}
	for _, p := range paths {
		p.conn.CloseWithError(ApplicationErrorCode(NoError), "the client failed")
	}
}

// start runs f in a goroutine of the session. A panic ends the session.
func (s *ClientSession) start(f func()) { s.wg.Go(func() { containTo(s.abort, f) }) }
