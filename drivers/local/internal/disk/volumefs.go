//go:build unix

package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/openset"
	"golang.org/x/sys/unix"
)

// volumeFS implements driver.FS on the image of a volume, without a mount. All of one volume in
// this process share one sharedFS.
type volumeFS struct {
	d        *sharedFS
	fs       *ext4.FS // of d
	set      *Set
	readOnly bool
	batch    bool

	life openset.Life
}

// OpenFS opens the files of the volume.
func (v Volume) OpenFS(ctx context.Context, opts driver.FSOptions) (driver.FS, error) {
	f := &volumeFS{set: v.Set, readOnly: opts.ReadOnly || v.ReadOnly, batch: opts.Batch}
	err := v.Ballast.Freeing(func() (err error) { // a removal of files must be able to open the image on a full disk
		f.d, err = v.acquireShared(ctx, f.readOnly)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.fs = f.d.fs
	if err := f.life.Begin(v.Opened, f); err != nil {
		return nil, errors.Join(err, f.d.release())
	}
	return f, nil
}

// Finish implements openset.Member.
func (f *volumeFS) Finish(ctx context.Context) error {
	if f.readOnly || f.d.image.isRemoved() {
		return nil
	}
	return f.set.Ballast.Freeing(func() error { return translateError(f.fs.Sync(ctx)) })
}

// Free implements openset.Member.
func (f *volumeFS) Free(context.Context) error {
	removed := f.d.image.isRemoved()
	if err := f.d.release(); !removed {
		return err
	}
	return nil
}

// Close implements driver.FS.
func (f *volumeFS) Close() error { return f.life.Close(context.Background()) }

// runRead runs an operation that changes nothing, on a volume that is not removed.
func (f *volumeFS) runRead(ctx context.Context, fn func() error) error {
	return f.life.Run(ctx, func() error {
		if f.d.image.isRemoved() {
			return errVolumeRemoved()
		}
		return translateError(fn())
	})
}

// readValue is runRead for an operation with a result.
func readValue[T any](ctx context.Context, f *volumeFS, read func() (T, error)) (value T, err error) {
	err = f.runRead(ctx, func() error {
		value, err = read()
		return err
	})
	return value, err
}

// runChangeAndSync runs an operation that changes files, charges their growth, and syncs it
// unless in batch mode.
func (f *volumeFS) runChangeAndSync(ctx context.Context, fn func() error) error {
	return f.runRead(ctx, func() error {
		if f.readOnly {
			return f.set.Home.ReadOnlyError()
		}
		if err := f.d.counter.BeginChange(ctx); err != nil {
			return err
		}
		err := fn()
		f.d.updateCharge()
		if err == nil && !f.batch {
			err = f.fs.Sync(context.WithoutCancel(ctx))
		}
		return err
	})
}

// Stat implements driver.FS.
func (f *volumeFS) Stat(ctx context.Context, path string) (driver.Entry, error) {
	return readValue(ctx, f, func() (driver.Entry, error) { return entryOfInfo(f.fs.Stat(path)) })
}

// Lstat implements driver.FS.
func (f *volumeFS) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	return readValue(ctx, f, func() (driver.Entry, error) { return entryOfInfo(f.fs.Lstat(path)) })
}

// entryOfInfo translates ext4's description of a file. It passes err on.
func entryOfInfo(i ext4.Info, err error) (driver.Entry, error) {
	return driver.Entry{
		Name: i.Name, Mode: i.Mode, Size: i.Size, Allocated: i.Allocated, UID: i.UID, GID: i.GID,
		Nlink: uint64(i.Nlink), Inode: uint64(i.Ino), Rdev: i.Rdev, Atime: i.Atime, Mtime: i.Mtime, Ctime: i.Ctime,
		NoXattrs: i.NoXattrs,
	}, err
}

// Readlink implements driver.FS.
func (f *volumeFS) Readlink(ctx context.Context, path string) (string, error) {
	return readValue(ctx, f, func() (string, error) {
		target, err := f.fs.Readlink(path)
		if errors.Is(err, unix.EINVAL) {
			err = driver.Errorf(driver.ErrInvalid, "not a symbolic link")
		}
		return target, err
	})
}

// WriteFile implements driver.FS.
func (f *volumeFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (n int64, err error) {
	err = f.runChangeAndSync(ctx, func() error {
		n, err = f.fs.WriteFile(ctx, path, r, ext4.WriteOptions{
			Mode: opts.Mode, Exclusive: opts.Exclusive, Size: opts.Size, NextData: opts.NextData,
			Meta: (*ext4.FileMeta)(opts.Meta),
		})
		return err
	})
	return n, err
}

// Mkdir implements driver.FS.
func (f *volumeFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Mkdir(path, mode) })
}

