//go:build unix && !linux

package local

import "github.com/volehq/vole/driver"

// BindReadOnly needs Linux.
func BindReadOnly(string, string) (at string, undo func() error, err error) {
	return "", nil, driver.Errorf(driver.ErrUnsupported, "read-only views of volumes need Linux")
}

// sweepBinds does nothing: this system has no such views.
func sweepBinds() {}
