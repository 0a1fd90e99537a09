package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// ---- MappingRetryPolicy

func TestMappingRetryPolicy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy MappingRetryPolicy
		known  int // the look-up that succeeds, counted from 1; 0 for none
		tries  int
		took   time.Duration
	}{
		{"known at once", MappingRetryPolicy{}, 1, 1, 0},
		{"known at the second look", MappingRetryPolicy{}, 2, 2, 10 * time.Millisecond},
		{"known at the last look", MappingRetryPolicy{}, 10, 10, 5110 * time.Millisecond},
		{"never known", MappingRetryPolicy{}, 0, 10, 5110 * time.Millisecond},
		{"one retry", MappingRetryPolicy{MaxRetries: 1, Backoff: time.Second}, 0, 2, time.Second},
		{"back-off doubles", MappingRetryPolicy{MaxRetries: 3, Backoff: time.Second}, 0, 4, 7 * time.Second},
		{"no retry", MappingRetryPolicy{MaxRetries: -1}, 2, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, tries := time.Now(), 0
				ok := tt.policy.populate().retry(nil, noNews, func() bool { tries++; return tries == tt.known })
				if found := tt.known > 0 && tt.known <= tt.tries; ok != found {
					t.Errorf("found %t, want %t", ok, found)
				}
				if tries != tt.tries || time.Since(start) != tt.took {
					t.Errorf("%d look-ups and %v, want %d and %v", tries, time.Since(start), tt.tries, tt.took)
				}
			})
		})
	}
	t.Run("its owner ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start, done := time.Now(), make(chan struct{})
			time.AfterFunc(15*time.Millisecond, func() { close(done) })
			if (MappingRetryPolicy{}).populate().retry(done, noNews, func() bool { return false }) || time.Since(start) != 15*time.Millisecond {
				t.Errorf("after %v", time.Since(start))
			}
		})
	})
}

// inFakeWorld runs f with a client, an honest primary and a fake secondary; nothing is offered yet.
func inFakeWorld(t *testing.T, conf *ClientConfig, f func(w *world, client *ClientSession, server *ServerSession, fake *fakePeer, id ServerID)) {
	t.Helper()
	inWorldOf(t, 1<<20+77, 0, lan, func(w *world) {
		secondary, id := w.fakeSecondary()
		client, server := w.dial(conf)
		fake := secondary.welcome(kwikpb.Role_ROLE_SECONDARY, id)
		w.wantState(client, id, PathActive)
		f(w, client, server, fake, id)
	})
}

// Offers and data travel on different paths. Data that arrives before its offer, or before its
// source is attached, waits and counts.
func TestDataBeforeItsOffer(t *testing.T) {
	inFakeWorld(t, nil, func(w *world, client *ClientSession, server *ServerSession, fake *fakePeer, id ServerID) {
		size := uint64(len(w.data))
		x := fake.extent(wireOpen(firstAggregateStreamID, 0, 0), wireData(w.data[:1<<20]), wireData(w.data[1<<20:]), wireClose(size))
		x.Close()
		time.Sleep(100 * time.Millisecond) // the stream waits for its offer
		s := w.offerPushed(client, server, int64(size), 0, nil)
		if s.StreamID() != firstAggregateStreamID {
			w.t.Fatalf("stream %#x", s.StreamID())
		}
		time.Sleep(100 * time.Millisecond) // and for its source's attachment: the client does not read yet
		w.copy(s).wantAll()
		if delivered(s, id) != int64(size) {
			w.t.Errorf("%+v", s.Stats())
		}
		fake.wantOpen()
	})
}

// Data whose offer never arrives becomes a violation, which closes only its path.
func TestDataWithoutAnOffer(t *testing.T) {
	for name, offered := range map[string]bool{"never offered": false, "never attached": true} {
		t.Run(name, func(t *testing.T) {
			inFakeWorld(t, nil, func(w *world, client *ClientSession, server *ServerSession, fake *fakePeer, _ ServerID) {
				if offered {
					w.offerPushed(client, server, int64(len(w.data)), 0, nil)
				}
				start := time.Now()
				fake.extent(wireOpen(firstAggregateStreamID, 0, 0), wireData(w.data[:1000]))
				fake.wantClosed(ErrMetadataProtocolViolation)
				if took := time.Since(start); took < 5110*time.Millisecond || took > 5200*time.Millisecond {
					w.t.Errorf("after %v", took)
				}
				if _, err := client.OpenStream(); err != nil {
					w.t.Errorf("the session ended: %v", err)
				}
			})
		})
	}
}

