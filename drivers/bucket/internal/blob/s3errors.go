package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/volehq/vole/driver"
)

// Delays between the attempts of a request.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 5 * time.Second
)

// retryTransient makes a request until it succeeds, fails for a reason that is not transient,
// or has used up its retries. It returns the last failure as the client gave it.
func (s *s3Store) retryTransient(ctx context.Context, request func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := request(ctx)
		if err == nil || attempt >= s.opts.Retries || !isTransient(ctx, err) {
			return err
		}
		if waitBackoff(ctx, attempt) != nil {
			// Match only the error of ctx: the caller gave up.
			return fmt.Errorf("%w; before that: %v", ctx.Err(), err)
		}
	}
}

// waitBackoff waits before the next attempt, with jitter, so that clients that failed together
// do not return together.
func waitBackoff(ctx context.Context, attempt int) error {
	d := min(firstDelay<<min(attempt, 16), lastDelay)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d/2 + rand.N(d/2)):
		return nil
	}
}

// serviceErrorCode returns the S3 code of an error, or "".
func serviceErrorCode(err error) string {
	response, _ := errors.AsType[minio.ErrorResponse](err)
	return response.Code
}

// transientCodes are codes of transient failures whose status does not say so.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
var transientCodes = []string{"RequestTimeout", "InternalError", "SlowDown", "SlowDownRead", "SlowDownWrite",
	"ServiceUnavailable", "Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded"}

// permanentErrors are errors that the client or this package found without asking the service.
var permanentErrors = []error{driver.ErrPermission, driver.ErrInvalid, driver.ErrCorrupt, driver.ErrUnsupported,
	driver.ErrExists, driver.ErrNotExist, driver.ErrNoSpace, driver.ErrClosed}

// isTransient reports whether the same request may succeed if it is repeated.
func isTransient(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if response, ok := errors.AsType[minio.ErrorResponse](err); ok {
		switch response.StatusCode {
		case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
			http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		}
		return slices.Contains(transientCodes, response.Code)
	}
	return !isTLSFailure(err) && !slices.ContainsFunc(permanentErrors, func(kind error) bool { return errors.Is(err, kind) })
}

// isTLSFailure reports that TLS with this server failed.
func isTLSFailure(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.RecordHeaderError)) ||
		errors.As(err, new(x509.UnknownAuthorityError)) || errors.As(err, new(x509.HostnameError))
}

// mayHaveTakenEffect reports a failure after which the request may have taken effect, or may
// still do so.
func mayHaveTakenEffect(err error) bool {
	if response, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return response.StatusCode >= 500 && response.StatusCode != http.StatusNotImplemented && response.StatusCode != http.StatusInsufficientStorage
	}
	return !errors.As(err, new(*dialError)) && !isTLSFailure(err) &&
		!slices.ContainsFunc(permanentErrors, func(kind error) bool { return errors.Is(err, kind) })
}

// isKeyConflict reports that the key of a put was taken, or was being taken at the time.
func isKeyConflict(err error) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && (response.StatusCode == http.StatusPreconditionFailed || response.StatusCode == http.StatusConflict)
}

// translateError makes an answer of the service match a sentinel of package driver. It quotes
// the service's code and message, which contain no secrets; the rest of the answer might.
func (s *s3Store) translateError(err error) error {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return err
	}
	said := fmt.Sprintf("the storage service says %s: %s", response.Code, response.Message)
	switch response.Code {
	case "NoSuchKey", "NoSuchVersion":
		return fs.ErrNotExist
	case "NoSuchBucket":
		// Not ErrNotExist, which would mean that the object is lost.
		return driver.Errorf(driver.ErrInvalid, "bucket %s does not exist at %s; create it first", s.opts.Bucket, s.opts.redactedEndpoint())
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return driver.Errorf(driver.ErrNoSpace, "%s", said)
	case "AccessDenied", "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed":
		// Some services answer these with status 400 or 404.
		return driver.Errorf(driver.ErrPermission, "%s", said)
	case "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch":
		return driver.Errorf(driver.ErrCorrupt, "%s", said)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return driver.Errorf(driver.ErrPermission, "%s", said)
	case http.StatusRequestedRangeNotSatisfiable:
		return driver.Errorf(driver.ErrCorrupt, "%s", said)
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return driver.Errorf(driver.ErrUnsupported, "%s", said)
	case http.StatusInsufficientStorage:
		return driver.Errorf(driver.ErrNoSpace, "%s", said)
	case http.StatusBadRequest:
		if !slices.Contains(transientCodes, response.Code) {
			return driver.Errorf(driver.ErrInvalid, "%s", said)
		}
	}
	return fmt.Errorf("%s (status %d)", said, response.StatusCode)
}
