package kwik

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"

	kwikpb "kwikcp/kwik/proto"
)

// A control frame whose last byte never arrives ends the path, and its memory is charged
// meanwhile. Before, such a frame stayed for as long as the connection.
func TestAttackControlFrameWithoutEnd(t *testing.T) {
	for name, c := range map[string]struct {
		length, sent int
	}{
		"half a length":      {maxControlFrame, -1},
		"no content":         {100, 0},
		"a short frame":      {100, 99},
		"a long frame":       {maxControlFrame, maxControlFrame - 1},
		"a bit of one":       {maxControlFrame, 10},
		"just not charged":   {freeControlBytes, freeControlBytes - 1},
		"just charged":       {freeControlBytes + 1, freeControlBytes},
		"after a good frame": {2000, 1999},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				p := w.fakeGuestWith(w.primary, miser)
				server := <-w.primary.sessions
				w.openData(server, 1) // the session is not idle
				before := server.memory.Used()
				if name == "after a good frame" {
					p.sendRaw([]byte{0})
				}
				length := protowire.AppendVarint(nil, uint64(c.length))
				if c.sent < 0 {
					length = length[:len(length)-1]
				}
				p.sendRaw(append(length, make([]byte, max(0, c.sent))...))
				start := time.Now()
				time.Sleep(frameTimeout - time.Second)
				if err := server.Context().Err(); err != nil {
					w.t.Fatalf("ended early: %v", context.Cause(server.Context()))
				}
				want := int64(0)
				if c.sent >= 0 && c.length > freeControlBytes {
					want = 2 * int64(c.length)
				}
				if used := server.memory.Used() - before; used != want {
					w.t.Errorf("%d bytes are charged, want %d", used, want)
				}
				<-server.Context().Done()
				most := frameTime(c.length)
				if c.sent < 0 {
					most = frameTimeout
				}
				if took := time.Since(start); took > most+time.Second {
					w.t.Errorf("the path lived for %v, want %v", took, most)
				}
				p.wantClosed(ErrMetadataProtocolViolation)
			})
		})
	}
}

// Long frames of many sessions are charged: no more of them are read than the budget allows.
func TestAttackLongControlFrames(t *testing.T) {
	const guests, limit = 40, 16 << 20
	inWorldOf(t, unit, 0, lan, func(w *world) {
		s := w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
			c.MemoryLimit, c.MaxSessions = limit, guests+1
		}))
		w.t.Cleanup(s.stop)
		frame := protowire.AppendVarint(nil, maxControlFrame)
		frame = append(frame, make([]byte, maxControlFrame-1)...)
		before := heap()
		for range guests {
			p := w.fakeGuestWith(s, miser)
			w.wg.Go(func() { p.control.Write(frame) })
		}
		time.Sleep(5 * time.Second)
		grown := heap() - before
		w.t.Logf("%d KiB charged, %d KiB of heap", s.memory.Used()>>10, grown>>10)
		if used := s.memory.Used(); used > limit || used < limit/4 {
			w.t.Errorf("%d bytes are charged", used)
		}
		if grown > limit+guests<<20 { // the clients' buffers are in this process too
			w.t.Errorf("the heap grew by %d KiB", grown>>10)
		}
		w.copyFrom(s)
		time.Sleep(busyTimeout)
		if n := s.Sessions(); n > limit/(2*maxControlFrame) {
			w.t.Errorf("%d sessions are left", n)
		}
	})
}

// copyFrom copies w.data from another primary.
func (w *world) copyFrom(s *testServer) {
	w.t.Helper()
	client, err := w.tryDial(s.addr, s.pin(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.CloseWithError(0, "")
	for session := range s.sessions {
		if session.ID() == client.id {
			w.copy(w.offer(client, session, unit, w.prove)).wantAll()
			return
		}
	}
}

// A client of a server whose control frame never ends closes the path.
func TestAttackControlFrameWithoutEndToAClient(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		f := w.fakeServer()
		w.wg.Go(func() {
			p := f.welcome(kwikpb.Role_ROLE_PRIMARY, primaryID)
			p.sendRaw(protowire.AppendVarint(nil, 1000))
			start := time.Now()
			<-p.conn.Context().Done()
			if took := time.Since(start); took > frameTime(1000)+time.Second {
				w.t.Errorf("the path lived for %v", took)
			}
		})
		client, err := w.tryDial(f.addr, f.pin, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		<-client.Context().Done()
		wantError(t, context.Cause(client.Context()), ErrMetadataProtocolViolation)
	})
}

// A frame of the greatest length that arrives slowly, through windows that are smaller, is read.
func TestLongestControlFrame(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		p := w.fakeGuest(w.primary, mySession, "", nil)
		server := <-w.primary.sessions
		w.openData(server, 1) // the session is not idle
		before := server.memory.Used()
		const field = 1000     // of a later version
		const overhead = 2 + 3 // of the field's tag and length
		content := protowire.AppendTag(nil, field, protowire.BytesType)
		content = protowire.AppendBytes(content, make([]byte, maxControlFrame-overhead))
		if len(content) != maxControlFrame {
			w.t.Fatalf("a frame of %d bytes", len(content))
		}
		raw := append(protowire.AppendVarint(nil, uint64(len(content))), content...)
		for len(raw) > 0 { // at 5 KiB/s
			n := min(len(raw), 50<<10)
			p.sendRaw(raw[:n])
			raw = raw[n:]
			time.Sleep(10 * time.Second)
		}
		p.wantOpen()
		p.sendRaw([]byte{0})
		synctest.Wait()
		if used := server.memory.Used(); used != before {
			w.t.Errorf("%d bytes are charged in the end, %d before", used, before)
		}
	})
}

