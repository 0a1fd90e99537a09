package kwik

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// slow makes a transfer of 3 MiB take half a second and more.
var slow = simnet.Link{Latency: 10 * time.Millisecond, Rate: 20e6}

// Closing either end ends the other, with the code and the reason that were given. Nothing is
// left of both: synctest fails the test otherwise.
func TestSessionClose(t *testing.T) {
	wantCause := func(w *world, ctx context.Context, remote bool) {
		w.t.Helper()
		<-ctx.Done()
		e, ok := errors.AsType[*quic.ApplicationError](context.Cause(ctx))
		if !ok {
			w.t.Fatalf("cause %v is no *quic.ApplicationError", context.Cause(ctx))
		}
		if e.ErrorCode != 7 || e.ErrorMessage != "enough" {
			w.t.Errorf("cause %v, want code 7, enough", e)
		}
		if e.Remote != remote {
			w.t.Errorf("cause %v, want remote %t", e, remote)
		}
	}
	t.Run("client", func(t *testing.T) {
		inWorld(t, 1, slow, func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit, nil)
			c := w.copy(s)
			time.Sleep(200 * time.Millisecond)
			client.CloseWithError(7, "enough")
			wantCause(w, server.Context(), true)
			<-c.done
			if !errors.Is(c.err, errStreamClosed) && !errors.Is(c.err, errSessionClosed) {
				w.t.Errorf("CopyTo: %v", c.err)
			}
			if _, err := client.OpenStreamSync(w.t.Context()); err == nil {
				w.t.Error("a closed session opened a stream")
			}
			if _, err := client.AcceptStream(w.t.Context()); !errors.Is(err, errSessionClosed) {
				w.t.Errorf("AcceptStream: %v", err)
			}
		})
	})
	t.Run("server", func(t *testing.T) {
		inWorld(t, 1, slow, func(w *world) {
			client, server := w.dial(nil)
			c := w.copy(w.offer(client, server, unit, nil))
			time.Sleep(200 * time.Millisecond)
			server.CloseWithError(7, "enough")
			wantCause(w, client.Context(), true)
			c.wantAll() // the secondary has it, too
			if _, err := client.AcceptStream(w.t.Context()); err == nil {
				w.t.Error("a stream from a primary that is gone")
			}
		})
	})
}

// If one server dies, the others deliver the rest.
func TestDeathDuringATransfer(t *testing.T) {
	for _, victim := range []string{"primary", "secondary", "primary and a secondary"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			inWorld(t, 2, slow, func(w *world) {
				client, server := w.dial(nil)
				c := w.copy(w.offer(client, server, unit, nil))
				time.Sleep(200 * time.Millisecond)
				if victim != "secondary" {
					w.primary.kill()
				}
				if victim != "primary" {
					w.secondaries[0].kill()
				}
				start := time.Now()
				c.wantAll()
				if took := time.Since(start); took > 4*time.Second {
					w.t.Errorf("took %v after the death", took)
				}
			})
		})
	}
}

// A transfer fails when no server is left: after the time-out if the servers are silent, at once
// if they closed their sessions.
func TestNobodyLeft(t *testing.T) {
	t.Run("silence", func(t *testing.T) {
		inWorld(t, 1, slow, func(w *world) {
			client, server := w.dial(&ClientConfig{SourceTimeout: 3 * time.Second})
			c := w.copy(w.offer(client, server, unit, nil))
			time.Sleep(200 * time.Millisecond)
			w.net.Silence(w.primary.addr.Addr())
			w.net.Silence(w.secondaries[0].addr.Addr())
			start := time.Now()
			<-c.done
			wantError(w.t, c.err, ErrAggregationTimeout)
			if took := time.Since(start); took < 3*time.Second || took > 3*time.Second+sched.MinStall+500*time.Millisecond {
				w.t.Errorf("after %v", took)
			}
		})
	})
	t.Run("goodbye", func(t *testing.T) {
		inWorld(t, 0, slow, func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit, nil)
			time.AfterFunc(200*time.Millisecond, func() { server.CloseWithError(9, "bye") })
			start := time.Now()
			_, err := io.ReadAll(s)
			wantError(w.t, err, ErrAggregationTimeout)
			if e, ok := errors.AsType[*quic.ApplicationError](err); !ok || e.ErrorCode != 9 {
				w.t.Errorf("%v does not say how the primary ended", err)
			}
			if took := time.Since(start); took > 500*time.Millisecond {
				w.t.Errorf("after %v", took)
			}
		})
	})
	t.Run("no content", func(t *testing.T) {
		inWorld(t, 1, lan, func(w *world) {
			client, server := w.dial(nil)
			o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1, Descriptor: []byte("other")})
			if err != nil {
				w.t.Fatal(err)
			}
			s := w.accept(client, o.StreamID(), nil)
			_, err = s.Read(make([]byte, 1))
			wantError(w.t, err, ErrAggregationTimeout)
			if !errors.Is(err, ErrContentUnavailable) {
				w.t.Errorf("%v does not say why", err)
			}
		})
	})
}

