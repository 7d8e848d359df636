package cloud

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// responseError is an error that a server answered with.
type responseError struct {
	status     int
	code       string // "": the answer was not of the API
	message    string
	kind       error // the sentinel
	retryAfter time.Duration
}

func (r *responseError) Error() string { return r.message }
func (r *responseError) Unwrap() error { return r.kind }

// errStale means that a session, file system or file is not open at the server any more.
var errStale = driver.Errorf(driver.ErrClosed, "the server does not have this open any more")

// errNoAdvance means that a server gave the cursor back that it was given.
var errNoAdvance = driver.Errorf(driver.ErrCorrupt, "the server's listing does not advance")

// serverCodes are the errors of a server that are not in the table of package driver.
var serverCodes = map[string]error{
	"unauthenticated": driver.ErrPermission, "forbidden": driver.ErrPermission, "too_large": driver.ErrInvalid,
	"precondition_failed": driver.ErrExists, "unknown_session": errStale, "listing_ended": errStale,
	"rate_limited": driver.ErrUnavailable, "wrong_offset": driver.ErrInvalid, "digest_mismatch": driver.ErrInvalid, "last_key": driver.ErrInUse, "unsupported_media_type": driver.ErrInvalid, "outcome_unknown": driver.ErrUnavailable,
}

// retriedByServer are the errors of what a server stands on. It has waited for that itself, and has
// its reasons in its log.
var retriedByServer = map[string]bool{"database_unavailable": true, "storage_unavailable": true}

// unreachableError is the error of a request that got no answer.
type unreachableError struct {
	host string
	err  error
}

func (l *unreachableError) Error() string {
	switch {
	case errors.As(l.err, new(*tls.CertificateVerificationError)):
		return fmt.Sprintf("the certificate of the server at %s is not trusted: %s", l.host, api.PlainText(l.err.Error()))
	case errors.Is(l.err, http.ErrSchemeMismatch):
		return fmt.Sprintf("the server at %s does not speak TLS; its URL may begin with http://", l.host)
	}
	return fmt.Sprintf("the server at %s does not answer: %s", l.host, api.PlainText(l.err.Error()))
}

func (l *unreachableError) Unwrap() []error { return []error{driver.ErrUnavailable, l.err} }

// unreachable wraps the error of a request that got no answer.
func unreachable(u *url.URL, err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	return &unreachableError{host: u.Host, err: err}
}

// hadNoEffect reports whether a request certainly did not reach the server.
func hadNoEffect(err error) bool {
	var op *net.OpError
	var r *responseError
	switch {
	case errors.As(err, &r):
		return r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable && r.code == "unavailable"
	case errors.As(err, &op):
		return op.Op == "dial"
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// describeStatus says a status in words of ours: those after the number are the server's
// own, and messages go to a terminal.
func describeStatus(status int) string {
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, http.StatusText(status)))
}

// decodeResponseError is the error that an answer is.
func decodeResponseError(res *http.Response) error {
	r := &responseError{status: res.StatusCode, message: describeStatus(res.StatusCode), kind: driver.ErrUnavailable}
	if s, err := time.ParseDuration(res.Header.Get("Retry-After") + "s"); err == nil && s >= 0 && s < time.Minute {
		r.retryAfter = s
	}
	var body api.ErrorBody
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if kind != "application/json" || api.Decode(io.LimitReader(res.Body, api.MaxJSON), &body) != nil || body.Error.Code == "" {
		return r
	}
	r.code, r.message = body.Error.Code, body.Error.Message
	if r.message == "" {
		r.message = strings.ReplaceAll(r.code, "_", " ")
	}
	if k, ok := serverCodes[r.code]; ok {
		r.kind = k
	} else if k := driver.FromCode(r.code); k != nil {
		r.kind = k
	}
	if id := body.Error.RequestID; id != "" && (res.StatusCode == http.StatusInternalServerError || res.StatusCode == http.StatusServiceUnavailable) {
		r.message += " (request " + id + ")"
	}
	return r
}
