package local

import (
	"context"
	"os"

	"github.com/volehq/vole/driver"
)

func noXattrs() error {
	return driver.Errorf(driver.ErrUnsupported, "extended attributes are available on Linux")
}

// Getxattr implements driver.FS.
func (f *fileSystem) Getxattr(ctx context.Context, name, attr string) ([]byte, error) {
	return nil, noXattrs()
}

// Listxattr implements driver.FS.
func (f *fileSystem) Listxattr(ctx context.Context, name string) ([]string, error) {
	return nil, noXattrs()
}

// Setxattr implements driver.FS.
func (f *fileSystem) Setxattr(ctx context.Context, name, attr string, value []byte) error {
	return noXattrs()
}

// Removexattr implements driver.FS.
func (f *fileSystem) Removexattr(ctx context.Context, name, attr string) error { return noXattrs() }

// xattrs stands for the attributes of a node, which are not copied here.
type xattrs struct{}

func linkXattrs(place) xattrs    { return xattrs{} }
func openXattrs(*os.File) xattrs { return xattrs{} }

func holdsNoXattrs(int) bool { return false }

func copyXattrs(xattrs, place) error { return nil }
