package kwik

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// panics records the calls of OnPanic.
type panics struct {
	mu      sync.Mutex
	errs    []*PanicError
	clients []net.Addr
}

func (p *panics) option() serverOption {
	return configured(func(c *ServerConfig) {
		c.OnPanic = func(client net.Addr, err *PanicError) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.errs, p.clients = append(p.errs, err), append(p.clients, client)
		}
	})
}

func (p *panics) all() []*PanicError {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*PanicError(nil), p.errs...)
}

// want waits for a panic and checks what the log gets of it.
func (p *panics) want(w *world, where string) {
	w.t.Helper()
	w.within(time.Minute, func() bool { return len(p.all()) > 0 })
	e := p.all()[0]
	if e.Text() != "a bug" || len(e.Frames) > maxFrames || !strings.Contains(e.Frames[0], where) {
		w.t.Errorf("%q", e.Error())
	}
	if len(e.Error()) > 4<<10 || strings.ContainsAny(e.Error(), "\n/") {
		w.t.Errorf("not one line of bounded length: %q", e.Error())
	}
}

// A hostileContent panics where it is told to.
type hostileContent struct {
	memory
	at string
}

func (c hostileContent) ReadAt(p []byte, off int64) (int, error) {
	if c.at == "ReadAt" {
		panic("a bug")
	}
	return c.memory.ReadAt(p, off)
}

func (c hostileContent) Close() error {
	if c.at == "Close" {
		panic("a bug")
	}
	return nil
}

func (c hostileContent) Missing() []MissingRange {
	if c.at == "Missing" {
		panic("a bug")
	}
	return nil
}

// A panic in the content handler ends the session in which it happened. The server lives, and other
// sessions go on, also while it happens again and again.
func TestAttackPanicInContent(t *testing.T) {
	for _, at := range []string{"OpenContent", "ReadAt", "Missing", "Close"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, 1<<20, 0, lan, func(w *world) {
				w.primary.stop()
				var log panics
				trap := configured(func(c *ServerConfig) {
					c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
						switch {
						case string(r.Descriptor) == "data":
							return memory{w.data}, nil
						case at == "OpenContent":
							panic("a bug")
						}
						return hostileContent{memory{w.data}, at}, nil
					}
				})
				w.primary = w.serve(ServerRolePrimary, restarted(w.primary), log.option(), trap)
				honest, honestServer := w.dial(nil)
				held := w.offer(honest, honestServer, unit, w.prove)
				const sessions = 5
				for range sessions {
					victim, server := w.dial(nil)
					o, err := server.OpenAggregateStream(AggregateStreamSpec{
						Size: 1 << 20, Alignment: unit, Descriptor: []byte("trap"),
					})
					if err != nil {
						w.t.Fatal(err)
					}
					c := w.copy(w.accept(victim, o.StreamID(), nil))
					<-c.done
					<-server.Context().Done()
					<-victim.Context().Done()
					wantError(w.t, fromQUIC(context.Cause(victim.Context()), ""), ErrServerBusy)
				}
				log.want(w, "contain_test.go")
				if n := len(log.all()); n != sessions {
					w.t.Errorf("%d panics in %d sessions", n, sessions)
				}
				w.copy(held).wantAll()
				w.within(time.Minute, func() bool { return w.primary.Sessions() == 1 })
			})
		})
	}
}

// A panic in a callback, or in an application's goroutine for a session, is reported.
func TestAttackPanicInCallbacks(t *testing.T) {
	bug := func() { panic("a bug") }
	for name, trap := range map[string]func(c *ServerConfig){
		"OnMembership":  func(c *ServerConfig) { c.OnMembership = func(ServerID, netip.AddrPort, error) { bug() } },
		"OnJoinFailure": func(c *ServerConfig) { c.OnJoinFailure = func(netip.AddrPort, error) { bug() } },
		"OnReject":      func(c *ServerConfig) { c.OnReject = func(*ServerSession, ServerID, int64, string) { bug() } },
		"OnSuspension":  func(c *ServerConfig) { c.OnSuspension = func(ServerID, error) { bug() } },
		"Verify": func(c *ServerConfig) {
			c.Verify = func(context.Context, []byte, int64, []byte) error { bug(); return nil }
		},
		"Authorize": func(c *ServerConfig) {
			calls := 0
			c.Authorize = func(AuthorizeRequest) (Authorization, error) {
				if calls++; calls == 1 {
					bug()
				}
				return Authorization{}, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, 1<<20, 0, lan, func(w *world) {
				w.primary.stop()
				var log panics
				said := &standing{}
				options := []serverOption{restarted(w.primary), said.option(w), log.option(), configured(trap)}
				w.primary = w.serve(ServerRolePrimary, options...)
				if name == "Authorize" {
					if _, err := w.tryDial(w.primary.addr, w.primary.pin(), nil); err == nil {
						w.t.Error("a panic authorizes")
					}
				}
				w.secondaries = append(w.secondaries, w.join(corrupt(func(b []byte) { clear(b) })))
				s := w.serve(ServerRoleSecondary)
				w.secondaries = append(w.secondaries, s)
				wrong := JoinConfig{Token: []byte("another token of 16 bytes")}
				if _, err := s.Join(w.t.Context(), w.primary.addr.String(), wrong); err == nil {
					w.t.Error("joined")
				}
				client, server := w.dial(nil)
				w.wantState(client, "s1", PathActive)
				w.copy(w.offer(client, server, unit, w.prove)) // with bytes to reject
				log.want(w, "TestAttackPanicInCallbacks")
				honest, honestServer := w.dial(nil)
				w.copy(w.offer(honest, honestServer, unit, w.prove)).wantAll()
			})
		})
	}
}

