package catalog

import (
	"os"

	"github.com/volehq/vole/driver"
)

// locateDatabase returns the location of the database at path. ErrUnsupported: it is to be beneath
// an open directory.
func locateDatabase(path string, dir *os.File) (location, error) {
	if dir != nil {
		return location{}, driver.Errorf(driver.ErrUnsupported, "files are not opened beneath a directory on Windows")
	}
	return location{path: path}, nil
}