// Neither the end of a session nor that of a path waits for a secondary stream that waits for its
// offer.
func TestWaitForAnOfferEnds(t *testing.T) {
	patient := &ClientConfig{Recovery: RecoveryPolicy{Mapping: MappingRetryPolicy{MaxRetries: 12}}} // 41 s
	inFakeWorld(t, patient, func(w *world, client *ClientSession, _ *ServerSession, fake *fakePeer, _ ServerID) {
		fake.extent(wireOpen(firstAggregateStreamID, 0, 0))
		time.Sleep(time.Second)
		start := time.Now()
		client.CloseWithError(0, "")
		if took := time.Since(start); took > 100*time.Millisecond {
			w.t.Errorf("closing the session took %v", took)
		}
		if n := len(client.handler.streams); n > 0 {
			w.t.Errorf("%d secondary streams are left", n)
		}
	})
	inFakeWorld(t, patient, func(w *world, client *ClientSession, _ *ServerSession, fake *fakePeer, id ServerID) {
		fake.extent(wireOpen(firstAggregateStreamID, 0, 0))
		time.Sleep(time.Second)
		fake.conn.CloseWithError(0, "")
		took := w.within(time.Minute, func() bool { return w.path(client, id).State != PathActive })
		if took > 100*time.Millisecond {
			w.t.Errorf("the path's end was noticed after %v", took)
		}
	})
}

// ---- AggregationFallbackStrategy

// A flaky content returns wrong bytes for the first few reads, and records the offsets of reads.
type flaky struct {
	memory
	mu    *sync.Mutex
	wrong *int
	reads *[]int64
}

func (f flaky) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.memory.ReadAt(p, off)
	f.mu.Lock()
	defer f.mu.Unlock()
	*f.reads = append(*f.reads, off)
	if *f.wrong > 0 {
		*f.wrong--
		p[n/2] ^= 1
	}
	return n, err
}

