package kwik

import (
	"crypto/ed25519"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// This file binds tickets to the client that they were issued to. A client has a key pair for each
// session. It names the public key to the primary, which binds the session's tickets to it. On
// every further path the client signs the path's TLS session with the private key. So a ticket is
// of no use to anyone else who has read it. A client without a key, of an earlier release, has
// tickets that are bound to nothing.

// A ticketHolder is the public key (Ed25519) of the client that may use a ticket; zero if anyone
// may.
type ticketHolder [ed25519.PublicKeySize]byte

// newSessionKey returns the key pair of a client's session.
func newSessionKey() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic("kwik: internal error: " + err.Error()) // the system's random source does not fail
	}
	return key
}

// readHolder returns the holder that a client names in Hello.
func readHolder(hello *kwikpb.Hello) (h ticketHolder, err error) {
	switch key := hello.GetProofKey(); len(key) {
	case 0:
		return h, nil
	case len(h):
		if h = ticketHolder(key); h != (ticketHolder{}) {
			return h, nil
		}
	}
	return h, errorf(ErrMetadataProtocolViolation, "malformed key in Hello")
}

// holderOf returns the holder of a ticket that the client on this path presents. It is the client,
// or none if the ticket is bound to nothing. A primary of an earlier release gave such tickets to
// all.
func (s *ServerSession) holderOf(ticket []byte) ticketHolder {
	if len(ticket) > 0 && ticket[0] == ticketVersion {
		return ticketHolder{}
	}
	return s.holder
}

// pathProofInput returns the bytes that a client signs on a path. They are unique to its TLS
// session.
func pathProofInput(conn *quic.Conn) ([]byte, error) {
	state := conn.ConnectionState().TLS
	raw, err := state.ExportKeyingMaterial("EXPORTER-kwik-path", nil, 32)
	return append([]byte("kwik path proof"), raw...), err
}

// provePath returns the proof that the client on conn has a session's key.
func provePath(key ed25519.PrivateKey, conn *quic.Conn) ([]byte, error) {
	input, err := pathProofInput(conn)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(key, input), nil
}

// checkPathProof returns nil if the client on conn is the holder, or if there is none.
func checkPathProof(h ticketHolder, conn *quic.Conn, proof []byte) error {
	if h == (ticketHolder{}) {
		return nil
	}
	input, err := pathProofInput(conn)
	if err != nil {
		return err
	}
	if len(proof) != ed25519.SignatureSize || !ed25519.Verify(h[:], input, proof) {
		return errorf(ErrAccessRefused, "no ticket for this")
	}
	return nil
}
