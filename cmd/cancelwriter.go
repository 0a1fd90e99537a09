package cmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// A cancelWriter writes to a pipe or file that may block for any time, and gives up when ctx ends.
// With grace it waits that much longer, so that a slow reader still gets the last output.
//
// It has one goroutine. close ends it and waits for it, unless it blocks in a write that only the
// end of the process ends. One goroutine at a time may call Write.
type cancelWriter struct {
	ctx    context.Context
	grace  time.Duration
	blocks chan []byte
	ends   chan error // the results of blocks
	stuck  bool       // a write was given up; the goroutine may still be in it
	failed error      // of the first write that failed
}

func newCancelWriter(ctx context.Context, w io.Writer) *cancelWriter {
	c := &cancelWriter{ctx: ctx, blocks: make(chan []byte), ends: make(chan error, 1)}
	go func() {
		defer close(c.ends)
		for b := range c.blocks {
			_, err := w.Write(b)
			c.ends <- err
		}
	}()
	return c
}

// Write writes b.
func (c *cancelWriter) Write(b []byte) (int, error) { return c.WriteContext(c.ctx, bytes.Clone(b)) }

// WriteContext is Write that also gives up when ctx ends. After an error b must not be used again.
// It implements transfer.ContextWriter.
func (c *cancelWriter) WriteContext(ctx context.Context, b []byte) (int, error) {
	if c.stuck {
		return 0, errStuck
	}
	c.blocks <- b
	ended := ctx
	select {
	case err := <-c.ends:
		return c.done(b, err)
	case <-ctx.Done():
	case <-c.ctx.Done():
		ended = c.ctx
	}
	if c.grace > 0 {
		select {
		case err := <-c.ends:
			return c.done(b, err)
		case <-time.After(c.grace):
		}
	}
	c.stuck = true
	return 0, context.Cause(ended)
}

// done returns the result of a write that ended.
func (c *cancelWriter) done(b []byte, err error) (int, error) {
	if err == nil {
		return len(b), nil
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok { // its path is no news
		err = &outputError{e.Err}
	}
	if c.failed == nil {
		c.failed = err
	}
	return 0, err
}

// An outputError is the cause of a write that failed.
type outputError struct{ error }

func (e *outputError) Unwrap() error { return e.error }

// errStuck is the error of every write after one that was given up.
var errStuck = errors.New("the output is blocked")

func (c *cancelWriter) close() {
	close(c.blocks)
	if !c.stuck {
		<-c.ends
	}
}
