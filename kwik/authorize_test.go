package kwik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// The application decides about a session once, with the client's credential, before anything is
// sent. Its decision is with the session; further paths need a ticket and nothing else.
func TestAuthorize(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: 5 * time.Millisecond}, func(w *world) {
		var mu sync.Mutex
		var asked []string
		w.primary.config.Authorize = func(r AuthorizeRequest) (Authorization, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, string(r.Credential))
			if r.RemoteAddr == nil || r.TLS.NegotiatedProtocol != protocolClient {
				t.Errorf("asked about %v with protocol %q", r.RemoteAddr, r.TLS.NegotiatedProtocol)
			}
			switch string(r.Credential) {
			case "open sesame":
				return Authorization{Value: "the cave"}, nil
			case "broken":
				return Authorization{}, errors.New("secret cause")
			}
			return Authorization{}, NewError(ErrAccessRefused, "no such word")
		}
		client, server := w.dial(&ClientConfig{Credential: []byte("open sesame"), ConnectionsPerServer: 2})
		if got := server.Authorization().Value; got != "the cave" {
			t.Errorf("the session's authorization is %v", got)
		}
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		select {
		case further := <-w.primary.sessions:
			if further.Role() != ServerRoleSecondary || further.Authorization() != (Authorization{}) {
				t.Errorf("a further path with role %v and authorization %v", further.Role(), further.Authorization())
			}
		case <-time.After(patience):
			t.Error("no further path to the primary")
		}
		c.wantAll()
		if mu.Lock(); !slices.Equal(asked, []string{"open sesame"}) {
			t.Errorf("asked about %q", asked)
		}
		mu.Unlock()

		for credential, message := range map[string]string{
			"": "no such word", "wrong": "no such word", "broken": "access refused",
		} {
			_, err := w.tryDial(w.primary.addr, w.primary.pin(), &ClientConfig{Credential: []byte(credential)})
			wantError(t, err, ErrAccessRefused)
			if e, _ := errors.AsType[*Error](err); !e.Remote || e.Message != message {
				t.Errorf("credential %q: %v, want the message %q", credential, err, message)
			}
		}
		tooLong := &ClientConfig{Credential: make([]byte, maxCredential+1)}
		if _, err := w.tryDial(w.primary.addr, w.primary.pin(), tooLong); err == nil {
			t.Error("a credential that is too long is sent")
		}
	})
}

// A server ignores the credentials of sessions if the application does not ask for them, and takes
// none that is too long.
func TestCredentialIgnored(t *testing.T) {
	inWorld(t, 0, simnet.Link{}, func(w *world) {
		client, server := w.dial(&ClientConfig{Credential: bytes.Repeat([]byte{0xff}, maxCredential)})
		w.copy(w.offer(client, server, unit, nil)).wantAll()
		p := w.fakeClient(w.primary, protocolClient)
		p.hello(&kwikpb.Hello{
			Version: protocolVersion, SessionId: make([]byte, 16), Credential: make([]byte, maxCredential+1),
		})
		p.wantClosed(ErrMetadataProtocolViolation)
	})
}

// No server gets the credential before the caller's TLS configuration has accepted it, and no
// server but the primary gets it at all.
func TestCredentialGoesToThePrimaryOnly(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: 5 * time.Millisecond}, func(w *world) {
		secret := []byte("a secret for the primary alone")
		impostor := w.fakeServer()
		w.wg.Go(func() { // ends when the client refuses it
			if conn, err := impostor.listener.Accept(context.Background()); err == nil {
				if stream, err := conn.AcceptStream(context.Background()); err == nil {
					t.Errorf("the client opened stream %d to a server with another key", stream.StreamID())
				}
			}
		})
		if _, err := w.tryDial(impostor.addr, w.primary.pin(), &ClientConfig{Credential: secret}); !isPinError(err) {
			t.Errorf("dialling another server: %v", err)
		}
		impostor.listener.Close()

		fake, id := w.fakeSecondary()
		w.dial(&ClientConfig{Credential: secret})
		_, hello := fake.accept()
		if hello.GetPathId() != string(id) || len(hello.GetTicket()) == 0 || len(hello.GetCredential()) > 0 {
			t.Errorf("a secondary got %v", hello)
		}
	})
}

