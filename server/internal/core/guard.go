package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// guardedBackend wraps a backend with the server's limits, below every route: no change happens
// for a request whose caller has lost its rights since admission, and no file grows beyond
// Options.MaxFile. Reads pass through.
type guardedBackend struct {
	driver.Backend
	maxFile     int64      // 0: no limit
	appendLocks *KeyedLock // serialize the appends to a file, by volume and inode
}

// guardBackend returns b with the limits of the server.
func (c *Core) guardBackend(b driver.Backend) guardedBackend {
	return guardedBackend{b, c.opts.MaxFile, &c.appendLocks}
}

// OpenSession is Organisations.OpenSession with the limits of the server.
func (c *Core) OpenSession(ctx context.Context, org, session, key string, lease time.Duration, resume bool) (Session, error) {
	h, err := c.opts.Organisations.OpenSession(ctx, org, session, key, lease, resume)
	if err != nil {
		return nil, err
	}
	return guardedSession{c.guardBackend(h), h}, nil
}

// guardedSession is a guardedBackend that is also a Session.
type guardedSession struct {
	guardedBackend
	SessionLife
}

func (g guardedBackend) Create(ctx context.Context, name string, spec driver.Spec) (driver.Info, error) {
	return valueIfAuthorized(ctx, func() (driver.Info, error) { return g.Backend.Create(ctx, name, spec) })
}

func (g guardedBackend) Update(ctx context.Context, id string, change driver.Update) (driver.Info, error) {
	return valueIfAuthorized(ctx, func() (driver.Info, error) { return g.Backend.Update(ctx, id, change) })
}

func (g guardedBackend) Remove(ctx context.Context, ref driver.Ref) (driver.Info, error) {
	return valueIfAuthorized(ctx, func() (driver.Info, error) { return g.Backend.Remove(ctx, ref) })
}

func (g guardedBackend) RemoveUnused(ctx context.Context, id string, since time.Time) (driver.Info, error) {
	return valueIfAuthorized(ctx, func() (driver.Info, error) { return g.Backend.RemoveUnused(ctx, id, since) })
}

func (g guardedBackend) Attach(ctx context.Context, id string, opts driver.AttachOptions) (driver.Attachment, error) {
	return valueIfAuthorized(ctx, func() (driver.Attachment, error) { return g.Backend.Attach(ctx, id, opts) })
}

func (g guardedBackend) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	f, err := g.Backend.OpenFS(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	return &guardedFS{FS: f, volume: id, backend: g}, nil
}

// CheckFileSize returns an error if no file of size bytes may exist.
func (c *Core) CheckFileSize(size int64) error {
	return guardedBackend{maxFile: c.opts.MaxFile}.checkFileSize(size)
}

// fileTooLarge returns the error for a file beyond the limit.
func (g guardedBackend) fileTooLarge() error {
	return newRefusal(api.CodeTooLarge, fmt.Sprintf("a file on this server has at most %v", driver.Size(g.maxFile)))
}

// maxFileSize bounds file sizes if there is no limit. No file system has larger files, and the
// sum of two such sizes does not overflow.
const maxFileSize = 1<<62 - 1

// checkFileSize returns an error for a size beyond the limit or out of range.
func (g guardedBackend) checkFileSize(size int64) error {
	if size < 0 || size > maxFileSize {
		return invalidRequest("a file of %d bytes: a size is from 0 to %d bytes", size, int64(maxFileSize))
	}
	if g.maxFile > 0 && size > g.maxFile {
		return g.fileTooLarge()
	}
	return nil
}

// guardedFS is a volume's file system with the limits. Methods that it does not override only
// read, or end what an earlier change began.
type guardedFS struct {
	driver.FS
	volume  string
	backend guardedBackend
}

func (f *guardedFS) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	if opts.Write || opts.Append || opts.Create || opts.Truncate {
		if err := reauthorize(ctx); err != nil {
			return nil, err
		}
	}
	h, err := f.FS.Open(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return &guardedFile{h, f}, nil
}

