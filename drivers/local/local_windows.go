package local

import (
	"context"

	"github.com/volehq/vole/driver"
)

// Backend is never open on this system: Open fails.
type Backend struct{ driver.Backend }

// Open returns ErrUnsupported: volumes are kept on Linux and macOS.
func Open(context.Context, string, Options) (*Backend, error) { return nil, errNoHome() }

func errNoHome() error {
	return driver.Errorf(driver.ErrUnsupported, "volumes cannot be kept on Windows; use those of a server ('vole login URL'), or run vole in WSL")
}

// CheckOwner returns the error of Open.
func CheckOwner(string, bool) error { return errNoHome() }

// BindReadOnly returns the error of Open.
func BindReadOnly(string, string) (at string, undo func() error, err error) {
	return "", nil, errNoHome()
}
