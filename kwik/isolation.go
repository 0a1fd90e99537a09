package kwik

// A ServerRole says what a server may do in a session.
type ServerRole int

const (
	// ServerRolePrimary opens KWIK streams on the client's public session, offers aggregate streams and names the
	// secondaries.
	ServerRolePrimary ServerRole = iota
	// ServerRoleSecondary contributes bytes to aggregate streams and does nothing else.
	ServerRoleSecondary
)

func (r ServerRole) String() string {
	switch r {
	case ServerRolePrimary:
		return "primary"
	case ServerRoleSecondary:
		return "secondary"
	}
	return "unknown role"
}

// checkPublicStream is the isolation rule: public streams (bidirectional QUIC streams beyond the control stream) exist
// on the primary's path only. Every place where one would come into being asks here first: the client before it
// delivers a server's stream, a server before it opens one or delivers a client's.
//
// It returns nil or an error of the code to refuse with: ErrInvalidStreamRole to this side's own application,
// ErrSecondaryStreamIsolation to a peer.
func checkPublicStream(role ServerRole, openedByPeer bool) *Error {
	if role == ServerRolePrimary {
		return nil
	}
	if openedByPeer {
		return errorf(ErrSecondaryStreamIsolation, "bidirectional stream on the path of a %s", role)
	}
	return errorf(ErrInvalidStreamRole, "a %s opens no public streams", role)
}