// Bytes that fail their proof: what each strategy does with a server that is wrong once and with
// one that is always wrong.
func TestAggregationFallback(t *testing.T) {
	const always = 1 << 30
	for _, tt := range []struct {
		name     string
		strategy AggregationFallbackStrategy
		wrong    int
		alone    bool // the primary has lost the content, so no other server can help
		state    PathState
		blames   int
		fails    ErrorCode // of CopyTo
	}{
		{"isolate, wrong once", FallbackIsolateSource, 1, false, PathBanned, 1, NoError},
		{"isolate, always wrong", FallbackIsolateSource, always, false, PathBanned, 1, NoError},
		{"isolate, nobody else", FallbackIsolateSource, 1, true, PathBanned, 1, ErrAggregationTimeout},
		{"ignore, wrong once", FallbackIgnoreCorrupted, 1, false, PathActive, 1, NoError},
		{"ignore, wrong twice, nobody else", FallbackIgnoreCorrupted, 2, true, PathActive, 2, NoError},
		{"ignore, always wrong", FallbackIgnoreCorrupted, always, false, PathBanned, maxRejections, NoError},
		{"retransmit, wrong once", FallbackRequestRetransmission, 1, false, PathActive, 1, NoError},
		{"retransmit, wrong twice, nobody else", FallbackRequestRetransmission, 2, true, PathActive, 2, NoError},
		{"retransmit, always wrong", FallbackRequestRetransmission, always, false, PathBanned, maxRejections, NoError},
		{"close, wrong once", FallbackCloseStream, 1, false, PathActive, 1, ErrSourceRefuted},
		{"close, always wrong", FallbackCloseStream, always, false, PathActive, 1, ErrSourceRefuted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 0, lan, func(w *world) {
				t := w.t
				var (
					mu     sync.Mutex
					blamed []ServerID
					reads  []int64
					wrong  = tt.wrong
				)
				w.primary.config.OnReject = func(_ *ServerSession, path ServerID, _ int64, _ string) {
					mu.Lock()
					defer mu.Unlock()
					blamed = append(blamed, path)
				}
				if tt.alone {
					w.primary.config.OpenContent = func(context.Context, ContentRequest) (Content, error) { return nil, errors.New("lost") }
				}
				bad := w.join(configured(func(c *ServerConfig) {
					c.OpenContent = func(context.Context, ContentRequest) (Content, error) {
						return flaky{memory{w.data}, &mu, &wrong, &reads}, nil
					}
				}))
				w.secondaries = append(w.secondaries, bad, w.join())
				if tt.alone {
					w.secondaries[1].config.OpenContent = w.primary.config.OpenContent
				}
				client, server := w.dial(&ClientConfig{Recovery: RecoveryPolicy{Aggregation: tt.strategy}})
				for _, id := range []ServerID{"s1", "s2"} {
					w.wantState(client, id, PathActive)
				}
				var refuted []int64
				s := w.offer(client, server, unit, func(_ ServerID, off int64, p []byte) error {
					if !bytes.Equal(p, w.data[off:off+int64(len(p))]) {
						mu.Lock()
						defer mu.Unlock()
						refuted = append(refuted, off)
						return errors.New("wrong")
					}
					return nil
				})
				c := w.copy(s)
				if tt.fails == NoError {
					c.wantAll()
				} else {
					<-c.done
					wantError(w.t, c.err, tt.fails)
				}
				time.Sleep(time.Second) // for the primary to hear of it
				mu.Lock()
				defer mu.Unlock()
				if len(blamed) != tt.blames || slices.ContainsFunc(blamed, func(id ServerID) bool { return id != "s1" }) {
					w.t.Errorf("blamed %v, want s1 %d times", blamed, tt.blames)
				}
				if got := w.path(client, "s1").State; got != tt.state {
					w.t.Errorf("s1 is %v, want %v", got, tt.state)
				}
				if w.path(client, primaryID).State != PathActive || w.path(client, "s2").State != PathActive || len(w.secondaries[1].sessions) != 1 {
					w.t.Errorf("a server that did nothing wrong lost its path: %+v", client.Servers())
				}
				// A server that is always wrong is banned for the frames that follow the first one.
				if tt.strategy == FallbackRequestRetransmission && tt.wrong != always {
					asked := 0
					for _, off := range reads {
						if off == refuted[0] {
							asked++
						}
					}
					if asked < 2 {
						w.t.Errorf("the bytes at %d were not requested again: %v", refuted[0], reads)
					}
				}
				if tt.strategy == FallbackCloseStream {
					if e, _ := errors.AsType[*Error](c.err); e.Path != "s1" || e.Stream != s.StreamID() || e.Offset != refuted[0] {
						t.Errorf("%v does not say where", c.err)
					}
					s.Close()
					w.copy(w.offer(client, server, unit, nil)).sink.data = nil // the session goes on: another stream may be read
				}
			})
		})
	}
}

// ---- MetadataRecoveryStrategy

// laterGrant answers the fake's grants until there is one that does not begin at 0.
func (h *hostileScene) laterGrant() {
	for h.start == 0 {
		h.answer(h.grant, h.grant.GetLength())
		h.w.within(time.Second, func() bool { return h.delivered() == int64(h.grant.GetLength()) })
		h.grant = h.fake.granted()
		h.start = h.grant.GetExpectedOffset()
	}
}

