package kwik

import (
	"crypto/tls"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

// reloading makes a server show the certificate that shown holds, as one whose certificate is
// reloaded. Its tickets do not depend on it.
func reloading(shown *atomic.Pointer[tls.Certificate]) serverOption {
	return func(o *serverOptions) {
		o.shown = shown
		o.config.TicketKey = &[32]byte{1, 2, 3}
		o.config.StatelessResetKey = &quic.StatelessResetKey{1, 2, 3}
	}
}

// shown returns a holder of a new certificate.
func (w *world) shown() *atomic.Pointer[tls.Certificate] {
	p := &atomic.Pointer[tls.Certificate]{}
	w.renew(p)
	return p
}

func (w *world) renew(p *atomic.Pointer[tls.Certificate]) {
	cert := w.identity()
	p.Store(&cert)
}

// TestCertificateChangesDuringAStream checks that a session outlives a new key of its primary,
// and a restart with that key.
func TestCertificateChangesDuringAStream(t *testing.T) {
	inWorldOf(t, 12<<20, 0, slow, func(w *world) {
		shown := w.shown()
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), reloading(shown))
		client, err := w.tryDial(w.primary.addr, trust.PinOf(shown.Load().Leaf), nil)
		if err != nil {
			t.Fatal(err)
		}
		server := <-w.primary.sessions
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })

		w.renew(shown)
		w.primary.CertificateChanged()
		w.primary.CertificateChanged() // nothing new
		w.within(time.Second, func() bool {
			client.mu.Lock()
			defer client.mu.Unlock()
			return trust.Pin(client.servers[primaryID].info.GetKeyHash()) == trust.PinOf(shown.Load().Leaf)
		})
		before := delivered(c.s, primaryID)
		w.within(5*time.Second, func() bool { return delivered(c.s, primaryID) > before+unit })

		old := w.primary
		old.kill()
		w.primary = w.serve(ServerRolePrimary, restarted(old), reloading(shown))
		c.wantAll()
	})
}

// TestCertificateThatTheFirstPathDidNotShow checks that a client opens no further path to a
// primary whose first announcement names another key, as before.
func TestCertificateThatTheFirstPathDidNotShow(t *testing.T) {
	inWorld(t, 0, slow, func(w *world) {
		shown := w.shown()
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), reloading(shown))
		first := shown.Load()
		w.renew(shown)
		w.primary.CertificateChanged() // the announcement names the second key
		shown.Store(first)
		client, err := w.tryDial(w.primary.addr, trust.PinOf(first.Leaf), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		client.mu.Lock()
		defer client.mu.Unlock()
		if info := client.servers[primaryID].info; info != nil {
			t.Errorf("the client recorded the key %x", info.GetKeyHash())
		}
	})
}

// TestSecondaryWithAnotherCertificate checks that a secondary whose key changed is used again
// after it has joined again.
func TestSecondaryWithAnotherCertificate(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		shown := w.shown()
		s := w.serve(ServerRoleSecondary, reloading(shown))
		s.join(JoinConfig{Token: w.token})
		w.secondaries = append(w.secondaries, s)
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)

		w.renew(shown)
		s.CertificateChanged()
		s.member.Close()
		s.join(JoinConfig{Token: w.token})
		next, _ := w.dial(nil)
		w.wantState(next, s.member.ID(), PathActive)
		w.copy(w.offer(client, server, unit, nil)).wantAll()
	})
}

// TestListenerWithoutACertificate checks the errors of a listener whose GetCertificate fails.
func TestListenerWithoutACertificate(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		l := &Listener{tls: &tls.Config{}}
		if _, err := l.ownPin(); err == nil {
			t.Error("a pin without a certificate")
		}
		failure := errors.New("no certificate")
		l.tls.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, failure }
		if _, err := l.ownPin(); err != failure {
			t.Errorf("ownPin: %v", err)
		}
	})
}
