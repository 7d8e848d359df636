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

// refusal is an error that a server answered with.
type refusal struct {
	status  int
	code    string // "": the answer was not of the API
	message string
	kind    error // the sentinel
	wait    time.Duration
}

func (r *refusal) Error() string { return r.message }
func (r *refusal) Unwrap() error { return r.kind }

// errLost means that a session, file system or file is not open at the server any more.
var errLost = driver.Errorf(driver.ErrClosed, "the server does not have this open any more")

// errNoAdvance means that a server gave the cursor back that it was given.
var errNoAdvance = driver.Errorf(driver.ErrCorrupt, "the server's listing does not advance")

// codes are the errors of a server that are not in the table of package driver.
var codes = map[string]error{
	"unauthenticated": driver.ErrPermission, "forbidden": driver.ErrPermission, "too_large": driver.ErrInvalid,
	"precondition_failed": driver.ErrExists, "unknown_session": errLost, "listing_ended": errLost,
	"rate_limited": driver.ErrUnavailable, "wrong_offset": driver.ErrInvalid, "digest_mismatch": driver.ErrInvalid, "last_key": driver.ErrInUse, "unsupported_media_type": driver.ErrInvalid, "outcome_unknown": driver.ErrUnavailable,
}

// patient are the errors of what a server stands on. It has waited for that itself, and has
// its reasons in its log.
var patient = map[string]bool{"database_unavailable": true, "storage_unavailable": true}

// lost is the error of a request that got no answer.
type lost struct {
	host string
	err  error
}

func (l *lost) Error() string {
	switch {
	case errors.As(l.err, new(*tls.CertificateVerificationError)):
		return fmt.Sprintf("the certificate of the server at %s is not trusted: %s", l.host, api.PlainText(l.err.Error()))
	case errors.Is(l.err, http.ErrSchemeMismatch):
		return fmt.Sprintf("the server at %s does not speak TLS; its URL may begin with http://", l.host)
	}
	return fmt.Sprintf("the server at %s does not answer: %s", l.host, api.PlainText(l.err.Error()))
}

func (l *lost) Unwrap() []error { return []error{driver.ErrUnavailable, l.err} }

// away wraps the error of a request that got no answer.
func away(u *url.URL, err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	return &lost{host: u.Host, err: err}
}

// unsent reports whether a request certainly did not reach the server.
func unsent(err error) bool {
	var op *net.OpError
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable && r.code == "unavailable"
	case errors.As(err, &op):
		return op.Op == "dial"
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// statusMessage says a status in words of ours: those after the number are the server's
// own, and messages go to a terminal.
func statusMessage(status int) string {
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, http.StatusText(status)))
}

// refused is the error that an answer is.
func refused(res *http.Response) error {
	r := &refusal{status: res.StatusCode, message: statusMessage(res.StatusCode), kind: driver.ErrUnavailable}
	if s, err := time.ParseDuration(res.Header.Get("Retry-After") + "s"); err == nil && s >= 0 && s < time.Minute {
		r.wait = s
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
	if k, ok := codes[r.code]; ok {
		r.kind = k
	} else if k := driver.FromCode(r.code); k != nil {
		r.kind = k
	}
	if id := body.Error.RequestID; id != "" && (res.StatusCode == http.StatusInternalServerError || res.StatusCode == http.StatusServiceUnavailable) {
		r.message += " (request " + id + ")"
	}
	return r
}
