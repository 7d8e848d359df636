package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
)

// openObject opens the object of key. fs.ErrNotExist: there is none, or the name is that of a
// directory.
func (s *dirStore) openObject(key string) (*os.File, fs.FileInfo, error) {
	f, err := s.root.Open(key)
	if err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			err = fs.ErrNotExist
		}
		return nil, nil, translateSysErr(err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, translateSysErr(err)
	}
	return f, st, nil
}

// Ping implements Store. It fails if the directory was removed, or another was mounted over
// it: this process still has the old one open, but the next start would find another.
func (s *dirStore) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := s.root.Stat(".")
	if err != nil {
		return translateSysErr(err)
	}
	there, err := os.Stat(s.path)
	if err != nil {
		return translateSysErr(err)
	}
	if !os.SameFile(have, there) {
		return driver.Errorf(driver.ErrUnavailable, "%s is no longer the directory that was opened", s.path)
	}
	d, err := s.root.Open(".")
	if err != nil {
		return translateSysErr(err)
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return translateSysErr(err)
	}
	return nil
}

// ReadAt implements Store.
func (s *dirStore) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	err := checkCall(ctx, key)
	if err == nil {
		err = s.readObjectAt(key, p, off)
	}
	return wrapFailure("read", key, err)
}

// readObjectAt is ReadAt without the key in its errors.
func (s *dirStore) readObjectAt(key string, p []byte, off int64) error {
	if off < 0 {
		return offsetError(off)
	}
	f, st, err := s.openObject(key)
	if err != nil {
		return err
	}
	defer f.Close()
	// Written so that nothing can overflow.
	if off > st.Size() || int64(len(p)) > st.Size()-off {
		return truncatedError(off + int64(len(p)))
	}
	_, err = f.ReadAt(p, off)
	if errors.Is(err, io.EOF) && len(p) > 0 {
		return truncatedError(off + int64(len(p)))
	}
	return translateSysErr(err)
}

// offsetError is the error for a negative offset.
func offsetError(off int64) error {
	return driver.Errorf(driver.ErrInvalid, "offset %d: must not be negative", off)
}

// Delete implements Store.
func (s *dirStore) Delete(ctx context.Context, key string) error {
	err := checkCall(ctx, key)
	if err == nil {
		err = s.removeObject(key)
	}
	return wrapFailure("delete", key, err)
}

// removeObject removes the object of key, durably. Its directory stays: removing it would race
// with puts, and the next object comes soon.
func (s *dirStore) removeObject(key string) error {
	if st, err := s.root.Lstat(key); isMissing(err) {
		// Another process may have removed the object and died before its sync.
		if err := s.syncDir(path.Dir(key)); !isMissing(err) {
			return translateSysErr(err)
		}
		return nil
	} else if err == nil && st.IsDir() {
		return nil // a directory of keys is no object
	}
	err := s.mutateWithFaults("unlink", key, func() error { return s.root.Remove(key) })
	if err != nil && !isMissing(err) {
		return translateSysErr(err)
	}
	return translateSysErr(s.syncDir(path.Dir(key)))
}

// isMissing reports whether a name, or a directory on the way to it, does not exist.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Stat implements Store.
func (s *dirStore) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkCall(ctx, key); err != nil {
		return Info{}, wrapFailure("stat", key, err)
	}
	st, err := s.root.Lstat(key)
	if isMissing(err) || err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, wrapFailure("stat", key, translateSysErr(err))
	}
	return Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil
}

// Open implements Store.
func (s *dirStore) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkCall(ctx, key); err != nil {
		return nil, wrapFailure("open", key, err)
	}
	f, _, err := s.openObject(key)
	if err != nil {
		return nil, wrapFailure("open", key, err)
	}
	return &struct {
		contextReader
		io.Closer
	}{contextReader{ctx, f}, f}, nil
}

// List implements Store.
func (s *dirStore) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		err := checkPrefix(prefix)
		if err == nil {
			// Fails if the store is closed; below, that could pass for a missing directory.
			_, err = s.root.Lstat(".")
		}
		if err == nil {
			_, err = s.walkObjects(ctx, path.Dir(prefix+"x"), prefix, yield)
		}
		if err != nil {
			yield(Info{}, wrapFailure("list", prefix, translateSysErr(err)))
		}
	}
}

// walkObjects yields the objects beneath a directory whose keys begin with prefix. It returns
// false if yield did.
func (s *dirStore) walkObjects(ctx context.Context, dir, prefix string, yield func(Info, error) bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	entries, err := s.readSortedDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		key := path.Join(dir, e.name)
		switch {
		case e.dir && strings.HasPrefix(key+"/", prefix), e.dir && strings.HasPrefix(prefix, key+"/"):
			if dir == "." && e.name == tmpDir {
				continue
			}
			if more, err := s.walkObjects(ctx, key, prefix, yield); !more || err != nil {
				return more, err
			}
		case !e.dir && strings.HasPrefix(key, prefix):
			st, err := s.root.Lstat(key)
			if isMissing(err) || err == nil && !st.Mode().IsRegular() {
				continue
			}
			if err != nil {
				return false, err
			}
			if !yield(Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil) {
				return false, nil
			}
		}
	}
	return true, nil
}

// dirEntry is a name in a directory.
type dirEntry struct {
	name string
	dir  bool
}

// readSortedDir returns the entries of a directory in the order of the keys there: "a-b" comes
// before "a/b".
func (s *dirStore) readSortedDir(dir string) ([]dirEntry, error) {
	d, err := s.root.Open(dir)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	found, err := d.ReadDir(-1)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	list := make([]dirEntry, len(found))
	for i, f := range found {
		list[i] = dirEntry{f.Name(), f.IsDir()}
	}
	slices.SortFunc(list, func(a, b dirEntry) int { return strings.Compare(a.sortKey(), b.sortKey()) })
	return list, nil
}

// sortKey is what the entry's keys begin with.
func (e dirEntry) sortKey() string {
	if e.dir {
		return e.name + "/"
	}
	return e.name
}

// PresignPut implements Store.
func (s *dirStore) PresignPut(context.Context, string, int64, uint32, time.Duration) (Request, error) {
	return Request{}, errNoSigning
}

// PresignGet implements Store.
func (s *dirStore) PresignGet(context.Context, string, time.Duration) (Request, error) {
	return Request{}, errNoSigning
}

// errNoSigning is the error of a directory for signed requests.
var errNoSigning = driver.Errorf(driver.ErrUnsupported, "a directory cannot sign requests; use an S3 bucket")

// Close implements Store.
func (s *dirStore) Close() error { return s.root.Close() }

// translateSysErr makes an error of the system match a sentinel of package driver.
func translateSysErr(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.EDQUOT:
		// ErrNoSpace, not ErrQuota: it is the quota of the store's file system, not of a volume.
		return driver.Errorf(driver.ErrNoSpace, "%v", errno)
	case syscall.ENOENT, syscall.EEXIST:
		return err
	}
	if kind := driver.FromErrno(errno); kind != error(errno) {
		return driver.Errorf(kind, "%v", errno)
	}
	return err
}
