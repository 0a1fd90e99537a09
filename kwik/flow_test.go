package kwik

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A logBook records, in order, where the byte was seen.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logBook) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// loggedContent notes where a server reads.
type loggedContent struct {
	memory
	log *logBook
	who ServerRole
}

func (c loggedContent) ReadAt(p []byte, off int64) (int, error) {
	c.log.note("the %v reads [%d, %d)", c.who, off, off+int64(len(p)))
	return c.memory.ReadAt(p, off)
}

func (c loggedContent) Close() error {
	c.log.note("the %v closes the content", c.who)
	return nil
}

// loggedWriter notes what CopyTo writes.
type loggedWriter struct{ log *logBook }

func (w loggedWriter) WriteAt(p []byte, off int64) (int, error) {
	w.log.note("CopyTo writes %q at %d", p, off)
	return len(p), nil
}

// The path of one byte: Dial -> ClientSession -> path -> secondary stream handler -> stream
// aggregator -> Stream.Read or Stream.CopyTo. The primary has lost the content, so that the
// secondary must deliver the byte.
func TestFlowOfOneByte(t *testing.T) {
	for _, consumer := range []string{"Read", "CopyTo"} {
		t.Run(consumer, func(t *testing.T) {
			inWorldOf(t, 1, 0, lan, func(w *world) {
				t := w.t
				var log logBook
				w.data = []byte("K")
				serve := configured(func(c *ServerConfig) {
					c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
						log.note("the %v is asked for %q, %d byte", c.Role, r.Descriptor, r.Size)
						return loggedContent{memory{w.data}, &log, c.Role}, nil
					}
				})
				w.primary.config.OpenContent = func(context.Context, ContentRequest) (Content, error) {
					return nil, fmt.Errorf("lost")
				}
				w.secondaries = append(w.secondaries, w.join(serve))

				// Dial: a session whose public side is the primary's path.
				client, server := w.dial(nil)
				if client.ID() != server.ID() || server.Role() != ServerRolePrimary {
					t.Fatalf("session %v at the client, %v at the %v", client.ID(), server.ID(), server.Role())
				}
				// ClientSession: it keeps a path to the secondary that the primary named.
				w.wantState(client, "s1", PathActive)
				hidden := <-w.secondaries[0].sessions
				if hidden.ID() != client.ID() || hidden.Role() != ServerRoleSecondary {
					t.Fatalf("the secondary serves session %v as a %v", hidden.ID(), hidden.Role())
				}
				// The stream is accepted, and no byte has moved: there is no reader.
				verify := func(source ServerID, off int64, p []byte) error {
					// The handler received it, on a mapped secondary stream of that path.
					if n := client.handler.stats(source.path(1)).ActiveStreams; n != 1 {
						t.Errorf("%d secondary streams on %q", n, source)
					}
					log.note("the proof sees %q of %q at %d", p, source, off)
					return nil
				}
				s := w.offer(client, server, 1, verify)
				time.Sleep(time.Second)
				synctest.Wait()
				if st := s.Stats(); len(st.Sources) != 0 || len(log.lines) != 0 {
					t.Fatalf("before the first read: %+v, %q", st, log.lines)
				}

				// The handler finds the aggregator of the stream by its id, and of no other.
				if a, known := client.handler.aggregator(s.StreamID()); a != s.agg || !known {
					t.Fatal("the handler does not know the stream")
				}
				if a, known := client.handler.aggregator(s.StreamID() + 1); a != nil || known {
					t.Fatal("the handler knows a stream that was never offered")
				}
				want := []string{
					`the secondary is asked for "data", 1 byte`,
					`the secondary reads [0, 1)`,
					`the proof sees "K" of "s1" at 0`,
				}
				if consumer == "Read" {
					got, err := io.ReadAll(s)
					if err != nil || string(got) != "K" {
						t.Fatalf("Read %q, %v", got, err)
					}
				} else {
					if n, err := s.CopyTo(t.Context(), loggedWriter{&log}, nil); n != 1 || err != nil {
						t.Fatalf("CopyTo %d, %v", n, err)
					}
					want = append(want, `CopyTo writes "K" at 0`)
				}
				want = append(want, `the secondary closes the content`)

				// It counted once, for the secondary; the sources are let go; nothing is kept.
				st := s.Stats()
				if st.Bytes != 1 || st.Wasted != 0 || delivered(s, "s1") != 1 {
					t.Errorf("stats %+v", st)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if fmt.Sprint(log.lines) != fmt.Sprint(want) {
					t.Errorf("log\n%q, want\n%q", log.lines, want)
				}
				if len(s.agg.arrived.runs) != 0 || len(client.handler.streams) != 0 || len(hidden.attached) != 0 {
					t.Error("something of the stream is kept")
				}
				s.Close()
				if a, known := client.handler.aggregator(s.StreamID()); a != nil || !known {
					t.Error("a closed stream is not known as one that has ended")
				}
			})
		})
	}
}
