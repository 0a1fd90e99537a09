package kwik

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// This file is a primary's decision whether a client may have a session, and the end of that
// permission. The application decides as well
// which content a session gets.

// An AuthorizeRequest is a client's request for a session.
type AuthorizeRequest struct {
	// TLS is the state of the client's connection. It has the client's certificate if the
	// listener's tls.Config demands one.
	TLS tls.ConnectionState
	// RemoteAddr is the client's address.
	RemoteAddr net.Addr
	// Credential is the client's ClientConfig.Credential; empty if it presents none.
	Credential []byte
}

// An Authorization is what ServerConfig.Authorize decided about a session.
type Authorization struct {
	// Value is for the application; ServerSession.Authorization returns it.
	Value any
	// Expires is when the session is revoked (see [ServerSession.Revoke]), in the server's wall
	// clock. The session's tickets are not valid longer. The zero value means never.
	Expires time.Time
}

// messageExpired is sent to the client of a session whose Authorization has expired.
const messageExpired = "the credential has expired"

// maxRevoked bounds the sessions whose tickets a primary refuses.
const maxRevoked = 4096

// authorize asks the application about a client's session. The error's code and message are sent
// to the client.
func (l *Listener) authorize(s *ServerSession, hello *kwikpb.Hello) (err error) {
	if len(hello.GetCredential()) > maxCredential {
		return errorf(ErrMetadataProtocolViolation, "credential of %d bytes", len(hello.GetCredential()))
	}
	if l.config.Authorize == nil {
		return nil
	}
	s.authorization, err = l.config.Authorize(AuthorizeRequest{
		TLS: s.ConnectionState(), RemoteAddr: s.RemoteAddr(), Credential: hello.GetCredential(),
	})
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Code: ErrAccessRefused, Stream: -1, Offset: -1, Message: "access refused", Err: err}
}

// Authorization returns what ServerConfig.Authorize decided about the session. It is the zero value
// on every path but the session's first.
func (s *ServerSession) Authorization() Authorization { return s.authorization }

// Revoke ends a client's session at this server: it closes all paths of the session with
// ErrAccessRefused and the message, and refuses further ones. A secondary continues to serve the
// streams that the client has attached there, until the client disconnects.
func (s *ServerSession) Revoke(message string) {
	l := s.listener
	l.mu.Lock()
	l.revoked.add(s.id, l.config.now())
	all := []*ServerSession{s}
	for other := range l.sessions {
		if other != s && other.id == s.id {
			all = append(all, other)
		}
	}
	l.mu.Unlock()
	for _, session := range all {
		session.CloseWithError(ApplicationErrorCode(ErrAccessRefused), printable(message))
	}
}

// expire revokes the session when its Authorization expires. The returned function stops that.
func (s *ServerSession) expire() (stop func() bool) {
	at := s.authorization.Expires
	if at.IsZero() {
		return func() bool { return false }
	}
	return time.AfterFunc(at.Sub(s.listener.config.now()), func() { s.Revoke(messageExpired) }).Stop
}

// A revokedSessions holds the sessions whose tickets are refused, and when the last of their
// tickets expires. Guarded by the listener's lock.
type revokedSessions map[SessionID]time.Time

// add records a session. It forgets sessions whose tickets have expired and, beyond maxRevoked, the
// one whose tickets expire first.
func (r revokedSessions) add(id SessionID, now time.Time) {
	r[id] = now.Add(ticketLife + ticketSkew)
	if len(r) <= maxRevoked {
		return
	}
	first := id
	for other, until := range r {
		if !until.After(now) {
			delete(r, other)
		} else if until.Before(r[first]) {
			first = other
		}
	}
	if len(r) > maxRevoked {
		delete(r, first)
	}
}

func (r revokedSessions) has(id SessionID) bool {
	_, ok := r[id]
	return ok
}
