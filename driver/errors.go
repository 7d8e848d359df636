package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
)

// The sentinels that every error of Vole matches under errors.Is. Where the standard
// library has the exact one, it is that one.
var (
	ErrNotFound    = errors.New("volume not found")       // no such volume or attachment
	ErrNoSuch      = errors.New("not found")              // no such key, organisation, sandbox, profile, image or other thing that is no volume
	ErrExists      = fs.ErrExist                          // the name is taken
	ErrInUse       = errors.New("in use")                 // attached or locked by someone the error names
	ErrInvalid     = fs.ErrInvalid                        // the request makes no sense; the error says what would
	ErrUnsupported = errors.ErrUnsupported                // not available here; the error says when it is
	ErrQuota       = errors.New("quota exceeded")         // the volume would exceed its quota
	ErrNoSpace     = errors.New("no space left")          // the storage beneath is full
	ErrPermission  = fs.ErrPermission                     // the process may not
	ErrReadOnly    = errors.New("read-only")              // the volume, file or home is open for reading only
	ErrClosed      = fs.ErrClosed                         // used after Close
	ErrCorrupt     = errors.New("corrupt")                // what is stored contradicts itself
	ErrPathEscape  = errors.New("path leaves the volume") // "..", or a link that leads out
	ErrNotExist    = fs.ErrNotExist                       // no such file in the volume
	ErrNotDir      = errors.New("not a directory")
	ErrIsDir       = errors.New("is a directory")
	ErrNotEmpty    = errors.New("directory not empty")
	ErrLoop        = errors.New("too many symbolic links")
	ErrNoXattr     = errors.New("no such extended attribute")
	ErrUnavailable = errors.New("unavailable") // the server does not answer, or cannot now
)

// Error is the one wrapper that Vole puts around an error, at its boundary.
type Error struct {
	Op     string // the operation, e.g. "create"
	Volume string // the volume's name or id, "" when none is concerned
	Path   string // the path inside the volume, "" when none is concerned
	Err    error  // matches one of the sentinels, or is the system's own
}

