// Package beneath opens what lies beneath an open directory, by paths relative to it.
// On Windows, where nothing is kept in directories, it opens nothing.
package beneath

import (
	"errors"
	"io/fs"
	"os"
)

// OpenFile returns errors.ErrUnsupported.
func OpenFile(*os.File, string, int, uint32) (*os.File, error) { return nil, errors.ErrUnsupported }

// Lstat returns errors.ErrUnsupported.
func Lstat(*os.File, string) (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
