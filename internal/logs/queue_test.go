package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testReport(lines int) []byte { return fmt.Appendf(nil, "lost %d\n", lines) }

// A gate is an output that blocks until it is opened, and fails with err.
type gate struct {
	open  chan struct{} // closed when it is open
	mu    sync.Mutex    // guards the rest
	err   error
	wrote strings.Builder
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.wrote.Write(b)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wrote.String()
}

func (g *gate) setError(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func TestQueueWritesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		close(g.open)
		q := NewQueue(g, testReport)
		defer q.Close(t.Context(), 0)
		for i := range 100 {
			fmt.Fprintln(q, i)
			if !strings.HasSuffix(g.text(), fmt.Sprintf("%d\n", i)) {
				t.Fatalf("line %d was not written when Write returned", i)
			}
		}
	})
}

// A reader that does not read delays the first line only. Lines beyond the bound are lost, and
// counted.
func TestQueueDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		q := NewQueue(g, testReport)
		const lines, length = 3000, 1024
		start := time.Now()
		for i := range lines {
			fmt.Fprintf(q, "%*d\n", length-1, i)
		}
		if took := time.Since(start); took != patience {
			t.Errorf("%d lines took %v", lines, took)
		}
		if !q.IsStuck() {
			t.Error("it is not stuck")
		}
		close(g.open)
		q.Close(t.Context(), 0)
		const kept = 1 + maxQueued/length // the first was being written
		want := fmt.Sprintf("%d\nlost %d\n", kept-1, lines-kept)
		if text := g.text(); !strings.HasSuffix(text, want) {
			t.Errorf("it ends with %q, want %q", strings.TrimSpace(text[max(0, len(text)-100):]), want)
		}
	})
}

// Lines that cannot be written are counted, and reported as soon as one can.
func TestQueueReportsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		close(g.open)
		g.setError(errors.New("full"))
		q := NewQueue(g, testReport)
		defer q.Close(t.Context(), 0)
		for i := range 5 {
			fmt.Fprintln(q, i)
		}
		g.setError(nil)
		fmt.Fprintln(q, "again")
		if got, want := g.text(), "lost 5\nagain\n"; got != want {
			t.Errorf("it wrote %q, want %q", got, want)
		}
	})
}

func TestQueueCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		q := NewQueue(w, testReport)
		fmt.Fprintln(q, "line")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		q.Close(ctx, time.Second)
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("it took %v", took)
		}
		fmt.Fprintln(q, "after the end")
		q.Close(ctx, time.Second)
		r.Close() // ends the goroutine
	})
}
