// Package durable makes changes of the file system survive a power cut.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(path string) error { return syncDir(path) }

// WriteFile replaces the content of the file at path: a reader, or a crash, finds the old
// content or all of the new. The file gets the given mode regardless of the umask. fs.ErrExist:
// path exists and is not a regular file, a device for example; that is not replaced.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return &os.PathError{Op: "write", Path: path, Err: fmt.Errorf("it exists and is not a regular file: %w", os.ErrExist)}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