// brokenStreams are secondary streams that break the rules in different ways.
var brokenStreams = map[string]func(h *hostileScene) [][]byte{
	"garbage after OPEN": func(h *hostileScene) [][]byte { return [][]byte{h.open(), bytes.Repeat([]byte{0xff}, 64)} },
	"wrong offset": func(h *hostileScene) [][]byte {
		return [][]byte{wireOpen(h.stream.StreamID(), h.grant.GetGrantId(), h.start+unit)}
	},
	"no initial offset": func(h *hostileScene) [][]byte {
		return [][]byte{wireOpen(h.stream.StreamID(), h.grant.GetGrantId(), 0)}
	},
	"off unit boundaries": func(h *hostileScene) [][]byte { return [][]byte{h.open(), h.data(h.start, 1000)} },
	"CLOSE elsewhere": func(h *hostileScene) [][]byte {
		return [][]byte{h.open(), h.data(h.start, unit), wireClose(h.start)}
	},
}

func inRecoveryScene(t *testing.T, strategy MetadataRecoveryStrategy, f func(h *hostileScene)) {
	t.Helper()
	t.Parallel()
	inHostileSceneUnder(t, 8<<20, &ClientConfig{Recovery: RecoveryPolicy{Metadata: strategy}}, func(h *hostileScene) {
		h.laterGrant()
		f(h)
	})
}

func TestRecoveryClosePath(t *testing.T) {
	for name, say := range brokenStreams {
		t.Run(name, func(t *testing.T) {
			inRecoveryScene(t, RecoveryClosePath, func(h *hostileScene) {
				h.fake.extent(say(h)...)
				h.fake.wantClosed(ErrMetadataProtocolViolation)
				h.wantLife()
			})
		})
	}
}

// The source keeps its path, and the client grants the missing bytes again. After three such
// streams in a row the client no longer uses the source.
func TestRecoveryRequestResend(t *testing.T) {
	for _, strategy := range []MetadataRecoveryStrategy{RecoveryRequestResend, RecoveryUseDefaults} {
		for name, say := range brokenStreams {
			if strategy == RecoveryUseDefaults && name == "no initial offset" {
				continue
			}
			t.Run(fmt.Sprint(strategy, " ", name), func(t *testing.T) {
				inRecoveryScene(t, strategy, func(h *hostileScene) {
					before := h.delivered()
					h.fake.extent(say(h)...)
					time.Sleep(10 * time.Millisecond)
					if g := h.held(h.grant.GetGrantId()); g {
						h.w.t.Error("the grant of the broken stream is still the source's")
					}
					g := h.fake.granted()
					h.answer(g, g.GetLength())
					h.fake.wantOpen()
					h.wantLife()
					if h.delivered() <= before {
						h.w.t.Error("the later bytes of the source did not count")
					}
				})
			})
		}
	}
	for _, name := range []string{"garbage after OPEN", "wrong offset"} {
		t.Run("three times, "+name, func(t *testing.T) {
			inRecoveryScene(t, RecoveryRequestResend, func(h *hostileScene) {
				for n := range maxStrikes {
					if n > 0 {
						h.grant = h.fake.granted()
						h.start = h.grant.GetExpectedOffset()
					}
					h.fake.extent(brokenStreams[name](h)...)
				}
				h.wantLife()
				wantError(h.w.t, h.gone(), ErrContentUnavailable)
				h.fake.wantOpen()
			})
		})
	}
}

// held reports whether a grant of the fake is in the scheduler's queue.
func (h *hostileScene) held(grant uint64) bool {
	a := h.stream.agg
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.sched.Grants(), func(g sched.GrantState) bool { return g.ID == grant && g.Queued })
}

// gone returns the error that removed the fake from the stream, or nil if the fake is still a
// source.
func (h *hostileScene) gone() error {
	for _, src := range h.stream.Stats().Sources {
		if src.Server == h.id {
			return src.Gone
		}
	}
	return nil
}

// delivered is how many of the fake's bytes counted.
func (h *hostileScene) delivered() int64 { return delivered(h.stream, h.id) }

// An initial offset that is left out is the grant's start.
func TestRecoveryUseDefaults(t *testing.T) {
	inRecoveryScene(t, RecoveryUseDefaults, func(h *hostileScene) {
		before := h.delivered()
		x := h.fake.extent(brokenStreams["no initial offset"](h)...)
		x.write(h.data(h.start, unit), wireClose(h.start+unit))
		x.Close()
		h.fake.wantOpen()
		h.wantLife()
		if h.delivered()-before != unit {
			h.w.t.Errorf("%d bytes counted", h.delivered()-before)
		}
	})
}

