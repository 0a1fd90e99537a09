package kwik

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/attack"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// longAttack reports whether attacks run in their long form.
func longAttack() bool { return os.Getenv("KWIKCP_ATTACK") == "long" }

// An attacker is a host that opens many connections to a server from one socket. It keeps them
// alive itself.
type attacker struct {
	w         *world
	to        *testServer
	transport *quic.Transport
	busy      int // connections that the server refused or ended as busy
}

func (w *world) attacker(to *testServer) *attacker {
	w.t.Helper()
	socket, _ := w.listen()
	a := &attacker{w: w, to: to, transport: &quic.Transport{Conn: socket}}
	w.t.Cleanup(func() {
		a.transport.Close()
		socket.Close()
	})
	return a
}

// dial completes a handshake. It returns nil if the server refused the connection.
func (a *attacker) dial(protocol string) *quic.Conn {
	a.w.t.Helper()
	conn, err := a.transport.Dial(a.w.t.Context(), net.UDPAddrFromAddrPort(a.to.addr),
		clientTLS(trust.PinnedClientConfig(nil, a.to.pin()), protocol), &quic.Config{KeepAlivePeriod: 5 * time.Second})
	if err == nil {
		return conn
	}
	if !errors.Is(fromQUIC(err, ""), ErrServerBusy) {
		a.w.t.Fatal(err)
	}
	a.busy++
	return nil
}

// session opens a session and waits for Welcome. It returns nil if the server refused it.
func (a *attacker) session(id uint16) *quic.Conn {
	a.w.t.Helper()
	conn := a.dial(protocolClient)
	if conn == nil {
		return nil
	}
	p := &fakePeer{t: a.w.t, conn: conn}
	session := SessionID{byte(id), byte(id >> 8), 7}
	p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: session[:]})
	if f, err := p.tryReceive(); err != nil || f.GetWelcome() == nil {
		if !errors.Is(fromQUIC(err, ""), ErrServerBusy) {
			a.w.t.Fatalf("%v, %v", f, err)
		}
		a.busy++
		return nil
	}
	<-a.to.sessions
	return conn
}

// openConns returns how many connections are open.
func openConns(conns []*quic.Conn) (n int) {
	for _, c := range conns {
		if c != nil && c.Context().Err() == nil {
			n++
		}
	}
	return n
}

// watchedPrimary starts a primary that counts refusals.
func (w *world) watchedPrimary(reports, refused *atomic.Int64) {
	w.primary.stop()
	w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) {
		c.OnRefusal = func(from netip.Prefix, reason string, count int) {
			if reason == "" || count < 1 || !from.IsValid() {
				w.t.Errorf("refusal of %v: %q, %d times", from, reason, count)
			}
			reports.Add(1)
			refused.Add(int64(count))
		}
	}))
}

// One address opens as many sessions as the server has places, requests nothing and keeps the
// connections alive. It gets a quarter of the places, and loses them after a minute. Other clients
// are served meanwhile.
func TestAttackIdleSessions(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		var reports, refused atomic.Int64
		w.watchedPrimary(&reports, &refused)
		a := w.attacker(w.primary)
		var conns []*quic.Conn
		for i := range 400 {
			conns = append(conns, a.session(uint16(i)))
			<-time.After(time.Millisecond)
		}
		if n := openConns(conns); n > 256 || w.primary.Sessions() > 256 {
			w.t.Errorf("one address has %d of 1,024 sessions", n)
		}
		if refused.Load() == 0 || reports.Load() > 2 {
			w.t.Errorf("%d refusals in %d reports", refused.Load(), reports.Load())
		}
		for range 4 {
			w.dial(nil)
		}
		took := w.within(2*time.Minute, func() bool { return openConns(conns) == 0 })
		if took > 70*time.Second {
			w.t.Errorf("the sessions ended after %v", took)
		}
		w.within(time.Second, func() bool { return w.primary.Sessions() <= 4 })
	})
}

// 240 clients behind one address connect at the same moment, and all are served. Most of them must
// prove their address.
func TestManyClientsOfOneAddressAtOnce(t *testing.T) {
	inWorldOf(t, unit, 0, slow, func(w *world) {
		var reports, refused atomic.Int64
		w.watchedPrimary(&reports, &refused)
		socket, _ := w.listen()
		transport := &quic.Transport{Conn: socket}
		defer socket.Close()
		defer transport.Close()
		var dials sync.WaitGroup
		var failed atomic.Int64
		for i := range 240 {
			dials.Go(func() {
				conn, err := transport.Dial(w.t.Context(), net.UDPAddrFromAddrPort(w.primary.addr),
					clientTLS(trust.PinnedClientConfig(nil, w.primary.pin()), protocolClient), &quic.Config{})
				if err != nil {
					failed.Add(1)
					return
				}
				p := &fakePeer{t: w.t, conn: conn}
				session := SessionID{byte(i)}
				p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: session[:]})
				if f, err := p.tryReceive(); err != nil || f.GetWelcome() == nil {
					failed.Add(1)
				}
			})
		}
		dials.Wait()
		if failed.Load() > 0 || refused.Load() > 0 || w.primary.Sessions() != 240 {
			w.t.Errorf("%d clients failed, %d refusals, %d sessions", failed.Load(), refused.Load(),
				w.primary.Sessions())
		}
	})
}