func (e *Error) Error() string {
	s := e.Op
	switch {
	case e.Volume != "" && e.Path != "":
		s += " " + e.Volume + ":" + RootedPath(e.Path)
	case e.Volume != "":
		s += " " + e.Volume
	case e.Path != "":
		s += " " + e.Path
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// detailed is an error with a message of its own that matches a sentinel.
type detailed struct {
	msg  string
	kind error
}

func (d *detailed) Error() string { return d.msg }
func (d *detailed) Unwrap() error { return d.kind }

// Errorf returns an error that matches kind under errors.Is and reads as the
// formatted message, which should tell the reader what to do.
func Errorf(kind error, format string, args ...any) error {
	return &detailed{fmt.Sprintf(format, args...), kind}
}

// Part is what a backend stands on.
type Part string

// The parts.
const (
	Database Part = "database"
	Storage  Part = "storage" // where the bytes of files are
)

// Fault is a failure of a part of a backend, whatever the request was. Its text is for
// operators: it may name hosts, paths, keys of blobs and SQL, so a server tells its tenants
// no more than the part and the kind.
type Fault struct {
	Part Part
	Kind error // a sentinel, nil where Err matches one itself or none fits
	Err  error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the kind and the cause.
func (f *Fault) Unwrap() []error {
	if f.Kind == nil {
		return []error{f.Err}
	}
	return []error{f.Kind, f.Err}
}

// Class is how one kind of error appears in each language that Vole speaks.
type Class struct {
	Err   error         // the sentinel
	Code  string        // stable code of HTTP APIs and of the CLI's JSON
	HTTP  int           // status
	Errno syscall.Errno // for FUSE and plugins
	Exit  int           // exit code of the CLI
}

// Exit codes of the CLI. README documents them.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitExists      = 4
	ExitInUse       = 5
	ExitNoRoom      = 6
	ExitPermission  = 7
	ExitUnsupported = 8
	ExitCorrupt     = 9
	ExitTimeout     = 10
	ExitUnavailable = 11
	ExitInterrupted = 130 // 128 + SIGINT, as shells report it
)

// classes is the one table of translations. The first match wins, so that a
// volume that is not found comes before a file that does not exist.
var classes = []Class{
	{ErrNotFound, "volume_not_found", 404, syscall.ESTALE, ExitNotFound},
	{ErrNotExist, "file_not_found", 404, syscall.ENOENT, ExitNotFound},
	{ErrNoSuch, "not_found", 404, syscall.ENOENT, ExitNotFound}, // after the one that ENOENT stands for
	{ErrExists, "already_exists", 409, syscall.EEXIST, ExitExists},
	{ErrInUse, "in_use", 409, syscall.EBUSY, ExitInUse},
	{ErrQuota, "quota_exceeded", 507, syscall.EDQUOT, ExitNoRoom},
	{ErrNoSpace, "no_space", 507, syscall.ENOSPC, ExitNoRoom},
	{ErrPathEscape, "path_escape", 400, syscall.EXDEV, ExitUsage},
	{ErrNotDir, "not_a_directory", 409, syscall.ENOTDIR, ExitFailure},
	{ErrIsDir, "is_a_directory", 409, syscall.EISDIR, ExitFailure},
	{ErrNotEmpty, "not_empty", 409, syscall.ENOTEMPTY, ExitFailure},
	{ErrLoop, "too_many_links", 400, syscall.ELOOP, ExitFailure},
	{ErrNoXattr, "no_such_xattr", 404, errNoXattr, ExitNotFound},
	{ErrReadOnly, "read_only", 403, syscall.EROFS, ExitPermission},
	{ErrPermission, "permission_denied", 403, syscall.EACCES, ExitPermission},
	{ErrUnsupported, "unsupported", 501, syscall.EOPNOTSUPP, ExitUnsupported},
	{ErrCorrupt, "corrupt", 500, errCorrupt, ExitCorrupt},
	{ErrInvalid, "invalid_request", 400, syscall.EINVAL, ExitUsage},
	{ErrClosed, "closed", 409, syscall.EBADF, ExitFailure},
	{ErrUnavailable, "unavailable", 503, syscall.EHOSTUNREACH, ExitUnavailable},
	{context.DeadlineExceeded, "timeout", 504, syscall.ETIMEDOUT, ExitTimeout},
	{context.Canceled, "canceled", 499, syscall.EINTR, ExitInterrupted},
}

// Classes returns how every kind of error appears elsewhere.
func Classes() []Class { return slices.Clone(classes) }

// Classify returns how err appears elsewhere. An error of no known kind is
// "internal": 500, EIO, exit code 1.
func Classify(err error) Class {
	for _, c := range classes {
		if errors.Is(err, c.Err) {
			return c
		}
	}
	// An errno of the host's own file system, such as that of a home or of a server's directory,
	// has a kind, too, if it can mean one thing only.
	if e := syscall.Errno(0); errors.As(err, &e) && (e == syscall.EROFS || e == syscall.ENOSPC || e == syscall.EDQUOT) {
		return Classify(FromErrno(e))
	}
	return Class{err, "internal", 500, syscall.EIO, ExitFailure}
}

// FromCode returns the error that a stable code stands for, nil if it stands for none. Errors
// that cross from one process to another keep their kind by it.
func FromCode(code string) error {
	for _, c := range classes {
		if c.Code == code {
			return c.Err
		}
	}
	return nil
}

// FromErrno returns the sentinel that an errno of a file operation stands for, or
// the errno itself where there is none.
func FromErrno(e syscall.Errno) error {
	switch e {
	case syscall.EPERM:
		return ErrPermission
	case syscall.ENOTSUP:
		return ErrUnsupported
	case syscall.ENAMETOOLONG, syscall.EFBIG:
		return ErrInvalid
	case syscall.ESTALE, syscall.EINTR, syscall.EIO, syscall.EBADF, syscall.ETIMEDOUT:
		// The table uses these for kinds that a local file system does not mean by them.
		return e
	}
	for _, c := range classes {
		if c.Errno == e {
			return c.Err
		}
	}
	return e
}