// The KWIK stream ends with the violation; no path does, the fake's neither.
func TestRecoveryCloseStream(t *testing.T) {
	for name, say := range brokenStreams {
		t.Run(name, func(t *testing.T) {
			inRecoveryScene(t, RecoveryCloseStream, func(h *hostileScene) {
				h.fake.extent(say(h)...)
				<-h.copy.done
				wantError(h.w.t, h.copy.err, ErrMetadataProtocolViolation)
				if e, _ := errors.AsType[*Error](h.copy.err); e.Path != h.id.path(1) {
					h.w.t.Errorf("%v does not say who", h.copy.err)
				}
				h.fake.wantOpen()
				for _, p := range h.client.Servers() {
					if p.State != PathActive {
						h.w.t.Errorf("%s is %v: %v", p.ID, p.State, p.Err)
					}
				}
			})
		})
	}
}

// The source is removed from this KWIK stream, and serves the next one.
func TestRecoveryIgnoreStream(t *testing.T) {
	for name, say := range brokenStreams {
		t.Run(name, func(t *testing.T) {
			inRecoveryScene(t, RecoveryIgnoreStream, func(h *hostileScene) {
				h.fake.extent(say(h)...)
				h.wantLife()
				wantError(h.w.t, h.gone(), ErrMetadataProtocolViolation)
				h.fake.wantOpen()
				h.stream = h.w.offer(h.client, h.server, unit, nil)
				h.copy = h.w.copy(h.stream)
				h.fake.attached()
				g := h.fake.granted()
				h.answer(g, g.GetLength())
				h.wantLife()
				if h.delivered() == 0 {
					h.w.t.Error("the source does not serve the next stream")
				}
			})
		})
	}
}

// A truncated stream is no violation under any strategy. A stream that does not name its KWIK
// stream is a violation under each.
func TestRecoveryOfTruncatedAndNamelessStreams(t *testing.T) {
	for strategy := RecoveryClosePath; strategy <= RecoveryIgnoreStream; strategy++ {
		t.Run(fmt.Sprint(strategy, " truncated"), func(t *testing.T) {
			inRecoveryScene(t, strategy, func(h *hostileScene) {
				h.fake.extent(h.open(), h.data(h.start, unit)[:unit/2]).Close()
				h.fake.wantOpen()
				h.wantLife()
			})
		})
		t.Run(fmt.Sprint(strategy, " nameless"), func(t *testing.T) {
			inRecoveryScene(t, strategy, func(h *hostileScene) {
				h.fake.extent(bytes.Repeat([]byte{0xff}, 64))
				h.fake.wantClosed(ErrMetadataProtocolViolation)
				h.wantLife()
			})
		})
	}
}

// The refutations of a source count on its next connection, too.
func TestRefutationsOutliveThePath(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		t := w.t
		w.secondaries = append(w.secondaries, w.join(corrupt(func(b []byte) {
			for i := range b {
				b[i] ^= 1
			}
		})))
		client, server := w.dial(&ClientConfig{Recovery: RecoveryPolicy{Aggregation: FallbackIgnoreCorrupted}})
		w.wantState(client, "s1", PathActive)
		s := w.offerPushed(client, server, int64(len(w.data)), unit, func(source ServerID, off int64, p []byte) error {
			if source == "s1" {
				return errors.New("wrong")
			}
			return nil
		})
		if _, err := s.Read(nil); err != nil {
			t.Fatal(err)
		}
		for n := range maxRejections {
			session := <-w.secondaries[0].sessions
			p, err := session.AcceptPushedStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if push(session, p.StreamID(), 0, w.data[:unit]); n < maxRejections-1 {
				w.within(time.Second, func() bool { return s.Stats().Wasted == int64(n+1)*unit })
				session.CloseWithError(0, "")
			}
		}
		w.wantState(client, "s1", PathBanned)
	})
}

// noNews is for retries that nothing makes sooner.
func noNews() <-chan struct{} { return nil }