// WriteFile checks the rights again at the end of the source: the backend replaces the file only
// after it.
func (f *guardedFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	err := reauthorize(ctx)
	if err == nil {
		err = f.backend.checkFileSize(opts.Size)
	}
	if err != nil {
		return 0, err
	}
	if next := opts.NextData; next != nil {
		opts.NextData = func(ctx context.Context) (off, n int64, err error) {
			off, n, err = next(ctx)
			return off, n, reauthorizeAtEOF(ctx, err)
		}
		return f.FS.WriteFile(ctx, path, r, opts)
	}
	return f.FS.WriteFile(ctx, path, &guardedSource{ctx, r, f.backend, 0}, opts)
}

// reauthorizeAtEOF replaces io.EOF by the loss of rights, so that the backend does not commit.
func reauthorizeAtEOF(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if lost := reauthorize(ctx); lost != nil {
		return lost
	}
	return err
}

// guardedSource is the content of a file that is being written. It fails beyond the size limit,
// and instead of its end if the rights are lost.
type guardedSource struct {
	ctx      context.Context // of the one call that it is for
	r        io.Reader
	backend  guardedBackend
	received int64
}

func (s *guardedSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.received += int64(n)
	if large := s.backend.checkFileSize(s.received); large != nil {
		return 0, large
	}
	return n, reauthorizeAtEOF(s.ctx, err)
}

func (f *guardedFS) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	return ifAuthorized(ctx, func() error { return f.FS.Mkdir(ctx, path, mode) })
}

func (f *guardedFS) MkdirAll(ctx context.Context, path string, mode fs.FileMode) error {
	return ifAuthorized(ctx, func() error { return f.FS.MkdirAll(ctx, path, mode) })
}

func (f *guardedFS) Remove(ctx context.Context, path string) error {
	return ifAuthorized(ctx, func() error { return f.FS.Remove(ctx, path) })
}

func (f *guardedFS) RemoveAll(ctx context.Context, path string) error {
	return ifAuthorized(ctx, func() error { return f.FS.RemoveAll(ctx, path) })
}

func (f *guardedFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return ifAuthorized(ctx, func() error { return f.FS.Rename(ctx, from, to, opts) })
}

func (f *guardedFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	if f.backend.maxFile > 0 {
		if err := f.checkCopySize(ctx, from); err != nil {
			return err
		}
	}
	return ifAuthorized(ctx, func() error { return f.FS.Copy(ctx, from, to, opts) })
}

func (f *guardedFS) Link(ctx context.Context, target, path string) error {
	return ifAuthorized(ctx, func() error { return f.FS.Link(ctx, target, path) })
}

func (f *guardedFS) Symlink(ctx context.Context, target, path string) error {
	return ifAuthorized(ctx, func() error { return f.FS.Symlink(ctx, target, path) })
}

func (f *guardedFS) Mknod(ctx context.Context, path string, mode fs.FileMode, rdev uint64) error {
	return ifAuthorized(ctx, func() error { return f.FS.Mknod(ctx, path, mode, rdev) })
}

func (f *guardedFS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return ifAuthorized(ctx, func() error { return f.FS.Chmod(ctx, path, mode) })
}

func (f *guardedFS) Chown(ctx context.Context, path string, uid, gid int) error {
	return ifAuthorized(ctx, func() error { return f.FS.Chown(ctx, path, uid, gid) })
}

func (f *guardedFS) Chtimes(ctx context.Context, path string, atime, mtime time.Time) error {
	return ifAuthorized(ctx, func() error { return f.FS.Chtimes(ctx, path, atime, mtime) })
}

func (f *guardedFS) Setxattr(ctx context.Context, path, name string, value []byte) error {
	return ifAuthorized(ctx, func() error { return f.FS.Setxattr(ctx, path, name, value) })
}

func (f *guardedFS) Removexattr(ctx context.Context, path, name string) error {
	return ifAuthorized(ctx, func() error { return f.FS.Removexattr(ctx, path, name) })
}

