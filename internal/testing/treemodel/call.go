package treemodel

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"

	"github.com/volehq/vole"
)

// Call is one operation on a volume, and what the model expects of it.
type Call struct {
	Op   string // which operation, for counts
	Args string // on what
	Plan Plan
	// Run makes the call. It also returns an error if the result differs from the model.
	Run func() error
}

func (c Call) String() string { return c.Op + " " + c.Args }

// Calls makes calls on an open volume whose content a model has.
type Calls struct {
	Ctx   context.Context
	Model *Model
	FS    *vole.FS
}

// WriteFile writes a whole file.
func (c Calls) WriteFile(p string, data []byte, opts vole.WriteOptions) Call {
	what := fmt.Sprintf("%d bytes to %s, mode %v, exclusive %v, size %d", len(data), p, opts.Mode, opts.Exclusive, opts.Size)
	return Call{"write", what, c.Model.planWriteFile(p, data, opts.Mode, opts.Exclusive), func() error {
		_, err := c.FS.WriteFrom(c.Ctx, p, bytes.NewReader(data), opts)
		return err
	}}
}

// Mkdir creates a directory.
func (c Calls) Mkdir(p string, mode fs.FileMode) Call {
	return Call{"mkdir", p, c.Model.planCreate(p, fs.ModeDir|mode, ""), func() error { return c.FS.Mkdir(c.Ctx, p, mode) }}
}

// MkdirAll creates a directory and its parents.
func (c Calls) MkdirAll(p string, mode fs.FileMode) Call {
	return Call{"mkdirall", p, c.Model.planMkdirAll(p, mode), func() error { return c.FS.MkdirAll(c.Ctx, p, mode) }}
}

// Remove removes a file or an empty directory.
func (c Calls) Remove(p string) Call {
	return Call{"remove", p, c.Model.planRemove(p), func() error { return c.FS.Remove(c.Ctx, p) }}
}

// RemoveAll removes a tree.
func (c Calls) RemoveAll(p string) Call {
	return Call{"removeall", p, c.Model.planRemoveAll(p), func() error { return c.FS.RemoveAll(c.Ctx, p) }}
}

// Rename renames a file or directory.
func (c Calls) Rename(from, to string, noReplace bool) Call {
	return Call{"rename", describeMove(from, to, noReplace), c.Model.planRename(from, to, noReplace), func() error {
		return c.FS.Rename(c.Ctx, from, to, vole.RenameOptions{NoReplace: noReplace})
	}}
}

// Copy copies a file or a tree.
func (c Calls) Copy(from, to string, noReplace bool) Call {
	return Call{"copy", describeMove(from, to, noReplace), c.Model.planCopy(from, to, noReplace), func() error {
		return c.FS.Copy(c.Ctx, from, to, vole.CopyOptions{NoReplace: noReplace})
	}}
}

func describeMove(from, to string, noReplace bool) string {
	return fmt.Sprintf("%s to %s, keep %v", from, to, noReplace)
}

// Link gives a file another name.
func (c Calls) Link(target, p string) Call {
	return Call{"link", target + " as " + p, c.Model.planLink(target, p), func() error { return c.FS.Link(c.Ctx, target, p) }}
}

// Symlink creates a symbolic link.
func (c Calls) Symlink(target, p string) Call {
	return Call{"symlink", p + " to " + target, c.Model.planCreate(p, fs.ModeSymlink|0o777, target), func() error {
		return c.FS.Symlink(c.Ctx, target, p)
	}}
}

// Mkfifo creates a named pipe.
func (c Calls) Mkfifo(p string) Call {
	const mode = fs.ModeNamedPipe | 0o600
	return Call{"mkfifo", p, c.Model.planCreate(p, mode, ""), func() error { return c.FS.Mknod(c.Ctx, p, mode, 0) }}
}

// Chmod changes the mode.
func (c Calls) Chmod(p string, mode fs.FileMode) Call {
	return Call{"chmod", fmt.Sprintf("%s to %v", p, mode), c.Model.planChmod(p, mode), func() error { return c.FS.Chmod(c.Ctx, p, mode) }}
}

// Truncate sets the size of a file.
func (c Calls) Truncate(p string, size int) Call {
	return Call{"truncate", fmt.Sprintf("%s to %d", p, size), c.Model.planTruncate(p, size), func() error {
		return c.FS.Truncate(c.Ctx, p, int64(size))
	}}
}

// Setxattr sets an attribute.
func (c Calls) Setxattr(p, name, value string) Call {
	return Call{"setxattr", name + " of " + p, c.Model.planSetXattr(p, name, value), func() error {
		return c.FS.Setxattr(c.Ctx, p, name, []byte(value))
	}}
}

// Removexattr removes an attribute.
func (c Calls) Removexattr(p, name string) Call {
	return Call{"removexattr", name + " of " + p, c.Model.planRemoveXattr(p, name), func() error { return c.FS.Removexattr(c.Ctx, p, name) }}
}

// Open opens a file. The handle is complete once the call has succeeded and its plan is
// applied.
func (c Calls) Open(p string, opts vole.OpenOptions) (Call, *Handle) {
	c.Model.opened++
	h := &Handle{id: c.Model.opened}
	return Call{"open", fmt.Sprintf("%s with %+v", p, opts), c.Model.planOpen(p, opts, &h.Inode), func() (err error) {
		h.File, err = c.FS.Open(c.Ctx, p, opts)
		return err
	}}, h
}

// Stat looks at a path, and compares what is there with the model.
func (c Calls) Stat(p string, follow bool) Call {
	n, err := c.Model.Find(p, follow)
	op, stat := "lstat", c.FS.Lstat
	if follow {
		op, stat = "stat", c.FS.Stat
	}
	return Call{op, p, failOr(err, nil), func() error {
		e, err := stat(c.Ctx, p)
		if err != nil || n == nil || n.isSymlink() && !c.Model.opts.Exact { // the mode of a link is left open
			return err
		}
		if e.Mode != n.Mode || n.isRegular() && e.Size != int64(len(n.Data)) || !n.IsDir() && int(e.Nlink) != n.Nlink {
			return fmt.Errorf("%v of %d bytes with %d names, want %v of %d with %d", e.Mode, e.Size, e.Nlink, n.Mode, len(n.Data), n.Nlink)
		}
		return nil
	}}
}

// ReadFile reads a whole file, and compares its content.
func (c Calls) ReadFile(p string) Call {
	n, err := c.Model.findRegular(p)
	return Call{"read file", p, failOr(err, nil), func() error {
		b, err := c.FS.ReadFile(c.Ctx, p)
		if err == nil && n != nil && !bytes.Equal(b, n.Data) {
			return fmt.Errorf("%d bytes, want %d; first difference at %d", len(b), len(n.Data), FirstDifference(b, n.Data))
		}
		return err
	}}
}
