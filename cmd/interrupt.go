package cmd

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// An interruption is a signal that ended the command.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "interrupted by " + i.signal.String() }

// interruptible returns a context that ends at the first SIGINT, SIGTERM or SIGHUP, with an interruption as its cause. A
// second signal ends the process at once.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		select {
		case s := <-signals:
			signal.Stop(signals) // restores the default: a second signal kills
			cancel(interruption{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		<-ended
	}
}

// untilBrokenPipe returns a context that ends at SIGPIPE: the reader of stdout or stderr closed the pipe, as head does.
// Without it the system would end the process at once and leave temporary files.
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

// silenceBrokenPipe turns the error of a closed pipe into one that is not printed; its exit code is 141, as that of cat.
func silenceBrokenPipe(err error) error {
	broken := interruption{syscall.SIGPIPE}
	if i, ok := errors.AsType[interruption](err); ok && i == broken || errors.Is(err, syscall.EPIPE) {
		return reportedError{broken}
	}
	return err
}
