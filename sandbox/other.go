//go:build !linux

package sandbox

import (
	"context"
	"io"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Init does nothing here.
func Init() {}

// Manager runs and finds the sandboxes of one home. On this system it cannot be had.
type Manager struct{}

func unsupported(op string) error {
	return &vole.Error{Op: op, Err: driver.Errorf(vole.ErrUnsupported, "sandboxes need Linux")}
}

// Open returns ErrUnsupported.
func Open(context.Context, string, *vole.Store) (*Manager, error) {
	return nil, unsupported("open sandboxes")
}

// Close returns ErrUnsupported, as all methods do here.
func (*Manager) Close() error { return unsupported("close sandboxes") }

// Run returns ErrUnsupported.
func (*Manager) Run(context.Context, Config, IO) (Result, error) {
	return Result{}, unsupported("run")
}

// Start returns ErrUnsupported.
func (*Manager) Start(context.Context, Config) (Info, error) { return Info{}, unsupported("run") }

// List returns ErrUnsupported.
func (*Manager) List(context.Context, bool) ([]Info, error) {
	return nil, unsupported("list sandboxes")
}

// Get returns ErrUnsupported.
func (*Manager) Get(context.Context, string) (Info, error) {
	return Info{}, unsupported("get sandbox")
}

// Reap returns ErrUnsupported.
func (*Manager) Reap(context.Context) error { return unsupported("clean up sandboxes") }

// Pause returns ErrUnsupported.
func (*Manager) Pause(context.Context, string) error { return unsupported("pause") }

// Resume returns ErrUnsupported.
func (*Manager) Resume(context.Context, string) error { return unsupported("resume") }

// Stop returns ErrUnsupported.
func (*Manager) Stop(context.Context, string, time.Duration) error { return unsupported("stop") }

// Remove returns ErrUnsupported.
func (*Manager) Remove(context.Context, string) error { return unsupported("remove sandbox") }

// RemoveFiles returns ErrUnsupported.
func (*Manager) RemoveFiles(context.Context, string) error {
	return unsupported("remove files of a volume")
}

// Images returns ErrUnsupported.
func (*Manager) Images(context.Context) ([]ImageInfo, error) {
	return nil, unsupported("list images")
}

// RemoveImage returns ErrUnsupported.
func (*Manager) RemoveImage(context.Context, string) error { return unsupported("remove image") }

// RemoveImages returns ErrUnsupported.
func (*Manager) RemoveImages(context.Context) ([]ImageInfo, error) {
	return nil, unsupported("remove images")
}

// Logs returns ErrUnsupported.
func (*Manager) Logs(context.Context, string, io.Writer, bool) error { return unsupported("logs") }
