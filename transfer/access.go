package transfer

import (
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/wire"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// An AccessReason is why a server that restricts access refuses a client.
type AccessReason int

const (
	AccessOther        AccessReason = iota // of a later version
	AccessNoToken                          // a token is needed, and none was presented
	AccessTokenInvalid                     // damaged, or signed with the key of another server
	AccessTokenExpired                     // or the permission ended during the session
	AccessTokenNotYet                      // the clock of the issuer or of the server is wrong
	AccessTokenRevoked
	AccessForbidden        // the token does not allow the path
	AccessNoCertificate    // a client certificate is needed, and none was presented
	AccessCertificateOther // it is not from an authority of the server, or not valid now
)

// An AccessError is the refusal of a server that restricts access.
type AccessError struct {
	Reason AccessReason
	// Message is the server's.
	Message string
	// Err is the cause, a [*RemoteError] or a [*kwik.Error].
	Err error
}

func (e *AccessError) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *AccessError) Unwrap() error { return e.Err }

var accessReasons = map[string]AccessReason{
	wire.RefusedNoToken:   AccessNoToken,
	wire.RefusedToken:     AccessTokenInvalid,
	wire.RefusedExpired:   AccessTokenExpired,
	wire.RefusedSession:   AccessTokenExpired,
	wire.RefusedNotYet:    AccessTokenNotYet,
	wire.RefusedRevoked:   AccessTokenRevoked,
	wire.RefusedPath:      AccessForbidden,
	wire.RefusedNoCert:    AccessNoCertificate,
	wire.RefusedCert:      AccessCertificateOther,
	wire.RefusedCertDates: AccessCertificateOther,
}

// accessRefusal returns the AccessError for a session that the server refused or ended, nil if err
// has another cause.
func accessRefusal(err error) *AccessError {
	e, ok := errors.AsType[*kwik.Error](err)
	if !ok || !e.Remote || e.Code != kwik.ErrAccessRefused {
		return nil
	}
	reason, known := accessReasons[e.Message]
	if !known {
		return nil // a ticket or a join was refused
	}
	return &AccessError{Reason: reason, Message: e.Message, Err: err}
}

// refusedBy returns the error for a Failure about a path.
func refusedBy(f *transferpb.Failure, path string) error {
	e := remoteError(path, f)
	if f.GetCode() != transferpb.Failure_FORBIDDEN {
		return e
	}
	return &AccessError{Reason: accessReasons[f.GetMessage()], Message: f.GetMessage(), Err: e}
}

// lostSources sets the kind of the error of a transfer whose sources are all gone, and its cause if
// the primary ended the session.
func lostSources(failed *Error, sources []kwik.SourceStats) {
	failed.Kind = kindOfLoss(sources)
	switch failed.Kind {
	case KindChanged:
		failed.Err = changedError{failed.Err}
	case KindRefused:
		for _, s := range sources {
			if refusal := accessRefusal(s.Gone); s.Primary && refusal != nil {
				failed.Err = refusal
			}
		}
	}
}
