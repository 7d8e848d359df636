//go:build unix

package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/openset"
	"golang.org/x/sys/unix"
)

// diskFS implements driver.FS on the image of a disk volume, without a mount. All diskFSes of
// one volume in this process share one sharedDisk.
type diskFS struct {
	b        *Backend
	d        *sharedDisk
	fs       *ext4.FS // of d
	readOnly bool
	batch    bool

	life openset.Life
}

// openDiskFS opens the files of a disk volume.
func (b *Backend) openDiskFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	f := &diskFS{b: b, readOnly: opts.ReadOnly || b.readOnly, batch: opts.Batch}
	var d *sharedDisk
	err := b.ballast.Freeing(func() (err error) { // a removal of files must be able to open the image on a full disk
		d, err = b.acquireDisk(ctx, id, f.readOnly)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.d, f.fs = d, d.fs
	if err := f.life.Begin(&b.open, f); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return f, nil
}

// enter begins an operation, which ends with life.Leave, on a volume that is not removed.
func (f *diskFS) enter(ctx context.Context) error {
	if err := f.life.Enter(ctx); err != nil {
		return err
	}
	if f.d.isRemoved() {
		f.life.Leave()
		return errVolumeRemoved()
	}
	return nil
}

// Finish implements openset.Member.
func (f *diskFS) Finish(ctx context.Context) error {
	if f.readOnly || f.d.isRemoved() {
		return nil
	}
	return f.b.ballast.Freeing(func() error { return translateDiskError(f.fs.Sync(ctx)) })
}

// Free implements openset.Member.
func (f *diskFS) Free() error {
	removed := f.d.isRemoved()
	if err := f.d.release(); !removed {
		return err
	}
	return nil
}

// Close implements driver.FS.
func (f *diskFS) Close() error { return f.life.Close(context.Background()) }

// runRead runs an operation that changes nothing.
func (f *diskFS) runRead(ctx context.Context, fn func() error) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	defer f.life.Leave()
	return translateDiskError(fn())
}

// runChange runs an operation that changes files, charges their growth, and syncs it unless in
// batch mode.
func (f *diskFS) runChange(ctx context.Context, fn func() error) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	defer f.life.Leave()
	if f.readOnly {
		return f.b.errReadOnly()
	}
	if err := f.d.beginChange(ctx); err != nil {
		return err
	}
	err := fn()
	f.d.updateCharge()
	if err == nil && !f.batch {
		err = f.fs.Sync(context.WithoutCancel(ctx))
	}
	return translateDiskError(err)
}

// Stat implements driver.FS.
func (f *diskFS) Stat(ctx context.Context, path string) (e driver.Entry, err error) {
	err = f.runRead(ctx, func() error {
		info, err := f.fs.Stat(path)
		e = entryOfDiskInfo(info)
		return err
	})
	return e, err
}

// Lstat implements driver.FS.
func (f *diskFS) Lstat(ctx context.Context, path string) (e driver.Entry, err error) {
	err = f.runRead(ctx, func() error {
		info, err := f.fs.Lstat(path)
		e = entryOfDiskInfo(info)
		return err
	})
	return e, err
}

// entryOfDiskInfo translates ext4's description of a file.
func entryOfDiskInfo(i ext4.Info) driver.Entry {
	return driver.Entry{
		Name: i.Name, Mode: i.Mode, Size: i.Size, Allocated: i.Allocated, UID: i.UID, GID: i.GID,
		Nlink: uint64(i.Nlink), Inode: uint64(i.Ino), Rdev: i.Rdev, Atime: i.Atime, Mtime: i.Mtime, Ctime: i.Ctime,
		NoXattrs: i.NoXattrs,
	}
}

// Readlink implements driver.FS.
func (f *diskFS) Readlink(ctx context.Context, path string) (target string, err error) {
	err = f.runRead(ctx, func() error {
		target, err = f.fs.Readlink(path)
		if errors.Is(err, unix.EINVAL) {
			err = driver.Errorf(driver.ErrInvalid, "not a symbolic link")
		}
		return err
	})
	return target, err
}

