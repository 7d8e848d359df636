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

func checkStdPath(op, name string) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}

func (s stdFS) Open(name string) (fs.File, error) {
	if err := checkStdPath("open", name); err != nil {
		return nil, err
	}
	r, err := s.fs.NewReader(s.ctx, name, 0, -1)
	if errors.Is(err, ErrIsDir) {
		return s.openStdDir(name)
	}
	if err != nil {
		return nil, toStdError("open", name, err)
	}
	return &stdFile{Reader: r, name: name}, nil
}

func (s stdFS) openStdDir(name string) (fs.File, error) {
	e, err := s.fs.Stat(s.ctx, name)
	if err != nil {
		return nil, toStdError("open", name, err)
	}
	e.Name = path.Base(name)
	d, err := s.fs.OpenDir(s.ctx, name, DirOptions{Sorted: true})
	if err != nil {
		return nil, toStdError("open", name, err)
	}
	return &stdDir{s: s, name: name, d: d, info: stdInfo{e}}, nil
}

func (s stdFS) ReadFile(name string) ([]byte, error) {
	if err := checkStdPath("read", name); err != nil {
		return nil, err
	}
	data, err := s.fs.ReadFile(s.ctx, name)
	return data, toStdError("read", name, err)
}

func (s stdFS) Stat(name string) (fs.FileInfo, error) {
	if err := checkStdPath("stat", name); err != nil {
		return nil, err
	}
	e, err := s.fs.Stat(s.ctx, name)
	if err != nil {
		return nil, toStdError("stat", name, err)
	}
	e.Name = path.Base(name) // of the path asked for, not of what a link leads to
	return stdInfo{e}, nil
}

func (s stdFS) Lstat(name string) (fs.FileInfo, error) {
	if err := checkStdPath("lstat", name); err != nil {
		return nil, err
	}
	e, err := s.fs.Lstat(s.ctx, name)
	if err != nil {
		return nil, toStdError("lstat", name, err)
	}
	return stdInfo{e}, nil
}

func (s stdFS) ReadLink(name string) (string, error) {
	if err := checkStdPath("readlink", name); err != nil {
		return "", err
	}
	target, err := s.fs.Readlink(s.ctx, name)
	return target, toStdError("readlink", name, err)
}

func (s stdFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := checkStdPath("readdir", name); err != nil {
		return nil, err
	}
	list, err := s.fs.ReadDir(s.ctx, name)
	return stdDirEntries(list), toStdError("readdir", name, err)
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
