package kwik

// A ServerRole is what a server may do in a session.
type ServerRole int

const (
	// ServerRolePrimary opens KWIK streams on the client's public session, offers aggregate
	// streams and names the secondaries.
	ServerRolePrimary ServerRole = iota
	// ServerRoleSecondary contributes bytes to aggregate streams and does nothing else.
	ServerRoleSecondary
	// ServerRoleExternal is an [ExternalSource], which is no KWIK server.
	ServerRoleExternal
)

func (r ServerRole) String() string {
	switch r {
	case ServerRolePrimary:
		return "primary"
	case ServerRoleSecondary:
		return "secondary"
	case ServerRoleExternal:
		return "web"
	}
	return "unknown role"
}

// checkPublicStream is the isolation rule: public streams (bidirectional QUIC streams other than
// the control stream) exist on the primary's path only. It is called before the client delivers a
// server's stream, and before a server opens one or delivers a client's.
//
// It returns nil, or the error with which to refuse the stream: ErrInvalidStreamRole to this
// side's application, ErrSecondaryStreamIsolation to a peer.
func checkPublicStream(role ServerRole, openedByPeer bool) *Error {
	if role == ServerRolePrimary {
		return nil
	}
	if openedByPeer {
		return errorf(ErrSecondaryStreamIsolation, "bidirectional stream on the path of a %s", role)
	}
	return errorf(ErrInvalidStreamRole, "a %s opens no public streams", role)
}
