//go:build unix

package disk

import (
	"errors"
	"io"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"golang.org/x/sys/unix"
)

// translateError turns an error of ext4 or of the system into one that matches a sentinel of
// driver. Errors that match one already, and io.EOF, stay as they are.
func translateError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	switch {
	case errors.Is(err, ext4.ErrCorrupt):
		return driver.Errorf(driver.ErrCorrupt, "%v", err)
	case errors.Is(err, ext4.ErrEscape):
		return driver.Errorf(driver.ErrPathEscape, "a symbolic link on the way leads out of the volume")
	case errors.Is(err, unix.ENODATA):
		return driver.ErrNoXattr
	case errors.Is(err, ext4.ErrUnsupported):
		return driver.Errorf(driver.ErrUnsupported, "%v", err)
	case errors.Is(err, unix.EROFS):
		return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
	case errors.Is(err, unix.EBADF):
		return driver.ErrClosed
	case errors.Is(err, unix.EMLINK), errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG):
		return driver.Errorf(driver.ErrInvalid, "%v", err)
	}
	return translateErrno(err)
}

// translateErrno is translateError for the errors of the host alone.
func translateErrno(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		if kind := driver.FromErrno(errno); kind != errno {
			return kind
		}
	}
	return err
}

// errVolumeRemoved returns ErrNotFound for a volume that was removed while it was open.
func errVolumeRemoved() error {
	return driver.Errorf(driver.ErrNotFound, "the volume has been removed")
}
