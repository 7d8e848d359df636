package vole

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"time"
)

// Std returns the files as a standard read-only fs.FS, for template engines, HTTP
// file servers and the like. It also implements fs.ReadDirFS, fs.ReadFileFS, fs.StatFS
// and fs.ReadLinkFS. All its calls run under ctx, because io/fs has no place for one.
func (f *FS) Std(ctx context.Context) fs.FS { return stdFS{ctx, f} }

type stdFS struct {
	ctx context.Context
	fs  *FS
}

// toStdError turns an error into the *fs.PathError that io/fs promises.
func toStdError(op, name string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// callStd runs fn for a name that io/fs allows, and returns the errors that it promises.
func callStd[T any](op, name string, fn func() (T, error)) (value T, err error) {
	if !fs.ValidPath(name) {
		return value, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	value, err = fn()
	return value, toStdError(op, name, err)
}

func (s stdFS) Open(name string) (fs.File, error) {
	return callStd("open", name, func() (fs.File, error) {
		r, err := s.fs.NewReader(s.ctx, name, 0, -1)
		if errors.Is(err, ErrIsDir) {
			return s.openStdDir(name)
		}
		if err != nil {
			return nil, err
		}
		return &stdFile{Reader: r, name: name}, nil
	})
}

func (s stdFS) openStdDir(name string) (fs.File, error) {
	e, err := s.fs.Stat(s.ctx, name)
	if err != nil {
		return nil, err
	}
	e.Name = path.Base(name)
	d, err := s.fs.OpenDir(s.ctx, name, DirOptions{Sorted: true})
	if err != nil {
		return nil, err
	}
	return &stdDir{s: s, name: name, d: d, info: stdInfo{e}}, nil
}

func (s stdFS) ReadFile(name string) ([]byte, error) {
	return callStd("read", name, func() ([]byte, error) { return s.fs.ReadFile(s.ctx, name) })
}

func (s stdFS) Stat(name string) (fs.FileInfo, error) {
	return s.describe("stat", name, s.fs.Stat)
}

func (s stdFS) Lstat(name string) (fs.FileInfo, error) {
	return s.describe("lstat", name, s.fs.Lstat)
}

// describe returns what stat says of a name, under the name asked for: a link leads to another.
func (s stdFS) describe(op, name string, stat func(ctx context.Context, path string) (Entry, error)) (fs.FileInfo, error) {
	return callStd(op, name, func() (fs.FileInfo, error) {
		e, err := stat(s.ctx, name)
		if err != nil {
			return nil, err
		}
		e.Name = path.Base(name)
		return stdInfo{e}, nil
	})
}

func (s stdFS) ReadLink(name string) (string, error) {
	return callStd("readlink", name, func() (string, error) { return s.fs.Readlink(s.ctx, name) })
}

func (s stdFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return callStd("readdir", name, func() ([]fs.DirEntry, error) {
		list, err := s.fs.ReadDir(s.ctx, name)
		return stdDirEntries(list), err
	})
}

func stdDirEntries(list []Entry) []fs.DirEntry {
	out := make([]fs.DirEntry, len(list))
	for i, e := range list {
		out[i] = fs.FileInfoToDirEntry(stdInfo{e})
	}
	return out
}

// stdInfo is an Entry as a fs.FileInfo; Sys returns the Entry.
type stdInfo struct{ e Entry }

func (i stdInfo) Name() string       { return i.e.Name }
func (i stdInfo) Size() int64        { return i.e.Size }
func (i stdInfo) Mode() fs.FileMode  { return i.e.Mode }
func (i stdInfo) ModTime() time.Time { return i.e.Mtime }
func (i stdInfo) IsDir() bool        { return i.e.IsDir() }
func (i stdInfo) Sys() any           { return i.e }

// stdFile adds what fs.File wants to a Reader, and io.Seeker and io.ReaderAt.
type stdFile struct {
	*Reader
	name string
}

func (f *stdFile) Stat() (fs.FileInfo, error) {
	e, err := f.Reader.Stat()
	if err != nil {
		return nil, toStdError("stat", f.name, err)
	}
	e.Name = path.Base(f.name)
	return stdInfo{e}, nil
}

func (f *stdFile) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	return n, toStdError("read", f.name, err)
}

func (f *stdFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(f.ctx, p, off)
	return n, toStdError("read", f.name, err)
}

func (f *stdFile) Seek(off int64, whence int) (int64, error) {
	at, err := f.Reader.Seek(off, whence)
	return at, toStdError("seek", f.name, err)
}

// stdDir is an open directory as a fs.ReadDirFile.
type stdDir struct {
	s    stdFS
	name string
	d    *Dir
	info fs.FileInfo
}

func (d *stdDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *stdDir) Close() error               { return toStdError("close", d.name, d.d.Close()) }

func (d *stdDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: ErrIsDir}
}

func (d *stdDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 {
		list, err := d.d.Read(d.s.ctx, n)
		return stdDirEntries(list), toStdError("readdir", d.name, err)
	}
	all := []fs.DirEntry{}
	for {
		list, err := d.d.Read(d.s.ctx, dirBatch)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, toStdError("readdir", d.name, err)
		}
		all = append(all, stdDirEntries(list)...)
	}
}
