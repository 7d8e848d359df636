package vole

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
)

// FS is the files of one open volume. driver.FS states how each operation treats
// links, durability and the quota; the methods here check and clean every path first.
// A path is slash-separated; a leading slash means the volume's root, as none does;
// a ".." element is ErrPathEscape.
type FS struct {
	d   driver.FS
	vol *Volume

	takesMeta bool // Caps.WriteMeta
}

// Volume is the volume whose files these are.
func (f *FS) Volume() *Volume { return f.vol }

// runOnPath cleans path, runs fn on it and wraps its error. invalid is what is wrong with the
// other arguments, nil if nothing is: then fn does not run.
func (f *FS) runOnPath(ctx context.Context, op, path string, invalid error, fn func(p string) error) error {
	p, err := cleanVolumePath(ctx, path)
	if err = cmp.Or(err, invalid); err == nil {
		err = fn(p)
	}
	return f.vol.wrapError(op, path, err)
}

// valueOnPath is runOnPath for what returns a value.
func valueOnPath[T any](ctx context.Context, f *FS, op, path string, invalid error, fn func(p string) (T, error)) (value T, err error) {
	err = f.runOnPath(ctx, op, path, invalid, func(p string) error {
		value, err = fn(p)
		return err
	})
	return value, err
}

// runOnTwoPaths is runOnPath for two paths; an error names the second, unless the first is at fault.
func (f *FS) runOnTwoPaths(ctx context.Context, op, from, to string, fn func(from, to string) error) error {
	a, err := cleanVolumePath(ctx, from)
	if err != nil {
		return f.vol.wrapError(op, from, err)
	}
	b, err := cleanVolumePath(ctx, to)
	if err == nil {
		err = fn(a, b)
	}
	return f.vol.wrapError(op, from+" to "+driver.RootedPath(to), err)
}

// cleanVolumePath brings a path into the form that drivers take, unless ctx is done.
func cleanVolumePath(ctx context.Context, path string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return driver.CleanPath(path)
}

// Stat describes what path leads to.
func (f *FS) Stat(ctx context.Context, path string) (Entry, error) {
	return valueOnPath(ctx, f, "stat", path, nil, func(p string) (Entry, error) { return f.d.Stat(ctx, p) })
}

// Lstat describes what is at path, a symbolic link included.
func (f *FS) Lstat(ctx context.Context, path string) (Entry, error) {
	return valueOnPath(ctx, f, "lstat", path, nil, func(p string) (Entry, error) { return f.d.Lstat(ctx, p) })
}

// Exists reports whether something is at path, a dangling link included.
func (f *FS) Exists(ctx context.Context, path string) (bool, error) {
	_, err := f.Lstat(ctx, path)
	if errors.Is(err, ErrNotExist) || errors.Is(err, ErrNotDir) {
		return false, nil
	}
	return err == nil, err
}

// Readlink returns the target of a symbolic link as it was written.
func (f *FS) Readlink(ctx context.Context, path string) (string, error) {
	return valueOnPath(ctx, f, "readlink", path, nil, func(p string) (string, error) { return f.d.Readlink(ctx, p) })
}

