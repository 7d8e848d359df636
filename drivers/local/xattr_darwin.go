package local

import (
	"context"
	"os"

	"github.com/volehq/vole/driver"
)

func errNoXattrs() error {
	return driver.Errorf(driver.ErrUnsupported, "extended attributes are available on Linux")
}

// Getxattr implements driver.FS.
func (f *volumeFS) Getxattr(ctx context.Context, name, attr string) ([]byte, error) {
	return nil, errNoXattrs()
}

// Listxattr implements driver.FS.
func (f *volumeFS) Listxattr(ctx context.Context, name string) ([]string, error) {
	return nil, errNoXattrs()
}

// Setxattr implements driver.FS.
func (f *volumeFS) Setxattr(ctx context.Context, name, attr string, value []byte) error {
	return errNoXattrs()
}

// Removexattr implements driver.FS.
func (f *volumeFS) Removexattr(ctx context.Context, name, attr string) error { return errNoXattrs() }

// xattrs stands for the attributes of a node, which are not copied here.
type xattrs struct{}

func linkXattrs(resolved) xattrs { return xattrs{} }
func openXattrs(*os.File) xattrs { return xattrs{} }

func holdsNoXattrs(int) bool { return false }

func copyXattrs(xattrs, resolved) error { return nil }
