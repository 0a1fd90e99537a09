package wire

// These messages say why a server that restricts access refuses a client. They travel as the reason
// of KWIK_ACCESS_REFUSED and in a Failure of code FORBIDDEN (docs/PROTOCOL.md section 12). Clients
// choose their hints by them, so they never change.
const (
	RefusedNoToken   = "this server requires a token"
	RefusedToken     = "the token is not valid on this server"
	RefusedExpired   = "the token has expired"
	RefusedNotYet    = "the token was issued in the future: check the clocks of its issuer and of the server"
	RefusedRevoked   = "the token was revoked"
	RefusedSession   = "the credential has expired" // of kwik, during a session
	RefusedPath      = "the token does not allow this path"
	RefusedNoCert    = "this server requires a client certificate"
	RefusedCert      = "the client certificate is not from an authority of this server"
	RefusedCertDates = "the client certificate is not valid now"
)