// WriteFile implements driver.FS.
func (f *diskFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (n int64, err error) {
	err = f.runChange(ctx, func() error {
		n, err = f.fs.WriteFile(ctx, path, r, ext4.WriteOptions{
			Mode: opts.Mode, Exclusive: opts.Exclusive, Size: opts.Size, NextData: opts.NextData,
			Meta: (*ext4.FileMeta)(opts.Meta),
		})
		return err
	})
	return n, err
}

// Mkdir implements driver.FS.
func (f *diskFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChange(ctx, func() error { return f.fs.Mkdir(path, mode) })
}

// MkdirAll implements driver.FS.
func (f *diskFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChange(ctx, func() error { return f.fs.MkdirAll(path, mode) })
}

// Remove implements driver.FS.
func (f *diskFS) Remove(ctx context.Context, path string) error {
	return f.b.ballast.Freeing(func() error {
		return f.runChange(ctx, func() error { return f.fs.Remove(path) })
	})
}

// RemoveAll implements driver.FS.
func (f *diskFS) RemoveAll(ctx context.Context, path string) error {
	return f.b.ballast.Freeing(func() error {
		return f.runChange(ctx, func() error { return f.fs.RemoveAll(ctx, path) })
	})
}

// Rename implements driver.FS.
func (f *diskFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return f.runChange(ctx, func() error { return f.fs.Rename(from, to, opts.NoReplace) })
}

// Copy implements driver.FS.
func (f *diskFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	return f.runChange(ctx, func() error { return f.fs.Copy(ctx, from, to, opts.NoReplace) })
}

// Link implements driver.FS.
func (f *diskFS) Link(ctx context.Context, target, path string) error {
	return f.runChange(ctx, func() error { return f.fs.Link(target, path) })
}

// Symlink implements driver.FS.
func (f *diskFS) Symlink(ctx context.Context, target, path string) error {
	return f.runChange(ctx, func() error { return f.fs.Symlink(target, path) })
}

// Mknod implements driver.FS.
func (f *diskFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	if mode&fs.ModeDevice != 0 && !f.b.devices {
		return errNoDevices()
	}
	return f.runChange(ctx, func() error { return f.fs.Mknod(path, mode, rdev) })
}

// Chmod implements driver.FS.
func (f *diskFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.runChange(ctx, func() error { return f.fs.Chmod(path, mode) })
}

// Chown implements driver.FS.
func (f *diskFS) Chown(ctx context.Context, path string, uid, gid int) error {
	return f.runChange(ctx, func() error { return f.fs.Chown(path, uid, gid) })
}

// Chtimes implements driver.FS.
func (f *diskFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	return f.runChange(ctx, func() error { return f.fs.Chtimes(path, atime, mtime) })
}

// Truncate implements driver.FS.
func (f *diskFS) Truncate(ctx context.Context, path string, size int64) error {
	return f.runChange(ctx, func() error {
		h, err := f.fs.OpenFile(path, ext4.OpenFlags{Write: true})
		if err != nil {
			return err
		}
		return errors.Join(h.Truncate(size), h.Close())
	})
}

// Getxattr implements driver.FS.
func (f *diskFS) Getxattr(ctx context.Context, path, name string) (value []byte, err error) {
	err = f.runRead(ctx, func() error {
		value, err = f.fs.Getxattr(path, name)
		return err
	})
	return value, err
}

// Setxattr implements driver.FS.
func (f *diskFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return f.runChange(ctx, func() error { return f.fs.Setxattr(path, name, value) })
}

// Removexattr implements driver.FS.
func (f *diskFS) Removexattr(ctx context.Context, path, name string) error {
	return f.runChange(ctx, func() error { return f.fs.Removexattr(path, name) })
}

// Listxattr implements driver.FS.
func (f *diskFS) Listxattr(ctx context.Context, path string) (names []string, err error) {
	err = f.runRead(ctx, func() error {
		names, err = f.fs.Listxattr(path)
		return err
	})
	return names, err
}

// Statfs implements driver.FS.
func (f *diskFS) Statfs(ctx context.Context) (s driver.Statfs, err error) {
	err = f.runRead(ctx, func() error {
		info, err := f.b.Get(ctx, driver.ByID(f.d.id))
		u := f.fs.Usage()
		s = driver.Statfs{Total: u.Size, Used: int64(info.Used), Free: u.Free, Files: u.FreeInodes}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(f.d.image.Fd()), &st)
		}
		s.Allocated = st.Blocks * 512
		return err
	})
	return s, err
}

// Sync implements driver.FS.
func (f *diskFS) Sync(ctx context.Context) error {
	return f.runRead(ctx, func() error { return f.fs.Sync(ctx) })
}

// diskDirStream implements driver.Dir for a disk volume.
type diskDirStream struct {
	f      *diskFS
	sorted bool
	names  bool

	mu   sync.Mutex // guards what follows
	d    *ext4.Dir  // nil once closed
	list []ext4.Info
	full bool // list holds all that is left
}

// OpenDir implements driver.FS.
func (f *diskFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	s := &diskDirStream{f: f, sorted: opts.Sorted, names: opts.NamesOnly}
	err := f.runRead(ctx, func() (err error) {
		s.d, err = f.fs.OpenDir(path, opts.NamesOnly)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Read implements driver.Dir.
func (s *diskDirStream) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.d == nil {
		return nil, driver.ErrClosed
	}
	if err := s.f.enter(ctx); err != nil {
		return nil, err
	}
	defer s.f.life.Leave()
	if s.sorted && !s.full {
		if err := s.readSorted(ctx); err != nil {
			return nil, err
		}
	}
	if !s.sorted {
		var err error
		if s.list, err = s.d.Read(n); err != nil {
			if err == io.EOF {
				return nil, io.EOF
			}
			return nil, translateDiskError(err)
		}
	}
	if len(s.list) == 0 {
		return nil, io.EOF
	}
	part := s.list[:min(n, len(s.list))]
	s.list = s.list[len(part):]
	out := make([]driver.Entry, len(part))
	for i, e := range part {
		if out[i] = entryOfDiskInfo(e); s.names {
			out[i] = driver.Entry{Name: e.Name, Mode: e.Mode.Type()}
		}
	}
	return out, nil
}

// readSorted reads all remaining entries into memory and sorts them by name.
func (s *diskDirStream) readSorted(ctx context.Context) error {
	for {
		part, err := s.d.Read(1024)
		if err == io.EOF {
			break
		}
		if err != nil {
			return translateDiskError(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.list == nil {
			s.list = part // of most directories this is all
		} else {
			s.list = append(s.list, part...)
		}
	}
	slices.SortFunc(s.list, func(a, b ext4.Info) int { return strings.Compare(a.Name, b.Name) })
	s.full = true
	return nil
}

// Close implements driver.Dir.
func (s *diskDirStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.d == nil {
		return nil
	}
	err := s.d.Close()
	s.d, s.list = nil, nil
	return err
}