func TestManyStreamsAtOnce(t *testing.T) {
	inWorldOf(t, 100<<10+3, 2, lan, func(w *world) {
		client, server := w.dial(nil)
		var copies []*copying
		for range 64 {
			copies = append(copies, w.copy(w.offer(client, server, 16<<10, nil)))
		}
		for _, c := range copies {
			c.wantAll()
			c.s.Close()
		}
		w.within(time.Second, func() bool {
			server.mu.Lock()
			defer server.mu.Unlock()
			return len(server.offers)+len(server.attached) == 0
		})
		synctest.Wait()
		if len(client.streams) != 0 || len(client.handler.streams) != 0 || len(client.handler.mappings.secondaryToKwik) != 0 {
			w.t.Errorf("left: %d streams, %d secondary streams", len(client.streams), len(client.handler.streams))
		}
	})
}

func TestTwoSessionsAtOnce(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		one, oneServer := w.dial(nil)
		two, twoServer := w.dial(nil)
		if one.ID() == two.ID() || oneServer.ID() != one.ID() || twoServer.ID() != two.ID() {
			w.t.Errorf("ids %v %v, %v %v", one.ID(), oneServer.ID(), two.ID(), twoServer.ID())
		}
		a, b := w.copy(w.offer(one, oneServer, unit, nil)), w.copy(w.offer(two, twoServer, unit, nil))
		a.wantAll()
		one.CloseWithError(0, "")
		b.wantAll()
	})
}

// Every call that waits ends with its context.
func TestContextsEndCalls(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		for {
			if _, err := client.OpenStream(); err != nil {
				break // QUIC's limit
			}
		}
		for {
			if _, err := server.OpenStream(); err != nil {
				break
			}
		}
		s := w.offer(client, server, unit, nil)
		secondary := <-w.secondaries[0].sessions
		w.net.Silence(w.primary.addr.Addr())
		w.net.Silence(w.secondaries[0].addr.Addr())
		for name, call := range map[string]func(ctx context.Context) error{
			"client OpenStreamSync":  func(ctx context.Context) error { _, err := client.OpenStreamSync(ctx); return err },
			"client AcceptStream":    func(ctx context.Context) error { _, err := client.AcceptStream(ctx); return err },
			"client AcceptAggregate": func(ctx context.Context) error { _, err := client.AcceptAggregate(ctx, 1<<62+9); return err },
			"CopyTo":                 func(ctx context.Context) error { _, err := s.CopyTo(ctx, newSink(unit), nil); return err },
			"server OpenStreamSync":  func(ctx context.Context) error { _, err := server.OpenStreamSync(ctx); return err },
			"secondary AcceptStream": func(ctx context.Context) error { _, err := secondary.AcceptStream(ctx); return err },
			"listener Accept":        func(ctx context.Context) error { _, err := w.secondaries[0].Accept(ctx); return err },
			"secondary Join": func(ctx context.Context) error {
				_, err := w.secondaries[0].Join(ctx, w.primary.addr.String(), JoinConfig{Token: w.token})
				return err
			},
			"Dial to a silent server": func(ctx context.Context) error { _, err := tryDialContext(ctx, w); return err },
		} {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
			start := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				w.t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took > 1100*time.Millisecond {
				w.t.Errorf("%s took %v", name, took)
			}
			cancel()
		}
	})
}