// Each contained panic is counted, also one of OnPanic itself.
func TestAttackPanicsAreCounted(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		w.primary.stop()
		loud := configured(func(c *ServerConfig) { c.OnPanic = func(net.Addr, *PanicError) { panic("a bug") } })
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), loud)
		if n := w.primary.Panics(); n != 0 {
			w.t.Errorf("%d panics at the start", n)
		}
		for i := range uint64(3) {
			_, server := w.dial(nil)
			server.Contain(func() { panic("a bug") })
			<-server.Context().Done()
			if n := w.primary.Panics(); n != 2*i+2 {
				w.t.Errorf("%d panics after %d in sessions and as many in OnPanic", n, i+1)
			}
		}
	})
}

// A panic of an application's goroutine for a session ends that session.
func TestAttackPanicInApplication(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		w.primary.stop()
		var log panics
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), log.option())
		_, server := w.dial(nil)
		other, _ := w.dial(nil)
		server.Contain(func() { panic("a bug") })
		<-server.Context().Done()
		log.want(w, "TestAttackPanicInApplication")
		if n := w.primary.Panics(); n != 1 {
			w.t.Errorf("%d panics are counted", n)
		}
		if log.clients[0].String() != server.RemoteAddr().String() {
			w.t.Errorf("client %v", log.clients)
		}
		time.Sleep(time.Second)
		if other.Context().Err() != nil {
			w.t.Error("another session ended")
		}
	})
}

// A secondary whose content handler panics when the primary challenges it stays a member.
func TestAttackPanicInChallenge(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		w.primary.stop()
		said := &standing{}
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), said.option(w))
		var log panics
		w.secondaries = append(w.secondaries, w.join(log.option(), configured(func(c *ServerConfig) {
			c.OpenContent = func(_ context.Context, r ContentRequest) (Content, error) {
				if r.Session == nil {
					panic("a bug")
				}
				return memory{make([]byte, len(w.data))}, nil
			}
		})))
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		w.copy(w.offer(client, server, unit, w.prove)).wantAll()
		log.want(w, "TestAttackPanicInChallenge")
		time.Sleep(time.Minute)
		if m := w.primary.memberList(); len(m) != 1 || m[0].Suspended || len(said.all()) != 0 {
			w.t.Errorf("%+v, %v", m, said.all())
		}
	})
}

// A hostileSink is a destination of CopyTo that panics.
type hostileSink struct{}

func (hostileSink) WriteAt([]byte, int64) (int, error) { panic("a bug") }

// A panic in a client's verifier or destination ends that session with an error, and no source is
// blamed for it.
func TestAttackPanicInClient(t *testing.T) {
	trap := func(ServerID, int64, []byte) error { panic("a bug") }
	for name, run := range map[string]func(w *world, s *AggregateReader) error{
		"verifier, CopyTo": func(w *world, s *AggregateReader) error {
			_, err := s.CopyTo(w.t.Context(), newSink(len(w.data)), nil)
			return err
		},
		"verifier, Read": func(w *world, s *AggregateReader) error { _, err := io.Copy(io.Discard, s); return err },
		"destination, CopyTo": func(w *world, s *AggregateReader) error {
			_, err := s.CopyTo(w.t.Context(), hostileSink{}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, 4<<20, 1, lan, func(w *world) {
				client, server := w.dial(nil)
				w.wantState(client, "s1", PathActive)
				verify := trap
				if strings.HasPrefix(name, "destination") {
					verify = w.prove
				}
				bystander, bystanderServer := w.dial(nil)
				err := run(w, w.offer(client, server, unit, verify))
				e, ok := errors.AsType[*PanicError](err)
				if !ok || e.Text() != "a bug" || !strings.Contains(e.Frames[0], "contain_test.go") {
					w.t.Fatalf("the reader's error is %v", err)
				}
				<-client.Context().Done()
				if cause := context.Cause(client.Context()); cause != error(e) {
					w.t.Errorf("the session ended with %v", cause)
				}
				if _, err := client.AcceptStream(w.t.Context()); !errors.Is(err, error(e)) {
					w.t.Errorf("AcceptStream: %v", err)
				}
				<-server.Context().Done()
				if got := w.path(client, "s1").State; got == PathBanned {
					w.t.Error("the secondary is banned")
				}
				client.CloseWithError(0, "")
				w.copy(w.offer(bystander, bystanderServer, unit, w.prove)).wantAll()
			})
		})
	}
}

// A value whose own methods panic, or that is long, gives a bounded text.
func TestPanicText(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		want  string
	}{
		"string":      {"a\nbug", "a?bug"},
		"long":        {strings.Repeat("x", 10_000), ""},
		"error":       {io.ErrUnexpectedEOF, "unexpected EOF"},
		"nil pointer": {(*PanicError)(nil), ""},
	} {
		err := Contain(func() error { panic(c.value) })
		e, ok := errors.AsType[*PanicError](err)
		if !ok || len(e.Error()) > 4<<10 {
			t.Fatalf("%s: %v", name, err)
		}
		if c.want != "" && e.Text() != c.want {
			t.Errorf("%s: %s", name, e.Text())
		}
	}
	if err := Contain(func() error { return io.EOF }); err != io.EOF {
		t.Errorf("%v", err)
	}
	err := Contain(func() error { panic(io.ErrClosedPipe) })
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	var m map[string]int
	err = Contain(func() error { m["x"] = 1; return nil })
	if e := err.(*PanicError); !strings.Contains(e.Frames[0], "TestPanicText") {
		t.Errorf("%v", err)
	}
}