func (f *guardedFS) Truncate(ctx context.Context, path string, size int64) error {
	if err := f.backend.checkFileSize(size); err != nil {
		return err
	}
	return ifAuthorized(ctx, func() error { return f.FS.Truncate(ctx, path, size) })
}

// ifAuthorized runs fn if the caller still has the rights.
func ifAuthorized(ctx context.Context, fn func() error) error {
	if err := reauthorize(ctx); err != nil {
		return err
	}
	return fn()
}

// valueIfAuthorized is ifAuthorized for what returns a value.
func valueIfAuthorized[T any](ctx context.Context, fn func() (T, error)) (value T, err error) {
	err = ifAuthorized(ctx, func() error {
		value, err = fn()
		return err
	})
	return value, err
}

// checkCopySize refuses to copy a file, or a tree with a file, that is beyond the limit: one
// that is older than the limit. It walks the tree without recursion.
func (f *guardedFS) checkCopySize(ctx context.Context, from string) error {
	e, err := f.FS.Lstat(ctx, from)
	if err != nil {
		return err
	}
	if e.Mode.IsRegular() {
		return f.backend.checkFileSize(e.Size)
	}
	if !e.IsDir() {
		return nil
	}
	for dirs := []string{from}; len(dirs) > 0; {
		last := len(dirs) - 1
		dir := dirs[last]
		below, err := f.checkDirFileSizes(ctx, dir)
		if err != nil {
			return err
		}
		dirs = append(dirs[:last], below...)
	}
	return nil
}

// checkDirFileSizes checks the files of one directory and returns its subdirectories.
func (f *guardedFS) checkDirFileSizes(ctx context.Context, dir string) (below []string, err error) {
	d, err := f.FS.OpenDir(ctx, dir, driver.DirOptions{})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for {
		list, err := d.Read(ctx, dirBatch)
		for _, e := range list {
			if e.IsDir() {
				below = append(below, path.Join(dir, e.Name))
			} else if lerr := f.backend.checkFileSize(e.Size); lerr != nil && e.Mode.IsRegular() {
				return nil, lerr
			}
		}
		if errors.Is(err, io.EOF) {
			return below, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// dirBatch is how many entries of a directory are checked together.
const dirBatch = 512

// guardedFile is an open file of a guardedFS.
type guardedFile struct {
	driver.File
	fs *guardedFS
}

func (h *guardedFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	l := h.fs.backend
	if l.maxFile > 0 && off > l.maxFile-int64(len(p)) {
		return 0, l.fileTooLarge()
	}
	return valueIfAuthorized(ctx, func() (int, error) { return h.File.WriteAt(ctx, p, off) })
}

// Append reads the size and appends under a lock of the inode, so that concurrent appends of
// this server cannot pass the limit together. Appends by other servers can.
func (h *guardedFile) Append(ctx context.Context, p []byte) (int64, error) {
	if err := reauthorize(ctx); err != nil {
		return 0, err
	}
	l := h.fs.backend
	if l.maxFile <= 0 {
		return h.File.Append(ctx, p)
	}
	e, err := h.File.Stat(ctx)
	if err != nil {
		return 0, err
	}
	end, err := l.appendLocks.Lock(ctx, fmt.Sprintf("%s %d", h.fs.volume, e.Inode))
	if err != nil {
		return 0, err
	}
	defer end()
	if e, err = h.File.Stat(ctx); err != nil {
		return 0, err
	}
	if e.Size > l.maxFile-int64(len(p)) {
		return 0, l.fileTooLarge()
	}
	return h.File.Append(ctx, p)
}

func (h *guardedFile) Truncate(ctx context.Context, size int64) error {
	if err := h.fs.backend.checkFileSize(size); err != nil {
		return err
	}
	return ifAuthorized(ctx, func() error { return h.File.Truncate(ctx, size) })
}

func (h *guardedFile) PunchHole(ctx context.Context, off, length int64) error {
	return ifAuthorized(ctx, func() error { return h.File.PunchHole(ctx, off, length) })
}