// Many addresses, each within its limit, hold all sessions idle. A client that is not idle gets a
// place, because one of theirs is taken away.
func TestAttackIdleSessionsOfManyAddresses(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) { c.MaxSessions = 64 }))
		var conns []*quic.Conn
		for range 8 {
			a := w.attacker(w.primary)
			for range 16 {
				conns = append(conns, a.session(uint16(len(conns))))
			}
		}
		time.Sleep(minIdle)
		if n := openConns(conns); n != 64 {
			w.t.Errorf("%d sessions are open, want all", n)
		}
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll()
	})
}

// Connections arrive 100 times a second from one address, complete their handshakes and send
// nothing. 20 of 20 honest clients are served, from the same address and from others.
func TestAttackNoHello(t *testing.T) {
	inWorldOf(t, unit, 0, slow, func(w *world) {
		var reports, refused atomic.Int64
		w.watchedPrimary(&reports, &refused)
		a := w.attacker(w.primary)
		end := make(chan struct{})
		done := make(chan struct{})
		go func() { // ends with end
			defer close(done)
			ticker := time.NewTicker(10 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-ticker.C:
					a.transport.Dial(w.t.Context(), net.UDPAddrFromAddrPort(w.primary.addr),
						clientTLS(trust.PinnedClientConfig(nil, w.primary.pin()), protocolClient), &quic.Config{})
				case <-end:
					return
				}
			}
		}()
		time.Sleep(8 * time.Second)
		for i := range 20 {
			client, server := w.dial(nil)
			w.copy(w.offer(client, server, unit, nil)).wantAll()
			client.CloseWithError(0, "")
			if waiting := w.waiting(); waiting > 256+maxUnvalidated {
				w.t.Errorf("get %d: %d connections wait for their first frame", i, waiting)
			}
			time.Sleep(100 * time.Millisecond)
		}
		close(end)
		<-done
		if n := reports.Load(); n > 2 {
			w.t.Errorf("%d reports of %d refusals in 15 s", n, refused.Load())
		}
	})
}

// waiting returns the number of connections to the primary that have not sent their first frame.
func (w *world) waiting() int {
	w.primary.gate.mu.Lock()
	defer w.primary.gate.mu.Unlock()
	return len(w.primary.gate.admission.newcomers)
}

// Initials with spoofed sources arrive. The server begins few handshakes, sends the supposed
// sources fewer bytes than arrived, and serves honest clients.
func TestAttackSpoofedInitials(t *testing.T) {
	n := 3000
	if longAttack() {
		n = 60000
	}
	inWorldOf(t, unit, 0, lan, func(w *world) {
		initials, err := attack.Initials(n, protocolClient)
		if err != nil {
			w.t.Fatal(err)
		}
		target := net.UDPAddrFromAddrPort(w.primary.addr)
		var in, out, most int
		var victims []net.PacketConn
		for range 64 {
			victim, _ := w.listen()
			victims = append(victims, victim)
		}
		served := 0
		for i, p := range initials {
			victims[i%len(victims)].WriteTo(p, target)
			in += len(p)
			if i%6 == 0 {
				time.Sleep(time.Millisecond) // 6,000 a second
			}
			if i%(n/10) == n/20 {
				client, server := w.dial(nil)
				w.copy(w.offer(client, server, unit, nil)).wantAll()
				client.CloseWithError(0, "")
				served++
			}
			most = max(most, w.waiting())
		}
		time.Sleep(time.Minute)
		for _, victim := range victims {
			out += receivedBytes(victim)
			victim.Close()
		}
		w.t.Logf("%d Initials: %d bytes in, %d out (%.2f), %d handshakes at once at most", n, in, out,
			float64(out)/float64(in), most)
		if out >= in {
			w.t.Errorf("%d bytes made the server send %d to others", in, out)
		}
		if most > maxUnvalidated+2 {
			w.t.Errorf("%d handshakes were in progress", most)
		}
		if served != 10 {
			w.t.Errorf("%d honest clients were served", served)
		}
	})
}

// receivedBytes drains a socket.
func receivedBytes(c net.PacketConn) (n int) {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	buf := make([]byte, 2048)
	for {
		k, _, err := c.ReadFrom(buf)
		if err != nil {
			return n
		}
		n += k
	}
}

// A client whose address must be proved connects, joins work as well, and so do several connections
// at once.
func TestRetryKeepsClientsAndJoinsWorking(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		initials, err := attack.Initials(maxUnvalidated, protocolClient)
		if err != nil {
			w.t.Fatal(err)
		}
		victim, _ := w.listen()
		defer victim.Close()
		for _, p := range initials {
			victim.WriteTo(p, net.UDPAddrFromAddrPort(w.primary.addr))
		}
		w.within(time.Second, func() bool { return w.waiting() >= maxUnvalidated })
		w.secondaries = append(w.secondaries, w.join())
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 4})
		w.copy(w.offer(client, server, unit, nil)).wantAll()
		if w.waiting() < maxUnvalidated {
			w.t.Error("the handshakes of the flood ended before the end of the test")
		}
	})
}