// A client that does not read its control stream costs what it may, and its session ends.
func TestAttackUnreadControlStream(t *testing.T) {
	for name, play := range map[string]func(w *world, s *testServer, p *fakePeer, server *ServerSession){
		"many frames": func(w *world, s *testServer, p *fakePeer, server *ServerSession) {
			raw, err := appendDelimited(nil, &kwikpb.ControlFrame{
				Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: w.attachment(w.openData(server, 1)[0])},
			})
			if err != nil {
				w.t.Fatal(err)
			}
			most := int64(0)
			for server.Context().Err() == nil {
				if _, err := p.control.Write(raw); err != nil {
					break
				}
				time.Sleep(100 * time.Microsecond)
				most = max(most, server.frames.Used())
			}
			if limit := s.frames.Most(); most > limit || most < freeControlBytes {
				w.t.Errorf("%d bytes were charged, at most %d may be", most, limit)
			}
		},
		"few frames": func(w *world, s *testServer, p *fakePeer, server *ServerSession) {
			for _, id := range w.openData(server, maxStreamsPerSession) {
				p.offer(w.attachment(id))
			}
			start := time.Now()
			<-server.Context().Done()
			if took := time.Since(start); took > takeTimeout+2*takeTick {
				w.t.Errorf("the client was let go after %v", took)
			}
			p.wantClosed(ErrServerBusy)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				s := w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
					c.MemoryLimit, c.MaxSessions = 16<<20, 100
					c.OpenContent = func(context.Context, ContentRequest) (Content, error) {
						return nil, errors.New("a reason")
					}
				}))
				w.t.Cleanup(s.stop)
				p := w.fakeGuestWith(s, miser)
				play(w, s, p, <-s.sessions)
			})
		})
	}
}

// A server that dies within a control frame broke no rule: its path ends as one that is idle.
func TestServerDiesWithinAControlFrame(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		f := w.fakeServer()
		w.wg.Go(func() {
			p := f.welcome(kwikpb.Role_ROLE_PRIMARY, primaryID)
			p.sendRaw(protowire.AppendVarint(nil, 1000))
			time.Sleep(time.Second)
			w.net.Silence(f.addr.Addr())
		})
		client, err := w.tryDial(f.addr, f.pin, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		defer client.CloseWithError(0, "")
		w.within(2*time.Minute, func() bool { return client.Servers()[0].Err != nil })
		err = client.Servers()[0].Err
		if _, isIdle := errors.AsType[*quic.IdleTimeoutError](err); !isIdle {
			w.t.Errorf("the path ended with %v", err)
		}
	})
}

// A server that dies before the OPEN of a secondary stream has arrived whole broke no rule, and
// one that lives did.
func TestServerDiesWithinAnOpenFrame(t *testing.T) {
	for name, dies := range map[string]bool{"dies": true, "lives": false} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, unit, 0, lan, func(w *world) {
				f := w.fakeServer()
				w.wg.Go(func() {
					p := f.welcome(kwikpb.Role_ROLE_PRIMARY, primaryID)
					if s, err := p.conn.OpenUniStream(); err == nil {
						s.Write([]byte{0x80})
					}
					time.Sleep(time.Second)
					if dies {
						w.net.Silence(f.addr.Addr())
					}
				})
				client, err := w.tryDial(f.addr, f.pin, &ClientConfig{
					SecondaryStreams: SecondaryStreamConfig{MetadataTimeout: 10 * time.Second},
				})
				if err != nil {
					w.t.Fatal(err)
				}
				defer client.CloseWithError(0, "")
				w.within(2*time.Minute, func() bool { return client.Servers()[0].Err != nil })
				err = client.Servers()[0].Err
				_, isIdle := errors.AsType[*quic.IdleTimeoutError](err)
				if isIdle != dies || !dies && codeOf(err) != ErrMetadataProtocolViolation {
					w.t.Errorf("the path ended with %v", err)
				}
			})
		})
	}
}
