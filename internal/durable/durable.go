// Package durable makes changes of the file system survive a power cut.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// MkdirAll is os.MkdirAll with mode 0700 that makes each directory durable.
func MkdirAll(path string) error {
	return mkdirAll(path, func(dir string) error { return os.Mkdir(dir, 0o700) })
}

// mkdirAll is MkdirAll that makes each directory by mkdir.
func mkdirAll(path string, mkdir func(dir string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := mkdirAll(parent, mkdir); err != nil {
			return err
		}
	}
	if err := mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// CreatePrivate makes an empty file, with mode 0600, unless one exists, and the directories above
// it, with mode 0700. What root makes gets the owner of the directory that it is made in.
// fs.ErrNotExist: a link stands there that leads to nothing.
func CreatePrivate(path string) error {
	if err := mkdirAll(filepath.Dir(path), mkdirInheriting); err != nil {
		return err
	}
	err := createInheriting(path)
	if errors.Is(err, fs.ErrExist) {
		_, err = os.Stat(path) // opening a dangling link would make a file with other rights
		return err
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

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
