package core

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// A message to a client names the client's own things, and never where the operator keeps them:
// hosts, paths, keys of blobs and SQL go to the log only.

// describedError is an error with the status, code and redacted message that the client gets.
type describedError struct {
	err           error
	status        int
	code, message string
}

func (d *describedError) Error() string { return d.err.Error() }
func (d *describedError) Unwrap() error { return d.err }

// describeRedacted decides how err appears to the client of this server.
func (c *Core) describeRedacted(err error) *describedError {
	status, code, message := Describe(err)
	return &describedError{err, status, code, c.Redact(message)}
}

// Redact replaces the operator's paths and hosts in a text.
func (c *Core) Redact(text string) string {
	for _, private := range c.opts.Redacted {
		text = strings.ReplaceAll(text, private, "(...)")
	}
	return text
}

// longestFirst sorts texts by length, so that no text is replaced inside a longer one. Texts
// below four bytes are dropped: they would match by chance.
func longestFirst(texts []string) []string {
	const least = 4
	list := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return len(s) < least })
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	return list
}

// notStarted marks an error of the server because of which a request was not admitted: it had no
// effect, so another server or another try may succeed.
type notStarted struct{ err error }

func (n *notStarted) Error() string { return n.err.Error() }
func (n *notStarted) Unwrap() error { return n.err }

// describeDriverError describes errors by the table of package driver. Texts of the operating
// system, which may contain paths, are replaced.
func describeDriverError(err error) (status int, code, message string) {
	c := driver.Classify(err)
	f := (*driver.Fault)(nil)
	switch {
	case errors.As(err, &f):
		status, code, message = describeBackendFault(f.Part, c)
	case isSystemError(err):
		// An error with a sentinel is described by that alone.
		if c.HTTP == http.StatusInternalServerError {
			status, code, message = describeBackendFault(driver.Storage, c)
		} else {
			status, code, message = c.HTTP, c.Code, c.Err.Error()
		}
	case c.HTTP == http.StatusInternalServerError && !errors.Is(err, driver.ErrCorrupt):
		return c.HTTP, c.Code, "internal error; see the server's log"
	default:
		return c.HTTP, c.Code, err.Error()
	}
	if status == http.StatusServiceUnavailable && errors.As(err, new(*notStarted)) {
		code = api.CodeUnavailable
	}
	return status, code, message
}

// describeBackendFault describes a failure of the database or the storage below the server.
func describeBackendFault(part driver.Part, c driver.Class) (status int, code, message string) {
	switch c.Err {
	case driver.ErrNoSpace, driver.ErrQuota:
		return http.StatusInsufficientStorage, api.CodeNoSpace, "no space left: the server's " + string(part) + " is full"
	case driver.ErrCorrupt:
		return c.HTTP, c.Code, "the stored data is damaged; see the server's log"
	case context.DeadlineExceeded, context.Canceled:
		return c.HTTP, c.Code, "the server's " + string(part) + " did not answer in time"
	}
	code = api.CodeStorageUnavailable
	if part == driver.Database {
		code = api.CodeDatabaseUnavailable
	}
	return http.StatusServiceUnavailable, code, string(part) + " unavailable: the server's " + string(part) + " does not answer or fails; try again later; see the server's log"
}

// isSystemError reports whether err comes from the operating system or the network: its text may
// contain paths and hosts.
func isSystemError(err error) bool {
	return errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) || errors.As(err, new(*os.SyscallError)) || errors.As(err, new(syscall.Errno)) ||
		errors.As(err, new(*net.OpError)) || errors.As(err, new(*net.DNSError)) || errors.As(err, new(*url.Error))
}
