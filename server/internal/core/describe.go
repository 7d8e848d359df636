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

// A message to a client says what of its own is concerned, and never where the operator keeps
// it: hosts, paths, keys of blobs and SQL are for the log.

// describedError is an error whose appearance to the client is known.
type describedError struct {
	err           error
	status        int
	code, message string
}

func (d *describedError) Error() string { return d.err.Error() }
func (d *describedError) Unwrap() error { return d.err }

// describeRedacted settles how err appears to the client of this server.
func (c *Core) describeRedacted(err error) *describedError {
	status, code, message := Describe(err)
	return &describedError{err, status, code, c.Redact(message)}
}

// Redact returns a text without what is the operator's.
func (c *Core) Redact(text string) string {
	for _, private := range c.opts.Redacted {
		text = strings.ReplaceAll(text, private, "(...)")
	}
	return text
}

// longestFirst sorts texts so that none is replaced in part before a longer one that has it.
// Short ones are left out: they stand for nothing of their own.
func longestFirst(texts []string) []string {
	const least = 4
	list := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return len(s) < least })
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	return list
}

// notStarted is an error of the server's own because of which a request was not let in: another
// server, or another try, may do better.
type notStarted struct{ err error }

func (n *notStarted) Error() string { return n.err.Error() }
func (n *notStarted) Unwrap() error { return n.err }

// describeDriverError describes the errors of the table of package driver.
func describeDriverError(err error) (status int, code, message string) {
	c := driver.Classify(err)
	f := (*driver.Fault)(nil)
	switch {
	case errors.As(err, &f):
		status, code, message = describeBackendFault(f.Part, c)
	case isSystemError(err):
		// Of an error with a sentinel that is what there is to say.
		if c.HTTP == http.StatusInternalServerError {
			status, code, message = describeBackendFault(driver.Storage, c)
		} else {
			status, code, message = c.HTTP, c.Code, c.Err.Error()
		}
	case c.HTTP == http.StatusInternalServerError && !errors.Is(err, driver.ErrCorrupt):
		return c.HTTP, c.Code, "internal error; the server's log has more"
	default:
		return c.HTTP, c.Code, err.Error()
	}
	if status == http.StatusServiceUnavailable && errors.As(err, new(*notStarted)) {
		code = api.CodeUnavailable
	}
	return status, code, message
}

// describeBackendFault describes a failure of what the server stands on.
func describeBackendFault(part driver.Part, c driver.Class) (status int, code, message string) {
	switch c.Err {
	case driver.ErrNoSpace, driver.ErrQuota:
		return http.StatusInsufficientStorage, api.CodeNoSpace, "no space left: the server's " + string(part) + " is full"
	case driver.ErrCorrupt:
		return c.HTTP, c.Code, "what the server has stored of it is damaged; the server's log has more"
	case context.DeadlineExceeded, context.Canceled:
		return c.HTTP, c.Code, "the server's " + string(part) + " did not answer in time"
	}
	code = api.CodeStorageUnavailable
	if part == driver.Database {
		code = api.CodeDatabaseUnavailable
	}
	return http.StatusServiceUnavailable, code, string(part) + " unavailable: the server's " + string(part) + " does not answer or fails; try again later; the server's log has the reason"
}

// isSystemError reports whether an error is the system's own, whose text may have paths and hosts.
func isSystemError(err error) bool {
	return matchesType[*fs.PathError](err) || matchesType[*os.LinkError](err) || matchesType[*os.SyscallError](err) || matchesType[syscall.Errno](err) ||
		matchesType[*net.OpError](err) || matchesType[*net.DNSError](err) || matchesType[*url.Error](err)
}

func matchesType[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}