func tryDialContext(ctx context.Context, w *world) (*ClientSession, error) {
	socket, _ := w.listen()
	defer socket.Close()
	return Dial(ctx, socket, net.UDPAddrFromAddrPort(w.primary.addr), pinned(w.primary.pin()), nil)
}

// Deadlines of an aggregate stream's reader work as a connection's: a moved one counts, a passed
// one can be moved.
func TestAggregateReadDeadline(t *testing.T) {
	inWorld(t, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		w.net.Silence(w.primary.addr.Addr())
		start := time.Now()
		s.SetReadDeadline(start.Add(time.Hour))
		time.AfterFunc(100*time.Millisecond, func() { s.SetReadDeadline(start.Add(300 * time.Millisecond)) })
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 300*time.Millisecond {
			w.t.Errorf("%v after %v", err, time.Since(start))
		}
		w.net.Heal(w.primary.addr.Addr())
		s.SetReadDeadline(time.Time{})
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, w.data) {
			w.t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// A listener that closes ends the sessions of its clients. They keep the bytes that arrived
// before, and get an error.
func TestListenerClosesUnderClients(t *testing.T) {
	inWorld(t, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		c := w.copy(w.offer(client, server, unit, nil))
		time.Sleep(200 * time.Millisecond)
		w.primary.stop()
		<-c.done
		wantError(w.t, c.err, ErrAggregationTimeout)
		if e, ok := errors.AsType[*quic.ApplicationError](context.Cause(client.Context())); !ok || e.ErrorCode != 0 {
			w.t.Errorf("cause %v", context.Cause(client.Context()))
		}
		if _, err := w.primary.Accept(w.t.Context()); !errors.Is(err, net.ErrClosed) {
			w.t.Errorf("Accept: %v", err)
		}
	})
}

// A peer that never reads its control stream cannot make the other side hold more than a megabyte
// for it.
func TestPeerThatReadsNoControlIsCutOff(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		p := w.fakeGuest(w.primary, mySession, "", nil)
		server := <-w.primary.sessions
		for range 200 {
			o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1, Descriptor: make([]byte, maxDescriptor)})
			if err != nil {
				w.t.Fatal(err)
			}
			p.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
				KwikStreamId: uint64(o.StreamID()), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
			})
			time.Sleep(20 * time.Millisecond)
			if server.Context().Err() != nil {
				break
			}
		}
		p.wantClosed(ErrSecondaryStreamOverflow)
	})
}

// A new connection takes the place of one that has sent nothing, and a session that of one without
// a stream. While every session has a stream, a client is told that the server is busy.
func TestLimitsOfStrangers(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
			c.maxHandshakes, c.MaxSessions, c.MaxSessionsPerAddress = 2, 3, 3
		}))
		mute := []*fakePeer{w.fakeClient(w.primary, protocolClient), w.fakeClient(w.primary, protocolJoin)}
		time.Sleep(100 * time.Millisecond)
		last := w.fakeClient(w.primary, protocolClient)
		mute[0].wantClosed(ErrServerBusy)
		for _, p := range []*fakePeer{mute[1], last} {
			p.wantClosed(ErrMetadataProtocolViolation)
		}
		for range 3 {
			_, server := w.dial(nil)
			if _, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1}); err != nil {
				w.t.Fatal(err)
			}
		}
		_, err := w.tryDial(w.primary.addr, w.primary.pin(), nil)
		wantError(w.t, err, ErrServerBusy)
		w.clients[0].CloseWithError(0, "")
		time.Sleep(100 * time.Millisecond)
		w.dial(nil)
	})
}

