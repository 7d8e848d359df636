//go:build unix

package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// mkdirInheriting makes a directory. What root makes gets the owner of the directory above, who
// may run the program without root and would be locked out of root's files. That owner may also
// exchange names at any moment: so all is done within the directory above as it was opened.
func mkdirInheriting(path string) error {
	return withinParent(path, func(parent *os.Root, name string) error {
		if err := parent.Mkdir(name, 0o700); err != nil || os.Geteuid() != 0 {
			return err
		}
		d, err := parent.Open(name)
		if err != nil {
			return err
		}
		defer d.Close()
		// One with entries may be another one of root's, which took the new one's place; or
		// another process uses the new one already. It stays root's.
		if _, err := d.Readdirnames(1); err != io.EOF {
			return err
		}
		return inheritOwner(parent, d)
	})
}

// createInheriting makes an empty file, whose owner is that of mkdirInheriting.
func createInheriting(path string) error {
	return withinParent(path, func(parent *os.Root, name string) error {
		f, err := parent.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(inheritOwner(parent, f), f.Close())
	})
}

// withinParent opens the directory above path and calls fn with it. Errors name the whole path.
func withinParent(path string, fn func(parent *os.Root, name string) error) error {
	parent, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	err = fn(parent, filepath.Base(path))
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return &os.PathError{Op: strings.TrimSuffix(pe.Op, "at"), Path: path, Err: pe.Err}
	}
	return err
}

// inheritOwner gives a file that root has made in parent the owner of parent.
func inheritOwner(parent *os.Root, f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := parent.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
