package kwik

import (
	"bytes"
	"io"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

var lan = simnet.Link{Latency: 2 * time.Millisecond, Rate: 200e6}

// The client reads one stream that three servers write.
func TestMultiServerStreamAggregation(t *testing.T) {
	for name, read := range map[string]func(s *AggregateReader, w *world) []byte{
		"ordered": func(s *AggregateReader, w *world) []byte {
			got, err := io.ReadAll(s)
			if err != nil {
				w.t.Fatal(err)
			}
			return got
		},
		"unordered": func(s *AggregateReader, w *world) []byte {
			k := newSink(len(w.data))
			if _, err := s.CopyTo(w.t.Context(), k, nil); err != nil {
				w.t.Fatal(err)
			}
			if k.twice {
				w.t.Error("bytes were written twice")
			}
			return k.data
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, lan, func(w *world) {
				client, server := w.dial(nil)
				s := w.offer(client, server, 64<<10, nil)
				if got := read(s, w); !bytes.Equal(got, w.data) {
					w.t.Fatal("wrong bytes")
				}
				st := s.Stats()
				if st.Bytes != int64(len(w.data)) || len(st.Sources) != 3 {
					w.t.Fatalf("stats %+v", st)
				}
				for _, src := range st.Sources {
					if src.Bytes == 0 {
						w.t.Errorf("%s delivered nothing", src.Server)
					}
				}
				s.Close()
				client.CloseWithError(0, "")
			})
		})
	}
}

func TestSecondaryServerFailover(t *testing.T) {
	for _, victim := range []string{"secondary", "primary"} {
		t.Run(victim, func(t *testing.T) {
			inWorld(t, 2, simnet.Link{Latency: 10 * time.Millisecond, Rate: 20e6}, func(w *world) {
				client, server := w.dial(nil)
				s := w.offer(client, server, 64<<10, nil)
				dying := w.secondaries[0]
				if victim == "primary" {
					dying = w.primary
				}
				time.AfterFunc(150*time.Millisecond, func() { w.net.Silence(dying.addr.Addr()) })
				start := time.Now()
				k := newSink(len(w.data))
				if _, err := s.CopyTo(w.t.Context(), k, nil); err != nil {
					w.t.Fatal(err)
				}
				if !bytes.Equal(k.data, w.data) {
					w.t.Fatal("wrong bytes")
				}
				w.t.Logf("%v, %+v", time.Since(start), s.Stats())
				client.CloseWithError(0, "")
			})
		})
	}
}

func TestRefutedSourceIsBanned(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		w.secondaries = append(w.secondaries, w.join(corrupt(func(b []byte) { b[len(b)/2] ^= 1; b[0] ^= 1 })))
		client, server := w.dial(nil)
		s := w.offer(client, server, 64<<10, w.prove)
		k := newSink(len(w.data))
		if _, err := s.CopyTo(w.t.Context(), k, nil); err != nil {
			w.t.Fatal(err)
		}
		if !bytes.Equal(k.data, w.data) {
			w.t.Fatal("wrong bytes")
		}
		w.t.Logf("%+v", s.Stats())
		client.CloseWithError(0, "")
	})
}
