package cmd

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// An interruption is a signal that ended the command.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "interrupted by " + i.signal.String() }

// interruptible returns a context that ends at the first SIGINT, SIGTERM or SIGHUP, with an
// interruption as its cause. A second signal ends the process at once. SIGHUP ends nothing while
// handleHangup applies to the context. A SIGINT or SIGHUP that was ignored at the start, as nohup
// and trap leave it, stays ignored.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	hangups := &hangups{hadTerminal: term.IsTerminal(int(os.Stderr.Fd()))}
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, hangupsKey{}, hangups))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	ended := make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGHUP && hangups.handle() {
					continue
				}
				signal.Stop(signals) // restores the default: a second signal kills
				cancel(interruption{s.(syscall.Signal)})
			case <-ctx.Done():
			}
			return
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		<-ended
	}
}

// hangups holds the handler of SIGHUP.
type hangups struct {
	hadTerminal bool // stderr was a terminal at the start

	mu      sync.Mutex
	handler func() // nil if SIGHUP is an interruption
}

type hangupsKey struct{}

// handle calls the handler, and reports whether there is one. A process whose terminal was closed
// ends, as a user expects who closes its window.
func (h *hangups) handle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.handler == nil || h.hadTerminal && !term.IsTerminal(int(os.Stderr.Fd())) {
		return false
	}
	h.handler()
	return true
}

// handleHangup has handler called for each SIGHUP until end is called. It must not block.
func handleHangup(ctx context.Context, handler func()) (end func()) {
	h, ok := ctx.Value(hangupsKey{}).(*hangups)
	if !ok {
		return func() {}
	}
	set := func(handler func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.handler = handler
	}
	set(handler)
	return func() { set(nil) }
}

// untilBrokenPipe returns a context that ends at SIGPIPE: the reader of stdout or stderr closed the
// pipe, as head does. Without it the system would end the process at once and leave temporary
// files.
func untilBrokenPipe(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGPIPE) // from now on the write fails with EPIPE
	ended := make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		select {
		case <-signals:
			cancel(interruption{syscall.SIGPIPE})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
		signal.Stop(signals)
	}
}

// silenceBrokenPipe turns the error of a closed pipe into one that is not printed; its exit code is
// 141, as that of cat.
func silenceBrokenPipe(err error) error {
	broken := interruption{syscall.SIGPIPE}
	if i, ok := errors.AsType[interruption](err); ok && i == broken || errors.Is(err, syscall.EPIPE) {
		return reportedError{broken}
	}
	return err
}
