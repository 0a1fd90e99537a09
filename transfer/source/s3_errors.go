package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"kwikcp/internal/backoff"
	"kwikcp/transfer/disk"
)

const (
	// throttledFor bounds how long a request is repeated because the store throttles.
	throttledFor = time.Minute
	// maxAttempts bounds how often a request is sent while the store fails otherwise.
	maxAttempts = 4
	// maxStoreMessage bounds the text of a store in an error, in bytes.
	maxStoreMessage = 200
)

// s3Backoff is the delay before a request is repeated.
var s3Backoff = backoff.Policy{Min: 200 * time.Millisecond, Max: 10 * time.Second, Random: rand.Float64}

// throttling are the codes and statuses with which a store asks for fewer requests.
var (
	throttlingCodes = []string{
		"SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded",
		"RequestThrottled", "TooManyRequests", "ServiceUnavailable", "XMinioServerNotInitialized",
	}
	throttlingStatuses = []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}
	failingCodes       = []string{"InternalError", "RequestTimeout", "RequestError", "OperationAborted"}
	failingStatuses    = []int{
		http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout,
	}
	// accountCodes are refusals of the credentials, whatever the object is.
	accountCodes = []string{
		"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
		"RequestTimeTooSkewed", "AccountProblem", "NotSignedUp", "InvalidSecurity", "AuthorizationHeaderMalformed",
		"XAdminUserNotFound", // of versitygw, for InvalidAccessKeyId
	}
)

// A failureKind is what can be done about a failed request.
type failureKind int

const (
	failureFinal     failureKind = iota // the answer will be the same again
	failurePassing                      // another attempt may succeed
	failureThrottled                    // it will, later
)

func kindOf(err error) failureKind {
	e, isAnswer := errors.AsType[minio.ErrorResponse](err)
	if !isAnswer {
		_, isCredentials := errors.AsType[*credentialsError](err)
		_, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
		_, isWrongRange := errors.AsType[*rangeError](err)
		if isCredentials || isCertificate || isWrongRange || errors.Is(err, disk.ErrChanged) {
			return failureFinal
		}
		return failurePassing // of the connection
	}
	switch {
	case slices.Contains(throttlingCodes, e.Code) || slices.Contains(throttlingStatuses, e.StatusCode):
		return failureThrottled
	case slices.Contains(failingCodes, e.Code) || slices.Contains(failingStatuses, e.StatusCode):
		return failurePassing
	}
	return failureFinal
}

// retry calls request until it succeeds, its failure is final, or there were too many. The last
// error is returned. minio-go itself does not repeat requests.
func (s *s3Store) retry(ctx context.Context, request func() error) error {
	began := s.now()
	for failures := 1; ; failures++ {
		err := request()
		if err == nil {
			return nil
		}
		kind := kindOf(err)
		isOver := kind == failureFinal || kind == failurePassing && failures >= maxAttempts
		delay := s3Backoff.Delay(failures)
		if isOver || ctx.Err() != nil || s.now().Add(delay).Sub(began) > throttledFor {
			return err
		}
		if failed := s.wait(ctx, delay); failed != nil {
			return err
		}
	}
}

// waitFor waits, or returns the cause of ctx when it ends.
func waitFor(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failed returns the error of a store for a failed request. pinned is true for a request of a
// version that existed.
func (s *s3Store) failed(err error, pinned bool) error {
	if err == nil || errors.Is(err, disk.ErrChanged) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e, isAnswer := errors.AsType[minio.ErrorResponse](err)
	if !isAnswer {
		return s.unavailable(causeOf(err))
	}
	switch isGone := e.Code == minio.NoSuchKey || e.Code == "NoSuchVersion" || e.Code == "MethodNotAllowed"; {
	case e.Code == minio.PreconditionFailed || isGone && pinned:
		return disk.ErrChanged
	case isGone:
		return fs.ErrNotExist
	case e.Code == minio.NoSuchBucket:
		return s.unavailable(ErrNoBucket)
	case slices.Contains(accountCodes, e.Code):
		return s.unavailable(&DeniedError{"the credentials are refused: " + textOf(e)})
	case e.Code == minio.AccessDenied || e.Code == "AllAccessDisabled" || e.Code == "InvalidObjectState" ||
		e.StatusCode == http.StatusForbidden || e.StatusCode == http.StatusUnauthorized:
		return &DeniedError{"the bucket refuses access: " + textOf(e)}
	}
	return s.unavailable(errors.New(textOf(e)))
}

func (s *s3Store) unavailable(err error) error { return &Unavailable{Root: s.describe(), Err: err} }

// ErrNoBucket is the cause of an [Unavailable] if the bucket does not exist.
var ErrNoBucket = errors.New("there is no such bucket")

// A DeniedError is a refusal of a store. It matches fs.ErrPermission.
type DeniedError struct{ text string }

func (e *DeniedError) Error() string { return e.text }

// Unwrap returns fs.ErrPermission.
func (e *DeniedError) Unwrap() error { return fs.ErrPermission }

// textOf returns the store's own words, within bounds.
func textOf(e minio.ErrorResponse) string {
	text := e.Error()
	if len(text) > maxStoreMessage {
		text = text[:maxStoreMessage]
	}
	if e.Code != "" {
		return fmt.Sprintf("%q (%s)", text, e.Code)
	}
	return fmt.Sprintf("%q (status %d)", text, e.StatusCode)
}

// causeOf omits the URL of a request from its error.
func causeOf(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
