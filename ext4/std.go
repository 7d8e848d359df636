package ext4

import (
	"cmp"
	"io"
	iofs "io/fs"
	"path"
	"slices"
	"syscall"
	"time"
)

// Std returns the files as a standard [io/fs.FS], for reading. Its methods follow
// symbolic links within the image. It also implements [io/fs.StatFS],
// [io/fs.ReadDirFS] and [io/fs.ReadLinkFS].
func (fs *FS) Std() iofs.FS { return stdFS{fs} }

// stdFS implements io/fs.FS.
type stdFS struct{ fs *FS }

// pathError wraps an error as io/fs requires.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &iofs.PathError{Op: op, Path: name, Err: err}
}

// Open implements io/fs.FS.
func (s stdFS) Open(name string) (iofs.File, error) {
	info, err := s.Stat(name)
	if err != nil {
		return nil, pathError("open", name, err.(*iofs.PathError).Err)
	}
	if info.IsDir() {
		d, err := s.fs.OpenDir(name, false)
		if err != nil {
			return nil, pathError("open", name, err)
		}
		return &stdDir{name, info, d}, nil
	}
	f, err := s.fs.OpenFile(name, OpenFlags{})
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &stdFile{File: f, name: name}, nil
}

// Stat implements io/fs.StatFS.
func (s stdFS) Stat(name string) (iofs.FileInfo, error) { return s.statPath("stat", name, s.fs.Stat) }

// Lstat implements io/fs.ReadLinkFS.
func (s stdFS) Lstat(name string) (iofs.FileInfo, error) {
	return s.statPath("lstat", name, s.fs.Lstat)
}

// statPath implements Stat and Lstat.
func (s stdFS) statPath(op, name string, stat func(string) (Info, error)) (iofs.FileInfo, error) {
	if !iofs.ValidPath(name) {
		return nil, pathError(op, name, iofs.ErrInvalid)
	}
	info, err := stat(name)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return fileInfo{info}, nil
}

// ReadLink implements io/fs.ReadLinkFS.
func (s stdFS) ReadLink(name string) (string, error) {
	if !iofs.ValidPath(name) {
		return "", pathError("readlink", name, iofs.ErrInvalid)
	}
	t, err := s.fs.Readlink(name)
	return t, pathError("readlink", name, err)
}

// ReadDir implements io/fs.ReadDirFS.
func (s stdFS) ReadDir(name string) ([]iofs.DirEntry, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(*stdDir)
	if !ok {
		return nil, pathError("readdir", name, syscall.ENOTDIR)
	}
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b iofs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, err
}

// stdFile implements io/fs.File and io.Seeker for a regular file.
type stdFile struct {
	*File
	name string
	off  int64
}

// Stat implements io/fs.File.
func (f *stdFile) Stat() (iofs.FileInfo, error) {
	info, err := f.File.Stat()
	info.Name = path.Base(f.name)
	return fileInfo{info}, pathError("stat", f.name, err)
}

// Read implements io.Reader; a read that returns data returns no io.EOF.
func (f *stdFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Seek implements io.Seeker.
func (f *stdFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		info, err := f.File.Stat()
		if err != nil {
			return 0, pathError("seek", f.name, err)
		}
		off += info.Size
	}
	if off < 0 {
		return 0, pathError("seek", f.name, iofs.ErrInvalid)
	}
	f.off = off
	return off, nil
}

// stdDir implements io/fs.ReadDirFile.
type stdDir struct {
	name string
	info iofs.FileInfo
	d    *Dir
}

func (d *stdDir) Stat() (iofs.FileInfo, error) { return d.info, nil }
func (d *stdDir) Close() error                 { return d.d.Close() }

func (d *stdDir) Read([]byte) (int, error) { return 0, pathError("read", d.name, syscall.EISDIR) }

// ReadDir implements io/fs.ReadDirFile.
func (d *stdDir) ReadDir(n int) ([]iofs.DirEntry, error) {
	list := []iofs.DirEntry{}
	for n <= 0 || len(list) < n {
		most := 256
		if n > 0 {
			most = n - len(list)
		}
		part, err := d.d.Read(most)
		for _, e := range part {
			list = append(list, iofs.FileInfoToDirEntry(fileInfo{e}))
		}
		if err == io.EOF {
			if n > 0 && len(list) == 0 {
				return list, io.EOF
			}
			break
		}
		if err != nil {
			return list, pathError("readdir", d.name, err)
		}
	}
	return list, nil
}

// fileInfo adapts an Info to io/fs.FileInfo.
type fileInfo struct{ i Info }

func (f fileInfo) Name() string        { return f.i.Name }
func (f fileInfo) Size() int64         { return f.i.Size }
func (f fileInfo) Mode() iofs.FileMode { return f.i.Mode }
func (f fileInfo) ModTime() time.Time  { return f.i.Mtime }
func (f fileInfo) IsDir() bool         { return f.i.Mode.IsDir() }
func (f fileInfo) Sys() any            { return f.i }
