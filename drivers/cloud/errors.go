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

// responseError is a response with an error status.
type responseError struct {
	status     int
	code       string // one of package api; "": the response is not one of the API
	message    string
	kind       error // the sentinel that it matches
	retryAfter time.Duration
}

func (r *responseError) Error() string { return r.message }
func (r *responseError) Unwrap() error { return r.kind }

// errNoAdvance means that a server returned the cursor that it was given, so that the listing
// would never end.
var errNoAdvance = driver.Errorf(driver.ErrCorrupt, "the server's listing does not advance")

// retriedByServer reports whether a code says that the database or the storage of the server
// failed. The server has retried that itself, and its log has the reason.
func retriedByServer(code string) bool {
	return code == api.CodeDatabaseUnavailable || code == api.CodeStorageUnavailable
}

// unreachableError is the error of a request that got no response, or not a whole one.
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

// unreachable wraps the error of a request to u that got no response.
func unreachable(u *url.URL, err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	return &unreachableError{host: u.Host, err: err}
}

// hadNoEffect reports whether the request certainly had no effect: no connection was made, or
// the server turned it away before it began.
func hadNoEffect(err error) bool {
	var op *net.OpError
	var r *responseError
	switch {
	case errors.As(err, &r):
		return r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable && r.code == api.CodeUnavailable
	case errors.As(err, &op):
		return op.Op == "dial"
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// describeStatus describes a status in fixed words. Those of the response are the server's, and
// messages are printed on terminals.
func describeStatus(status int) string {
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, http.StatusText(status)))
}

// decodeResponseError returns the error that a response stands for. An unknown code, and a body
// that is not one of the API, match ErrUnavailable.
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
	if kind := api.CodeKind(r.code); kind != nil {
		r.kind = kind
	}
	if id := body.Error.RequestID; id != "" && (res.StatusCode == http.StatusInternalServerError || res.StatusCode == http.StatusServiceUnavailable) {
		r.message += " (request " + id + ")"
	}
	return r
}
