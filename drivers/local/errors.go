//go:build unix

package local

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/catalog"
)

// errPathEscapes is the error with which os.Root refuses to leave its directory. Package os does
// not export it, so it is taken from a call that must be refused.
var errPathEscapes = sync.OnceValue(func() error {
	r, err := os.OpenRoot("/")
	if err != nil {
		return nil
	}
	defer r.Close()
	_, err = r.Lstat("..")
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return nil
})

// translateHomeError is translateError for the errors of making and opening a home. It keeps the
// text of the system's error: a part of the home's path may be the cause.
func translateHomeError(err error) error {
	kind := translateError(err)
	if errors.As(err, new(syscall.Errno)) && !errors.As(kind, new(syscall.Errno)) && kind != err {
		return driver.Errorf(kind, "%v", err)
	}
	return kind
}

// translateError turns an error of the operating system, of os.Root or of SQLite into one that
// matches a sentinel of driver. Errors that match one already, and io.EOF, stay as they are.
func translateError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if e := errPathEscapes(); e != nil && errors.Is(err, e) {
		return driver.Errorf(driver.ErrPathEscape, "a symbolic link on the way leads out of the volume")
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return catalog.Translate(err)
	}
	if kind := driver.FromErrno(errno); kind != errno {
		return kind
	}
	return err
}
