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

// Manager is never open on this system: Open fails.
type Manager struct{ manager }

// manager has the methods of Manager.
type manager interface {
	Close() error
	Run(context.Context, Config, IO) (Result, error)
	Start(context.Context, Config) (Info, error)
	List(context.Context, bool) ([]Info, error)
	Get(context.Context, string) (Info, error)
	Reap(context.Context) error
	Pause(context.Context, string) error
	Resume(context.Context, string) error
	Stop(context.Context, string, time.Duration) error
	Remove(context.Context, string) error
	RemoveFiles(context.Context, string) error
	Images(context.Context) ([]ImageInfo, error)
	RemoveImage(context.Context, string) error
	RemoveImages(context.Context) ([]ImageInfo, error)
	Logs(context.Context, string, io.Writer, bool) error
}

// Open returns ErrUnsupported.
func Open(context.Context, string, *vole.Store) (*Manager, error) {
	return nil, &vole.Error{Op: "open sandboxes", Err: driver.Errorf(vole.ErrUnsupported, "sandboxes need Linux")}
}
