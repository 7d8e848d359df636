package bucket

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
)

// OpenFS implements driver.Backend. The calls of the FS are timed.
func (b *Backend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	defer b.ns.metrics.observeSince("volume_open", time.Now())
	fsys, err := b.openVolumeFS(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	return &timedFS{fsys, b.ns.metrics}, nil
}

// timedFS is an FS whose calls are timed, and those of its files and directories.
type timedFS struct {
	fs *volumeFS
	m  *metrics
}

// timedFile is a File whose calls are timed.
type timedFile struct {
	driver.File
	m *metrics
}

// timedDir is a Dir whose calls are timed.
type timedDir struct {
	driver.Dir
	m *metrics
}

func (f *timedFS) Stat(ctx context.Context, path string) (driver.Entry, error) {
	defer f.m.observeSince("fs_stat", time.Now())
	return f.fs.Stat(ctx, path)
}

func (f *timedFS) Lstat(ctx context.Context, path string) (driver.Entry, error) {
	defer f.m.observeSince("fs_lstat", time.Now())
	return f.fs.Lstat(ctx, path)
}

func (f *timedFS) Readlink(ctx context.Context, path string) (string, error) {
	defer f.m.observeSince("fs_readlink", time.Now())
	return f.fs.Readlink(ctx, path)
}

func (f *timedFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	defer f.m.observeSince("fs_open_dir", time.Now())
	x, err := f.fs.OpenDir(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return &timedDir{x, f.m}, nil
}

func (f *timedFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	defer f.m.observeSince("fs_open", time.Now())
	x, err := f.fs.Open(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return &timedFile{x, f.m}, nil
}

func (f *timedFS) OpenEntry(ctx context.Context, path string) (driver.File, driver.Entry, error) {
	defer f.m.observeSince("fs_open", time.Now())
	x, e, err := f.fs.OpenEntry(ctx, path)
	if err != nil {
		return nil, driver.Entry{}, err
	}
	return &timedFile{x, f.m}, e, nil
}

func (f *timedFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	defer f.m.observeSince("fs_write_file", time.Now())
	return f.fs.WriteFile(ctx, path, r, opts)
}

func (f *timedFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	defer f.m.observeSince("fs_mkdir", time.Now())
	return f.fs.Mkdir(ctx, path, mode)
}

func (f *timedFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	defer f.m.observeSince("fs_mkdir_all", time.Now())
	return f.fs.MkdirAll(ctx, path, mode)
}

func (f *timedFS) Remove(ctx context.Context, path string) error {
	defer f.m.observeSince("fs_remove", time.Now())
	return f.fs.Remove(ctx, path)
}

func (f *timedFS) RemoveAll(ctx context.Context, path string) error {
	defer f.m.observeSince("fs_remove_all", time.Now())
	return f.fs.RemoveAll(ctx, path)
}

func (f *timedFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	defer f.m.observeSince("fs_rename", time.Now())
	return f.fs.Rename(ctx, from, to, opts)
}

func (f *timedFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	defer f.m.observeSince("fs_copy", time.Now())
	return f.fs.Copy(ctx, from, to, opts)
}

func (f *timedFS) Link(ctx context.Context, target, path string) error {
	defer f.m.observeSince("fs_link", time.Now())
	return f.fs.Link(ctx, target, path)
}

func (f *timedFS) Symlink(ctx context.Context, target, path string) error {
	defer f.m.observeSince("fs_symlink", time.Now())
	return f.fs.Symlink(ctx, target, path)
}

func (f *timedFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	defer f.m.observeSince("fs_mknod", time.Now())
	return f.fs.Mknod(ctx, path, mode, rdev)
}

func (f *timedFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	defer f.m.observeSince("fs_chmod", time.Now())
	return f.fs.Chmod(ctx, path, mode)
}

func (f *timedFS) Chown(ctx context.Context, path string, uid, gid int) error {
	defer f.m.observeSince("fs_chown", time.Now())
	return f.fs.Chown(ctx, path, uid, gid)
}

func (f *timedFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	defer f.m.observeSince("fs_chtimes", time.Now())
	return f.fs.Chtimes(ctx, path, atime, mtime)
}

func (f *timedFS) Truncate(ctx context.Context, path string, size int64) error {
	defer f.m.observeSince("fs_truncate", time.Now())
	return f.fs.Truncate(ctx, path, size)
}

func (f *timedFS) Getxattr(ctx context.Context, path, name string) ([]byte, error) {
	defer f.m.observeSince("fs_getxattr", time.Now())
	return f.fs.Getxattr(ctx, path, name)
}

func (f *timedFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	defer f.m.observeSince("fs_setxattr", time.Now())
	return f.fs.Setxattr(ctx, path, name, value)
}

func (f *timedFS) Removexattr(ctx context.Context, path, name string) error {
	defer f.m.observeSince("fs_removexattr", time.Now())
	return f.fs.Removexattr(ctx, path, name)
}

func (f *timedFS) Listxattr(ctx context.Context, path string) ([]string, error) {
	defer f.m.observeSince("fs_listxattr", time.Now())
	return f.fs.Listxattr(ctx, path)
}

func (f *timedFS) Statfs(ctx context.Context) (driver.Statfs, error) {
	defer f.m.observeSince("fs_statfs", time.Now())
	return f.fs.Statfs(ctx)
}

func (f *timedFS) Sync(ctx context.Context) error {
	defer f.m.observeSince("fs_sync", time.Now())
	return f.fs.Sync(ctx)
}

func (f *timedFS) Close() error {
	defer f.m.observeSince("fs_close", time.Now())
	return f.fs.Close()
}

func (f *timedFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	defer f.m.observeSince("file_read_at", time.Now())
	return f.File.ReadAt(ctx, p, off)
}

func (f *timedFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	defer f.m.observeSince("file_write_at", time.Now())
	return f.File.WriteAt(ctx, p, off)
}

func (f *timedFile) Append(ctx context.Context, p []byte) (int64, error) {
	defer f.m.observeSince("file_append", time.Now())
	return f.File.Append(ctx, p)
}

func (f *timedFile) Truncate(ctx context.Context, size int64) error {
	defer f.m.observeSince("file_truncate", time.Now())
	return f.File.Truncate(ctx, size)
}

func (f *timedFile) PunchHole(ctx context.Context, off, length int64) error {
	defer f.m.observeSince("file_punch_hole", time.Now())
	return f.File.PunchHole(ctx, off, length)
}

func (f *timedFile) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	defer f.m.observeSince("file_next_data", time.Now())
	return f.File.NextData(ctx, off)
}

func (f *timedFile) Stat(ctx context.Context) (driver.Entry, error) {
	defer f.m.observeSince("file_stat", time.Now())
	return f.File.Stat(ctx)
}

func (f *timedFile) Sync(ctx context.Context) error {
	defer f.m.observeSince("file_sync", time.Now())
	return f.File.Sync(ctx)
}

func (f *timedFile) Close() error {
	defer f.m.observeSince("file_close", time.Now())
	return f.File.Close()
}

func (d *timedDir) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	defer d.m.observeSince("dir_read", time.Now())
	return d.Dir.Read(ctx, n)
}

func (d *timedDir) Close() error {
	defer d.m.observeSince("dir_close", time.Now())
	return d.Dir.Close()
}
