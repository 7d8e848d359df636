// Package durable makes changes of the file system survive a power cut.
package durable

import (
	"os"

	"github.com/volehq/vole/internal/fault"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(path string) error {
	return fault.Do("fsync", path, func() error {
		d, err := os.Open(path)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	})
}

// Sync makes an open file, or the entries of an open directory, durable.
func Sync(f *os.File) error { return fault.Do("fsync", f.Name(), f.Sync) }
