//go:build unix

// Package nofollow changes the attributes of a named file, never of the target of a symbolic
// link of that name. A name is looked up once: a user who may write to the directory
// can put something else in its place at any time, so a check and a change by name are two
// different things. Everything that changes modes, owners or times by name goes through
// this package; a test of the architecture holds that.
package nofollow

import (
	"io/fs"

	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// Chmod sets the mode bits of what is at a name in the open directory dir
// (unix.AT_FDCWD: name is a path, of which only the last element is not followed). On
// Linux a symbolic link is ENOTSUP.
func Chmod(dir int, name string, mode uint32) error {
	if done, err := chmodInOneCall(dir, name, mode); done {
		return err
	}
	n, err := Open(dir, name)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Chmod(mode)
}

// ChmodPath is os.Chmod without following a link that path names.
func ChmodPath(path string, mode fs.FileMode) error {
	if err := Chmod(unix.AT_FDCWD, path, filemode.Perm(mode)); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}
