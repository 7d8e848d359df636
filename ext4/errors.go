package ext4

import (
	"errors"
	"fmt"
	"syscall"
)

// The conditions for which POSIX has an errno are reported as [syscall.Errno], so that
// errors.Is(err, fs.ErrNotExist) and the like hold. These are the others.
var (
	// ErrCorrupt says that the image contradicts itself; run e2fsck.
	ErrCorrupt = errors.New("the image is damaged")
	// ErrNoFileSystem says that there is neither a superblock nor a copy of one: the image
	// is none of ext4, or nothing is left of it. It matches ErrCorrupt too.
	ErrNoFileSystem error = noFileSystem{}
	// ErrUnsupported says that the image has a feature that this package does not
	// understand, or does not write.
	ErrUnsupported = fmt.Errorf("not supported: %w", errors.ErrUnsupported)
	// ErrEscape says that a symbolic link leads out of the image.
	ErrEscape = errors.New("the path leads out of the file system")
	// ErrReadOnly says that the image was opened for reading.
	ErrReadOnly error = syscall.EROFS
)

// noFileSystem is the type of ErrNoFileSystem.
type noFileSystem struct{}

func (noFileSystem) Error() string { return "there is no ext4 file system: no superblock was found" }
func (noFileSystem) Unwrap() error { return ErrCorrupt }

// corruptf returns an error that matches ErrCorrupt.
func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w (run e2fsck): %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// unsupportedf returns an error that matches ErrUnsupported.
func unsupportedf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Short names for the errno values that this package returns.
const (
	errNoEntry  = syscall.ENOENT
	errExists   = syscall.EEXIST
	errNotDir   = syscall.ENOTDIR
	errIsDir    = syscall.EISDIR
	errNotEmpty = syscall.ENOTEMPTY
	errNoSpace  = syscall.ENOSPC
	errInvalid  = syscall.EINVAL
	errTooBig   = syscall.EFBIG
	errLoop     = syscall.ELOOP
	errNameLong = syscall.ENAMETOOLONG
	errPerm     = syscall.EPERM
	errLinks    = syscall.EMLINK
	errClosed   = syscall.EBADF
)

// isCorrupt reports whether an error matches ErrCorrupt.
func isCorrupt(err error) bool { return errors.Is(err, ErrCorrupt) }
