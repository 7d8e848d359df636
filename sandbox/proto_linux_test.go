package sandbox

import (
	"context"
	"errors"
	"testing"

	"github.com/volehq/vole/driver"
)

// An error keeps its kind, its message and the exit code of the command on its way to
// another process.
func TestErrorsCrossProcesses(t *testing.T) {
	for _, kind := range []error{
		driver.ErrNotFound, driver.ErrNoSuch, driver.ErrExists, driver.ErrInUse, driver.ErrInvalid, driver.ErrUnsupported, driver.ErrQuota,
		driver.ErrNoSpace, driver.ErrPermission, driver.ErrReadOnly, driver.ErrClosed, driver.ErrCorrupt, driver.ErrPathEscape, driver.ErrNotExist,
		driver.ErrNotDir, driver.ErrIsDir, driver.ErrNotEmpty, driver.ErrLoop, driver.ErrNoXattr, driver.ErrUnavailable,
		context.Canceled, context.DeadlineExceeded,
	} {
		got := encodeError(driver.Errorf(kind, "what happened")).decodeError()
		if !errors.Is(got, kind) || got.Error() != "what happened" {
			t.Errorf("%v arrives as %v", kind, got)
		}
	}
	if got := encodeError(errors.New("of no kind")).decodeError(); driver.Classify(got).Code != "internal" || got.Error() != "of no kind" {
		t.Errorf("an error of no kind arrives as %v", got)
	}
	var exec *ExecError
	if got := encodeError(&ExecError{ExitCode: 127, Err: driver.ErrNotExist}).decodeError(); !errors.As(got, &exec) || exec.ExitCode != 127 || !errors.Is(got, driver.ErrNotExist) {
		t.Errorf("an error of the command arrives as %v", got)
	}
	if got := encodeError(nil).decodeError(); got != nil {
		t.Errorf("no error arrives as %v", got)
	}
}
