package kwik

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/quic-go/quic-go"
)

// This file decides how long a server waits for a client that takes none of the bytes which it
// requested. Meanwhile they occupy memory and an open content.
//
// A client may be slow and honest. QUIC ends a connection whose peer is silent for 30 seconds,
// such as one that was suspended. A client whose disk or rate limit holds it up is alive, but its
// flow control is closed. At --limit-rate 1K it opens its window of 16 KiB by quarters: every 4 s
// with one server, every 256 s with 64. So 5 minutes are enough for all. While memory is short,
// clients that take less than 1 KiB in 30 s give theirs to others. Their streams end with
// ErrServerBusy, so that they may try again.

const (
	takeTimeout       = 5 * time.Minute
	scarceTakeTimeout = 30 * time.Second // while memory or open contents are scarce
	// minTaken is the number of bytes that count as progress.
	minTaken = 1 << 10
	// takeTick is the interval at which a write that waits for the client is looked at.
	takeTick = 5 * time.Second
)

// stalled decides about a client that has taken next to nothing of a stream since the given time.
// It returns nil if the server should go on waiting. An error ends the stream. If the client has
// taken nothing of its other streams either, stalled ends the session.
func (s *ServerSession) stalled(since time.Time) error {
	timeout := takeTimeout
	if s.listener.isScarce() {
		timeout = scarceTakeTimeout
	}
	if time.Since(since) < timeout {
		return nil
	}
	err := errorf(ErrServerBusy, "the client took no bytes for %v", timeout)
	if time.Since(s.lastTaken()) >= timeout {
		s.fail(err)
	}
	return err
}

// isScarce reports whether memory or open contents are short.
func (l *Listener) isScarce() bool { return l.memory.IsScarce() || l.contents.IsScarce() }

// taken records that the client took bytes now.
func (s *ServerSession) taken() { s.takenAt.Store(time.Now().UnixNano()) }

// lastTaken returns when the client last took bytes, or when the session began.
func (s *ServerSession) lastTaken() time.Time { return time.Unix(0, s.takenAt.Load()) }

// writeTaken writes p to a stream. setDeadline sets the stream's write deadline, or returns an
// error that ends the write. wait is called every takeTick while the client has taken next to
// nothing since the given time; an error of it ends the write.
func (s *ServerSession) writeTaken(
	write func(p []byte) (int, error), p []byte, setDeadline func(time.Time) error, wait func(since time.Time) error,
) error {
	since, progress := time.Now(), 0
	for {
		if err := setDeadline(time.Now().Add(takeTick)); err != nil {
			return err
		}
		n, err := write(p)
		p, progress = p[n:], progress+n
		if progress >= minTaken || len(p) == 0 {
			s.taken()
			since, progress = time.Now(), 0
		}
		switch isTick := errors.Is(err, os.ErrDeadlineExceeded); {
		case len(p) == 0 && (err == nil || isTick):
			return nil
		case !isTick:
			return err
		}
		if err := wait(since); err != nil {
			return err
		}
	}
}

// openUniStream opens a unidirectional stream. It waits while the client allows no further one,
// as long as the client takes bytes of the others.
func (s *ServerSession) openUniStream(ctx context.Context) (*quic.SendStream, error) {
	stream, err := s.conn.OpenUniStream()
	if _, isLimited := errors.AsType[*quic.StreamLimitReachedError](err); !isLimited {
		return stream, err
	}
	for start := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, scarceTakeTimeout)
		stream, err := s.conn.OpenUniStreamSync(attempt)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return stream, err
		}
		since := s.lastTaken()
		if since.Before(start) {
			since = start
		}
		if err := s.stalled(since); err != nil {
			return nil, err
		}
	}
}
