package cmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// untilBrokenPipe returns a context that ends when nobody reads any more what the process writes to a pipe, as head does when it has
// seen enough. Without it the system would end the process at once, and what it keeps beside its files would stay.
func untilBrokenPipe(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGPIPE) // the write fails with EPIPE now
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

// quietly returns the error of a command whose reader went away as one of which nothing is said: exit status 141, as that of cat.
func quietly(err error) error {
	broken := interruption{syscall.SIGPIPE}
	if i, ok := errors.AsType[interruption](err); ok && i == broken || errors.Is(err, syscall.EPIPE) {
		return saidError{broken}
	}
	return err
}

// A patientWriter writes to a pipe that may be full for as long as its reader likes, and gives up when ctx ends: at once, or with grace
// that much later, so that a reader who is there gets the last words.
//
// It has one goroutine. close ends it and waits for it, unless that is in a write that nothing but the end of the process ends.
type patientWriter struct {
	ctx    context.Context
	grace  time.Duration
	blocks chan []byte
	ends   chan error // of the block before
	stuck  bool
	failed error // of the first write that failed
}

func newPatientWriter(ctx context.Context, w io.Writer) *patientWriter {
	p := &patientWriter{ctx: ctx, blocks: make(chan []byte), ends: make(chan error, 1)}
	go func() {
		defer close(p.ends)
		for b := range p.blocks {
			_, err := w.Write(b)
			p.ends <- err
		}
	}()
	return p
}

// Write writes b.
func (p *patientWriter) Write(b []byte) (int, error) { return p.WriteContext(p.ctx, bytes.Clone(b)) }

// WriteContext is Write, which gives up when another context ends, too. b may be used again only if there is no error. It implements
// transfer.ContextWriter.
func (p *patientWriter) WriteContext(ctx context.Context, b []byte) (int, error) {
	if p.stuck {
		return 0, errStuck
	}
	p.blocks <- b
	over := ctx
	select {
	case err := <-p.ends:
		return p.ended(b, err)
	case <-ctx.Done():
	case <-p.ctx.Done():
		over = p.ctx
	}
	if p.grace > 0 {
		select {
		case err := <-p.ends:
			return p.ended(b, err)
		case <-time.After(p.grace):
		}
	}
	p.stuck = true
	return 0, context.Cause(over)
}

func (p *patientWriter) ended(b []byte, err error) (int, error) {
	if err == nil {
		return len(b), nil
	}
	if p.failed == nil {
		p.failed = err
	}
	return 0, err
}

// errStuck is what follows a write that was given up.
var errStuck = errors.New("nobody reads it")

func (p *patientWriter) close() {
	close(p.blocks)
	if !p.stuck {
		<-p.ends
	}
}
