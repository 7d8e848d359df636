//go:build !linux

package loop

import (
	"errors"
	"os"
)

// Of returns nothing: this system has no loop devices.
func Of(*os.File) []Device { return nil }

// Attach returns an error that matches errors.ErrUnsupported.
func Attach(*os.File, bool) (*os.File, error) { return nil, errors.ErrUnsupported }