// MkdirAll implements driver.FS.
func (f *volumeFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.MkdirAll(path, mode) })
}

// Remove implements driver.FS.
func (f *volumeFS) Remove(ctx context.Context, path string) error {
	return f.set.Ballast.Freeing(func() error {
		return f.runChangeAndSync(ctx, func() error { return f.fs.Remove(path) })
	})
}

// RemoveAll implements driver.FS.
func (f *volumeFS) RemoveAll(ctx context.Context, path string) error {
	return f.set.Ballast.Freeing(func() error {
		return f.runChangeAndSync(ctx, func() error { return f.fs.RemoveAll(ctx, path) })
	})
}

// Rename implements driver.FS.
func (f *volumeFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Rename(from, to, opts.NoReplace) })
}

// Copy implements driver.FS.
func (f *volumeFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Copy(ctx, from, to, opts.NoReplace) })
}

// Link implements driver.FS.
func (f *volumeFS) Link(ctx context.Context, target, path string) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Link(target, path) })
}

// Symlink implements driver.FS.
func (f *volumeFS) Symlink(ctx context.Context, target, path string) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Symlink(target, path) })
}

// Mknod implements driver.FS.
func (f *volumeFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	if mode&fs.ModeDevice != 0 && f.set.RefuseDevices != nil {
		return f.set.RefuseDevices
	}
	return f.runChangeAndSync(ctx, func() error { return f.fs.Mknod(path, mode, rdev) })
}

// Chmod implements driver.FS.
func (f *volumeFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Chmod(path, mode) })
}

// Chown implements driver.FS.
func (f *volumeFS) Chown(ctx context.Context, path string, uid, gid int) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Chown(path, uid, gid) })
}

// Chtimes implements driver.FS.
func (f *volumeFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Chtimes(path, atime, mtime) })
}

// Truncate implements driver.FS.
func (f *volumeFS) Truncate(ctx context.Context, path string, size int64) error {
	return f.runChangeAndSync(ctx, func() error {
		h, err := f.fs.OpenFile(path, ext4.OpenFlags{Write: true})
		if err != nil {
			return err
		}
		return errors.Join(h.Truncate(size), h.Close())
	})
}

// Getxattr implements driver.FS.
func (f *volumeFS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	return readValue(ctx, f, func() ([]byte, error) { return f.fs.Getxattr(path, name) })
}

// Setxattr implements driver.FS.
func (f *volumeFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Setxattr(path, name, value) })
}

// Removexattr implements driver.FS.
func (f *volumeFS) Removexattr(ctx context.Context, path, name string) error {
	return f.runChangeAndSync(ctx, func() error { return f.fs.Removexattr(path, name) })
}

// Listxattr implements driver.FS.
func (f *volumeFS) Listxattr(ctx context.Context, path string) ([]string, error) {
	return readValue(ctx, f, func() ([]string, error) { return f.fs.Listxattr(path) })
}

// Statfs implements driver.FS.
func (f *volumeFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	return readValue(ctx, f, func() (driver.Statfs, error) {
		info, err := f.d.volume.lookUpInfo(ctx)
		if err != nil {
			return driver.Statfs{}, err
		}
		u := f.fs.Usage()
		allocated, err := f.d.image.allocatedBytes()
		return driver.Statfs{Total: u.Size, Used: int64(info.Used), Free: u.Free, Files: u.FreeInodes, Allocated: allocated}, err
	})
}

// Sync implements driver.FS.
func (f *volumeFS) Sync(ctx context.Context) error {
	return f.runRead(ctx, func() error { return f.fs.Sync(ctx) })
}