// Clients stall in each phase: in the handshake, before Hello, in the middle of Hello, and before
// the first request. All are ended, none costs anything afterwards, and an honest client is served
// meanwhile.
func TestAttackStalledClients(t *testing.T) {
	perPhase := 100
	if longAttack() {
		perPhase = 2500
	}
	inWorldOf(t, unit, 0, lan, func(w *world) {
		initials, err := attack.Initials(perPhase, protocolClient)
		if err != nil {
			w.t.Fatal(err)
		}
		silent, _ := w.listen()
		defer silent.Close()
		var attackers []*attacker
		for range 8 {
			attackers = append(attackers, w.attacker(w.primary))
		}
		for i := range perPhase {
			silent.WriteTo(initials[i], net.UDPAddrFromAddrPort(w.primary.addr))
			a := attackers[i%len(attackers)]
			a.dial(protocolClient)
			if conn := a.dial(protocolClient); conn != nil {
				p := &fakePeer{t: w.t, conn: conn}
				p.openControl()
				p.sendRaw([]byte{100, 1})
			}
			a.session(uint16(i))
		}
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll()
		client.CloseWithError(0, "")
		time.Sleep(70 * time.Second)
		if n := w.waiting() + w.primary.Sessions(); n > 0 {
			w.t.Errorf("%d connections are left", n)
		}
	})
}

// 64 servers at one address join a primary. They get a quarter of the places, and an honest
// secondary gets one of the others.
func TestAttackMembersOfOneAddress(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		host := netip.MustParseAddr("10.9.9.9")
		joined := 0
		for i := range 20 {
			s := w.serveAt(netip.AddrPortFrom(host, uint16(5000+i)), ServerRoleSecondary)
			w.secondaries = append(w.secondaries, s)
			_, err := s.Join(w.t.Context(), w.primary.addr.String(), JoinConfig{Token: w.token})
			if err == nil {
				joined++
			} else {
				wantError(w.t, err, ErrServerBusy)
			}
		}
		if joined != 16 {
			w.t.Errorf("%d secondaries at one address joined, want 16 of 64", joined)
		}
		w.secondaries = append(w.secondaries, w.join())
	})
}

// serveAt is serve at an address.
func (w *world) serveAt(addr netip.AddrPort, role ServerRole) *testServer {
	w.t.Helper()
	return w.serve(role, func(o *serverOptions) { o.addr, o.cert = addr, w.identity() })
}

// A session is not idle while it has a stream, whoever delivers the bytes; nor is the path of a
// source that is attached. A session of which the client needs nothing for a minute ends with an
// error that tells so.
func TestSessionsWithAStreamAreNotIdle(t *testing.T) {
	inWorldOf(t, 12<<20, 1, lan, func(w *world) {
		client, server := w.dial(&ClientConfig{ReorderWindow: minReorderWindow})
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, nil)
		if _, err := s.Read(make([]byte, unit)); err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // nothing is requested: the reader's window is full
		if client.Context().Err() != nil || w.path(client, "s1").State != PathActive {
			w.t.Fatalf("a session with a stream ended: %v, %v", context.Cause(client.Context()), w.path(client, "s1"))
		}
		s.Close()
		took := w.within(2*time.Minute, func() bool { return client.Context().Err() != nil })
		if took < time.Minute || took > 66*time.Second {
			w.t.Errorf("the session ended after %v", took)
		}
		_, err := client.OpenStream()
		if cause := context.Cause(client.Context()); !IsIdleClose(err) || !IsIdleClose(cause) {
			w.t.Errorf("%v, %v", err, cause)
		}
		time.Sleep(5 * time.Minute)
		if n := len(w.secondaries[0].sessions); n != 1 {
			w.t.Errorf("the secondary was dialed %d times", n)
		}
	})
}

// A plain stream on which the server may still write keeps a session; the server sends nothing to
// keep the connection alive.
func TestPlainStreamKeepsASession(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		stream, err := client.OpenStream()
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte("request"))
		answer, err := server.AcceptStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if client.Context().Err() != nil {
			w.t.Fatal("the session ended while an answer was due")
		}
		answer.Close()
		w.within(70*time.Second, func() bool { return client.Context().Err() != nil })
	})
}

// A server does not keep a client alive that has fallen silent: the connection ends with QUIC's
// idle time-out.
func TestServerSendsNoKeepAlive(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		socket, _ := w.listen()
		transport := &quic.Transport{Conn: socket}
		defer socket.Close()
		defer transport.Close()
		p := w.fakeDial(transport, w.primary, protocolClient) // without keep-alives
		p.hello(&kwikpb.Hello{Version: protocolVersion, SessionId: mySession[:]})
		server := <-w.primary.sessions
		if _, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1}); err != nil {
			w.t.Fatal(err)
		}
		took := w.within(time.Minute, func() bool { return server.Context().Err() != nil })
		if took < 29*time.Second || took > 32*time.Second {
			w.t.Errorf("the server noticed after %v", took)
		}
	})
}
