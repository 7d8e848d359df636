package core

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
)

// Error is a refusal or failure that only a server has; all others are in the table of package
// driver.
type Error struct {
	Status  int    // of HTTP; 0: the one that goes with Code
	Code    string // one of package api, or of a dialect of its own, which needs Status
	Message string
	Retry   time.Duration // for Retry-After; 0: none
	Err     error         // for the log only; nil: the message says all
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// httpStatus returns Status, or the one that goes with Code.
func (e *Error) httpStatus() int {
	return cmp.Or(e.Status, api.CodeStatus(e.Code))
}

// Refusals that several routes share.
var (
	ErrForbidden   = newRefusal(api.CodeForbidden, "this key is restricted to some volumes and may not do that")
	ErrRateLimited = newRefusal(api.CodeRateLimited, "too many requests with this key; slow down")
	ErrNoRoute     = newRefusal(api.CodeNotFound, "unknown route; /openapi.json lists all routes")
	ErrUnavailable = newRefusal(api.CodeUnavailable, "the server is shutting down; try again, or use another server")
)

// errEncoding refuses a compressed body: it would be stored as it comes, and read as what it
// is not.
var errEncoding = newRefusal(api.CodeUnsupportedEncoding,
	"Content-Encoding is not supported here; send the body as it shall be stored, without that header")

// refuseContentEncoding refuses an encoded body, unless the route decodes it.
func refuseContentEncoding(r *Request, rt *Route) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Body == nil || r.Body == http.NoBody {
		return nil // the body is not read
	}
	for _, v := range r.Header.Values("Content-Encoding") {
		if v != "" && !strings.EqualFold(v, "identity") && !rt.DecodesBody {
			return errEncoding
		}
	}
	return nil
}

// newRefusal returns an error with a code of package api, which implies the status.
func newRefusal(code, message string) *Error {
	return &Error{Code: code, Message: message}
}

// NeedsScope returns the error for a key that lacks a scope.
func NeedsScope(s accounts.Scope) error {
	return newRefusal(api.CodeForbidden, "this key may not do that; use a key with the scope "+strings.Join(s.Strings(), ", "))
}

// NotFound returns the error for a missing thing that is neither a volume nor a file.
func NotFound(message string) error {
	return newRefusal(api.CodeNotFound, message)
}

// Describe returns how err appears to a client: status, stable code and message. The names of
// operation and volume that package vole puts first are left out, since clients add their own.
func Describe(err error) (status int, code, message string) {
	if d := (*describedError)(nil); errors.As(err, &d) {
		return d.status, d.code, d.message
	}
	if e := (*driver.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	var own *Error
	if e := (*budget.Error)(nil); errors.As(err, &e) {
		err = budgetRefusal(e)
	}
	switch {
	case errors.As(err, &own):
		return own.httpStatus(), own.Code, own.Message
	case errors.Is(err, accounts.ErrUnauthenticated):
		return http.StatusUnauthorized, api.CodeUnauthenticated, err.Error()
	case errors.As(err, new(*http.MaxBytesError)):
		return http.StatusRequestEntityTooLarge, api.CodeTooLarge, "the request is too large"
	case errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, new(*driver.Fault)):
		return http.StatusBadRequest, api.CodeInvalidRequest, "the request ended early"
	}
	return describeDriverError(err)
}

// invalidRequest returns an error that matches driver.ErrInvalid.
func invalidRequest(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}