// The application may close a stream in any state, from anywhere, and as often as it likes.
func TestStreamCloseAtAnyTime(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		w.offer(client, server, unit, nil).Close() // before anything was read
		s := w.offer(client, server, unit, nil)
		if _, err := s.Read(make([]byte, 1)); err != nil {
			w.t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { s.Close() })
		}
		wg.Wait()
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, errStreamClosed) {
			w.t.Errorf("Read: %v", err)
		}
		third := w.offer(client, server, unit, nil)
		c := w.copy(third)
		time.Sleep(20 * time.Millisecond)
		third.Close()
		if <-c.done; !errors.Is(c.err, errStreamClosed) {
			w.t.Errorf("CopyTo: %v", c.err)
		}
		w.copy(w.offer(client, server, unit, nil)).wantAll() // the session is none the worse
	})
}

// failing is a Content that breaks off: the file was truncated, say.
type failing struct {
	memory
	from int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, fmt.Errorf("cut short: %w", ErrContentChanged)
	}
	return f.memory.ReadAt(p, off)
}

// A source whose content fails during a stream reports it and is removed from that stream. Its
// path stays open for other streams.
func TestContentBreaksOff(t *testing.T) {
	inWorld(t, 0, slow, func(w *world) {
		w.secondaries = append(w.secondaries, w.join(configured(func(c *ServerConfig) {
			c.OpenContent = func(context.Context, ContentRequest) (Content, error) {
				return failing{memory{w.data}, int64(len(w.data)) / 4}, nil
			}
		})))
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		for range 2 {
			s := w.offer(client, server, unit, nil)
			w.copy(s).wantAll()
			for _, src := range s.Stats().Sources {
				if src.Server == "s1" && (!errors.Is(src.Gone, ErrContentChanged) || !strings.Contains(src.Gone.Error(), "cut short")) {
					w.t.Errorf("s1 is gone because of %v", src.Gone)
				}
			}
			s.Close()
		}
		if st := w.path(client, "s1"); st.State != PathActive || len(w.secondaries[0].sessions) != 1 {
			w.t.Errorf("path %+v", st)
		}
	})
}

// The client tries the addresses of a server in order, a quarter of a second apart. If one
// refuses, the next follows at once. If two answer, the client keeps one.
func TestAddressesAreTriedInOrder(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		quick, late := w.fakeServer(), w.fakeServer()
		if err := w.net.SetLink(late.addr.Addr(), simnet.Link{Latency: 200 * time.Millisecond}); err != nil {
			w.t.Fatal(err)
		}
		nobody := netip.MustParseAddrPort("10.9.9.9:4433")
		tlsConf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocolClient}}
		stranger := w.fakeServer()
		stranger.listener.Close()
		for _, c := range []struct {
			addrs []netip.AddrPort
			want  netip.AddrPort
			most  time.Duration
		}{
			{[]netip.AddrPort{quick.addr, nobody}, quick.addr, 20 * time.Millisecond},
			{[]netip.AddrPort{nobody, quick.addr}, quick.addr, attemptDelay + 20*time.Millisecond},
			{[]netip.AddrPort{nobody, nobody, quick.addr}, quick.addr, 2*attemptDelay + 20*time.Millisecond},
			{[]netip.AddrPort{stranger.addr, quick.addr}, quick.addr, attemptDelay + 20*time.Millisecond},
			{[]netip.AddrPort{late.addr, quick.addr}, quick.addr, attemptDelay + 20*time.Millisecond},
		} {
			start := time.Now()
			listen := func(context.Context, netip.AddrPort) (net.PacketConn, error) {
				socket, _ := w.listen()
				return socket, nil
			}
			d, err := dialAny(w.t.Context(), c.addrs, func(ctx context.Context, to netip.AddrPort) (dialled, error) {
				return dialOne(ctx, to, tlsConf, &quic.Config{}, listen, nil)
			})
			if err != nil {
				w.t.Errorf("%v: %v", c.addrs, err)
				continue
			}
			if took := time.Since(start); d.addr != c.want || took > c.most {
				w.t.Errorf("%v: %v after %v, want %v within %v", c.addrs, d.addr, took, c.want, c.most)
			}
			d.conn.CloseWithError(0, "")
			d.release()
		}
	})
}