// Revoke ends all of a session: its paths to the primary close, tickets open no further ones, and
// the client leaves the secondaries. Other sessions continue.
func TestRevoke(t *testing.T) {
	for _, how := range []string{"revoked", "expired"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 1, slow, func(w *world) {
				const life = 400 * time.Millisecond
				w.primary.config.Authorize = func(r AuthorizeRequest) (a Authorization, err error) {
					if string(r.Credential) == "expires" {
						a.Expires = time.Now().Add(life)
					}
					return a, nil
				}
				credential := map[string]string{"revoked": "", "expired": "expires"}[how]
				start := time.Now()
				client, server := w.dial(&ClientConfig{Credential: []byte(credential), ConnectionsPerServer: 2})
				other, otherServer := w.dial(nil)
				rest := w.copy(w.offer(other, otherServer, unit, nil))
				c := w.copy(w.offer(client, server, unit, nil))
				w.wantState(client, "s1", PathActive)
				w.within(time.Second, func() bool { return w.primary.Sessions() == 3 }) // the further path is there
				if how == "revoked" {
					time.Sleep(200 * time.Millisecond)
					server.Revoke("no more")
				}
				<-c.done
				took := time.Since(start)
				if c.err == nil || took > life+500*time.Millisecond {
					t.Errorf("the transfer ended after %v with %v", took, c.err)
				}
				wantError(t, context.Cause(client.Context()), ErrAccessRefused)
				w.within(time.Second, func() bool {
					return w.primary.Sessions() <= 2 && w.secondaries[0].Sessions() == 1
				})
				rest.wantAll()

				claim := ticketClaim{scope: ticketScopePath, session: client.ID(), server: primaryID}
				p := w.fakeClient(w.primary, protocolClient)
				p.hello(&kwikpb.Hello{
					Version: protocolVersion, SessionId: claim.session[:], PathId: string(primaryID),
					Ticket: issueTicket(w.primary.ticketKeys()[0], claim, time.Now(), time.Now().Add(ticketLife)),
				})
				p.wantClosed(ErrAccessRefused)
			})
		})
	}
}

// Tickets expire with the authorization of their session.
func TestTicketsExpireWithTheAuthorization(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: time.Millisecond}, func(w *world) {
		w.primary.config.Authorize = func(AuthorizeRequest) (Authorization, error) {
			return Authorization{Expires: time.Now().Add(time.Hour)}, nil
		}
		fake, id := w.fakeSecondary()
		w.dial(nil)
		_, hello := fake.accept()
		claim := ticketClaim{
			scope: ticketScopePath, session: SessionID(hello.GetSessionId()), server: id,
			holder: ticketHolder(hello.GetProofKey()),
		}
		keys := []ticketKey{w.primary.members.byID[id].key}
		for after, valid := range map[time.Duration]bool{
			time.Hour + ticketSkew - time.Minute: true, time.Hour + ticketSkew: false,
		} {
			err := checkTicket(keys, claim, hello.GetTicket(), time.Now().Add(after))
			if (err == nil) != valid {
				t.Errorf("after %v: %v", after, err)
			}
		}
	})
}

// The sessions that a primary refuses are bounded, and forgotten with their tickets.
func TestRevokedSessions(t *testing.T) {
	r := make(revokedSessions)
	now := time.Unix(1e9, 0)
	name := func(i int) (id SessionID) {
		copy(id[:], fmt.Sprint(i))
		return id
	}
	for i := range 2 * maxRevoked {
		r.add(name(i), now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(r) != maxRevoked {
		t.Errorf("%d sessions", len(r))
	}
	if r.has(name(maxRevoked-1)) || !r.has(name(maxRevoked)) || !r.has(name(2*maxRevoked-1)) {
		t.Error("others than the oldest were forgotten")
	}
	r.add(name(-1), now.Add(ticketLife+ticketSkew+time.Hour))
	if len(r) != 1 {
		t.Errorf("%d sessions after their tickets have expired", len(r))
	}
}

// An old primary does not know the field, and an old client does not send it: unknown fields are
// skipped. The description of a server has how it restricts access.
func TestInspectAccess(t *testing.T) {
	inWorld(t, 0, simnet.Link{}, func(w *world) {
		w.primary.config.Access = strings.Repeat("a", maxSoftware+1)
		client, _ := w.dial(&ClientConfig{Inspect: true})
		c, ok := client.Connection(primaryID)
		if !ok || c.Host == nil || c.Host.Access != strings.Repeat("a", maxSoftware) {
			t.Errorf("connection %+v", c)
		}
	})
	h := readHost(&kwikpb.Host{Access: strings.Repeat("x", 1000)}, time.Unix(0, 0), time.Unix(1, 0))
	if len(h.Access) != maxSoftware {
		t.Errorf("access of %d bytes", len(h.Access))
	}
}