// ReadDir returns a directory's entries, sorted by name.
func (f *FS) ReadDir(ctx context.Context, path string) (list []Entry, err error) {
	d, err := f.OpenDir(ctx, path, DirOptions{Sorted: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for {
		part, err := d.Read(ctx, dirBatch)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
	}
}

// Entries yields a directory's entries in no order, in bounded memory.
func (f *FS) Entries(ctx context.Context, path string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		d, err := f.OpenDir(ctx, path, DirOptions{})
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer d.Close()
		for {
			list, err := d.Read(ctx, dirBatch)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(Entry{}, err)
				}
				return
			}
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// dirBatch is how many entries are asked for at once.
const dirBatch = 512

// OpenDir opens a directory as a stream of entries.
func (f *FS) OpenDir(ctx context.Context, path string, opts DirOptions) (d *Dir, err error) {
	err = f.runOnPath(ctx, "list", path, nil, func(p string) error {
		dd, err := f.d.OpenDir(ctx, p, opts)
		d = &Dir{d: dd, vol: f.vol, path: path}
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// ReadFile returns what a file holds. For large files use NewReader.
func (f *FS) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return valueOnPath(ctx, f, "read", path, nil, func(p string) ([]byte, error) {
		h, err := f.d.Open(ctx, p, OpenOptions{})
		if err != nil {
			return nil, err
		}
		defer h.Close()
		return readAllBounded(ctx, h)
	})
}

// readAllBounded reads a file to its end, which may move while it is read.
func readAllBounded(ctx context.Context, h driver.File) ([]byte, error) {
	// Most files are small, and asking for the size may be a round trip.
	buf := make([]byte, 8<<10)
	n := 0
	for {
		m, err := h.ReadAt(ctx, buf[n:], int64(n))
		n += m
		if errors.Is(err, io.EOF) {
			return buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
		if n < len(buf) {
			continue
		}
		grow := int64(n)
		if n == 8<<10 {
			e, err := h.Stat(ctx)
			if err != nil {
				return nil, err
			}
			// One byte more than the size shows the end without growing. A size is only
			// believed up to 1 MiB before the bytes have come: sparse files claim any.
			grow = max(min(e.Size, 1<<20)-int64(n), 0) + 1
		}
		buf = append(make([]byte, 0, int64(n)+grow), buf...)[:int64(n)+grow]
	}
}

// WriteFile replaces the file at path by data, making missing parents. Others see
// the old file or the new, whole. A symbolic link at path is replaced, not followed.
func (f *FS) WriteFile(ctx context.Context, path string, data []byte, perm fs.FileMode) error {
	_, err := f.WriteFrom(ctx, path, bytes.NewReader(data), WriteOptions{Mode: perm, Size: int64(len(data))})
	return err
}

// WriteFrom is WriteFile for a stream: it writes what r yields until io.EOF and
// returns how much that was. When r fails, nothing changes. With opts.NextData it
// writes a sparse file.
func (f *FS) WriteFrom(ctx context.Context, path string, r io.Reader, opts WriteOptions) (n int64, err error) {
	return valueOnPath(ctx, f, "write", path, checkMode(opts.Mode), func(p string) (int64, error) {
		if opts.NextData != nil {
			if err := refuseNegative("size", opts.Size); err != nil {
				return 0, err
			}
			opts.NextData = checkAscending(opts.Size, opts.NextData)
		}
		if opts.Meta != nil {
			return f.writeMetadata(ctx, p, r, opts)
		}
		return f.d.WriteFile(ctx, p, r, opts)
	})
}

// refuseNegative refuses a negative offset, size or number.
func refuseNegative(what string, n int64) error {
	if n < 0 {
		return driver.Errorf(ErrInvalid, "%s %d: must not be negative", what, n)
	}
	return nil
}

// writeMetadata writes a file with metadata: in one call, or in several where the backend has
// none for it.
func (f *FS) writeMetadata(ctx context.Context, p string, r io.Reader, opts WriteOptions) (int64, error) {
	m := opts.Meta
	if err := errors.Join(checkMode(m.Mode), checkOwner(m.UID, m.GID), checkTimes(m.Mtime)); err != nil {
		return 0, err
	}
	if f.takesMeta {
		return f.d.WriteFile(ctx, p, r, opts)
	}
	owner := m.UID >= 0 || m.GID >= 0
	opts.Mode, opts.Meta = m.Mode, nil
	if owner { // which setuid and rights of the group are for
		opts.Mode = m.Mode.Perm() & 0o700
	}
	if opts.Mode == 0 { // which is a default in the options
		opts.Mode = 0o200
	}
	n, err := f.d.WriteFile(ctx, p, r, opts)
	if err == nil && owner { // before the mode: a change of owner clears setuid
		err = f.d.Chown(ctx, p, m.UID, m.GID)
	}
	if err == nil && (owner || opts.Mode != m.Mode) {
		err = f.d.Chmod(ctx, p, m.Mode)
	}
	if err == nil && !m.Mtime.IsZero() {
		err = f.d.Chtimes(ctx, p, m.Mtime, m.Mtime)
	}
	return n, err
}

// checkAscending checks the ranges that next returns, of a file of size bytes, so that a
// driver need not.
func checkAscending(size int64, next func(ctx context.Context) (off, n int64, err error)) func(ctx context.Context) (off, n int64, err error) {
	at := int64(0)
	return func(ctx context.Context) (off, n int64, err error) {
		if off, n, err = next(ctx); err != nil {
			return 0, 0, err
		}
		if off < at || n < 0 || off > size || n > size-off {
			return 0, 0, driver.Errorf(ErrInvalid, "a range of %d bytes at %d: ranges must ascend, and end within the file's %d bytes", n, off, size)
		}
		at = off + n
		return off, n, nil
	}
}

// NewReader streams n bytes of a file from offset off; n < 0 means to its end. A range
// beyond the end yields what there is.
func (f *FS) NewReader(ctx context.Context, path string, off, n int64) (*Reader, error) {
	if err := refuseNegative("offset", off); err != nil {
		return nil, f.vol.wrapError("read", path, err)
	}
	h, err := f.Open(ctx, path, OpenOptions{})
	if err != nil {
		return nil, err
	}
	return h.NewReader(ctx, off, n), nil
}

// Open opens a regular file; the zero options read an existing one.
func (f *FS) Open(ctx context.Context, path string, opts OpenOptions) (h *File, err error) {
	opts.Write = opts.Write || opts.Create || opts.Append
	err = f.runOnPath(ctx, "open", path, checkMode(opts.Mode), func(p string) error {
		if opts.Exclusive && !opts.Create || opts.Truncate && !opts.Write {
			return driver.Errorf(ErrInvalid, "Exclusive needs Create, and Truncate needs Write")
		}
		d, err := f.d.Open(ctx, p, opts)
		h = &File{d: d, vol: f.vol, path: path}
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// OpenEntry opens the regular file at path for reading and describes what it opened. It
// follows no link. A copy of a tree saves by it the Lstat before each Open.
func (f *FS) OpenEntry(ctx context.Context, path string) (h *File, e Entry, err error) {
	err = f.runOnPath(ctx, "open", path, nil, func(p string) error {
		d, entry, err := f.d.OpenEntry(ctx, p)
		h, e = &File{d: d, vol: f.vol, path: path}, entry
		return err
	})
	if err != nil {
		return nil, Entry{}, err
	}
	return h, e, nil
}

// Mkdir makes a directory. ErrExists.
func (f *FS) Mkdir(ctx context.Context, path string, perm fs.FileMode) error {
	return f.runOnPath(ctx, "mkdir", path, checkMode(perm), func(p string) error { return f.d.Mkdir(ctx, p, perm) })
}

// MkdirAll makes a directory and its missing parents.
func (f *FS) MkdirAll(ctx context.Context, path string, perm fs.FileMode) error {
	return f.runOnPath(ctx, "mkdir", path, checkMode(perm), func(p string) error { return f.d.MkdirAll(ctx, p, perm) })
}

// Remove removes a file, a link or an empty directory.
func (f *FS) Remove(ctx context.Context, path string) error {
	return f.runOnPath(ctx, "remove", path, nil, func(p string) error {
		if err := refuseRoot(p); err != nil {
			return err
		}
		return f.d.Remove(ctx, p)
	})
}

// RemoveAll removes path and what is beneath it; nil when it does not exist.
func (f *FS) RemoveAll(ctx context.Context, path string) error {
	return f.runOnPath(ctx, "remove", path, nil, func(p string) error {
		if err := refuseRoot(p); err != nil {
			return err
		}
		return f.d.RemoveAll(ctx, p)
	})
}

// refuseRoot refuses the volume's root for operations that replace or remove a name.
func refuseRoot(p string) error {
	if p == "." {
		return driver.Errorf(ErrInvalid, "the volume's root cannot be removed, replaced or moved; name something in it, or remove the volume")
	}
	return nil
}

// Rename moves a file or a tree, replacing what is at to as rename(2) does.
func (f *FS) Rename(ctx context.Context, from, to string, opts RenameOptions) error {
	return f.runOnTwoPaths(ctx, "rename", from, to, func(a, b string) error {
		if err := errors.Join(refuseRoot(a), refuseRoot(b)); err != nil {
			return err
		}
		return f.d.Rename(ctx, a, b, opts)
	})
}

// Copy copies a file, a link or a tree within the volume.
func (f *FS) Copy(ctx context.Context, from, to string, opts CopyOptions) error {
	return f.runOnTwoPaths(ctx, "copy", from, to, func(a, b string) error {
		if err := refuseRoot(b); err != nil {
			return err
		}
		return f.d.Copy(ctx, a, b, opts)
	})
}

// Link makes path another name of the file at target.
func (f *FS) Link(ctx context.Context, target, path string) error {
	return f.runOnTwoPaths(ctx, "link", target, path, func(a, b string) error { return f.d.Link(ctx, a, b) })
}

// Symlink makes a symbolic link at path that holds target, which is not checked:
// following it is what is bounded by the volume.
func (f *FS) Symlink(ctx context.Context, target, path string) error {
	return f.runOnPath(ctx, "symlink", path, nil, func(p string) error {
		if target == "" || len(target) > driver.MaxPathLen || strings.IndexByte(target, 0) >= 0 {
			return driver.Errorf(ErrInvalid, "link target %q: 1 to %d bytes without NUL", target, driver.MaxPathLen)
		}
		return f.d.Symlink(ctx, target, p)
	})
}

// Mknod makes a fifo, a socket or a device.
func (f *FS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	invalid := checkMode(mode &^ fs.ModeType)
	return f.runOnPath(ctx, "mknod", path, invalid, func(p string) error { return f.d.Mknod(ctx, p, mode, rdev) })
}

// Chmod sets permission, setuid, setgid and sticky bits of what path leads to.
func (f *FS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runOnPath(ctx, "chmod", path, checkMode(mode), func(p string) error { return f.d.Chmod(ctx, p, mode) })
}

// Chown sets the owner of what is at path; -1 keeps one.
func (f *FS) Chown(ctx context.Context, path string, uid, gid int) error {
	return f.runOnPath(ctx, "chown", path, checkOwner(uid, gid), func(p string) error { return f.d.Chown(ctx, p, uid, gid) })
}

// checkOwner checks ids of Chown.
func checkOwner(uid, gid int) error {
	// 1<<32-1 is the kernel's own "keep".
	if uid < -1 || gid < -1 || int64(uid) >= 1<<32-1 || int64(gid) >= 1<<32-1 {
		return driver.Errorf(ErrInvalid, "owner %d:%d: ids are 0 to 4294967294, or -1 to keep one", uid, gid)
	}
	return nil
}

// Chtimes sets the times of what is at path; a zero time stays as it is.
func (f *FS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	invalid := checkTimes(atime, mtime)
	return f.runOnPath(ctx, "chtimes", path, invalid, func(p string) error { return f.d.Chtimes(ctx, p, atime, mtime) })
}

// checkTimes refuses years that a driver could not keep.
func checkTimes(times ...time.Time) error {
	for _, t := range times {
		// RFC 3339 and JSON have no other years; some file systems do.
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			return driver.Errorf(ErrInvalid, "a time in the year %d: years 1 to 9999 can be kept", y)
		}
	}
	return nil
}

// Truncate sets a regular file's size, in bytes.
func (f *FS) Truncate(ctx context.Context, path string, size int64) error {
	invalid := refuseNegative("size", size)
	return f.runOnPath(ctx, "truncate", path, invalid, func(p string) error { return f.d.Truncate(ctx, p, size) })
}

// Getxattr returns an extended attribute of what is at path.
func (f *FS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	invalid := checkXattrName(name, nil)
	return valueOnPath(ctx, f, "getxattr", path, invalid, func(p string) ([]byte, error) { return f.d.Getxattr(ctx, p, name) })
}

// Setxattr sets an extended attribute, of up to 64 KiB.
func (f *FS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	invalid := checkXattrName(name, value)
	return f.runOnPath(ctx, "setxattr", path, invalid, func(p string) error { return f.d.Setxattr(ctx, p, name, value) })
}

// Removexattr removes an extended attribute.
func (f *FS) Removexattr(ctx context.Context, path, name string) error {
	invalid := checkXattrName(name, nil)
	return f.runOnPath(ctx, "removexattr", path, invalid, func(p string) error { return f.d.Removexattr(ctx, p, name) })
}

// Listxattr returns the names of the extended attributes, sorted.
func (f *FS) Listxattr(ctx context.Context, path string) ([]string, error) {
	return valueOnPath(ctx, f, "listxattr", path, nil, func(p string) ([]string, error) { return f.d.Listxattr(ctx, p) })
}

// Statfs tells the volume's size and what is free.
func (f *FS) Statfs(ctx context.Context) (Statfs, error) {
	return valueOnPath(ctx, f, "statfs", ".", nil, func(string) (Statfs, error) { return f.d.Statfs(ctx) })
}

// Sync makes everything done through f durable.
func (f *FS) Sync(ctx context.Context) error {
	return f.runOnPath(ctx, "sync", ".", nil, func(string) error { return f.d.Sync(ctx) })
}

// Close syncs and closes. Closing twice does nothing.
func (f *FS) Close() error { return f.vol.wrapError("close", "", f.d.Close()) }

// modeBits are the bits of a mode that can be set.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// checkMode refuses a mode with other bits, such as a type.
func checkMode(m fs.FileMode) error {
	if m&^modeBits != 0 {
		return driver.Errorf(ErrInvalid, "mode %v: only permission, setuid, setgid and sticky bits can be set", m)
	}
	return nil
}

// checkXattrName checks an extended attribute against the bounds of xattr(7).
func checkXattrName(name string, value []byte) error {
	if name == "" || len(name) > driver.MaxElemLen || strings.IndexByte(name, 0) >= 0 || len(value) > driver.MaxXattrLen {
		return driver.Errorf(ErrInvalid, "attribute %q of %d bytes: a name has 1 to 255 bytes without NUL, a value at most 65536", name, len(value))
	}
	return nil
}
