package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/fault"
)

// staleAfter is the age at which a file in tmp counts as left behind by a crash.
const staleAfter = 24 * time.Hour

// maxDurableDirs bounds how many directories a store remembers as durable.
const maxDurableDirs = 1 << 16

// dirStore implements Store. An object is a file with its key as the path. It is written in
// tmp, synced, and linked to its path, which fails if the name is taken. So a file with a
// key's name is complete. os.Root resolves every name.
type dirStore struct {
	path string
	root *os.Root

	faults *fault.Injector // nil outside tests

	mu          sync.Mutex      // guards durableDirs
	durableDirs map[string]bool // directories that are synced, with those above them
}

// OpenDir returns the store in a directory, which it makes if it is missing. Directories have
// mode 0700, files 0600. The file system must have hard links. Files that crashed puts left in
// tmp more than a day ago are removed. Tests inject faults; otherwise faults is nil.
func OpenDir(dir string, faults *fault.Injector) (Store, error) {
	s, err := openDirStore(dir, faults)
	if err != nil {
		return nil, fmt.Errorf("open blobs in %s: %w", dir, err)
	}
	return s, nil
}

// openDirStore is OpenDir without the path in its errors.
func openDirStore(dir string, faults *fault.Injector) (*dirStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(dir); err != nil {
		return nil, translateSysErr(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, translateSysErr(err)
	}
	s := &dirStore{path: dir, root: root, faults: faults, durableDirs: map[string]bool{}}
	// tmp need not be durable: nothing in it is needed after a crash.
	err = s.mutateWithFaults("mkdir", tmpDir, func() error { return root.Mkdir(tmpDir, 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.EROFS) {
		root.Close()
		return nil, translateSysErr(err)
	}
	s.removeStaleTmp(time.Now().Add(-staleAfter))
	return s, nil
}

// removeStaleTmp removes files in tmp that are older than a time. Failures are ignored: the
// next open tries again.
func (s *dirStore) removeStaleTmp(before time.Time) {
	d, err := s.root.Open(tmpDir)
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		name = tmpDir + "/" + name
		if st, err := s.root.Lstat(name); err == nil && st.ModTime().Before(before) {
			s.removeTmpFile(name)
		}
	}
}

// removeTmpFile removes a file in tmp.
func (s *dirStore) removeTmpFile(name string) {
	_ = s.mutateWithFaults("unlink", name, func() error { return s.root.Remove(name) })
}

// mutateWithFaults runs a call that changes the directory, in which tests inject faults.
func (s *dirStore) mutateWithFaults(op, name string, call func() error) error {
	return s.faults.Do(op, filepath.Join(s.path, filepath.FromSlash(name)), call)
}

// Put implements Store.
func (s *dirStore) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	if err := checkCall(ctx, key); err != nil {
		return wrapFailure("put", key, err)
	}
	if crc32.Checksum(data, Castagnoli) != sum {
		return wrapFailure("put", key, errChecksum)
	}
	return wrapFailure("put", key, s.storeObject(key, func(f *os.File) (int64, uint32, error) {
		n, err := f.Write(data)
		return int64(n), sum, err
	}))
}

// Write implements Store.
func (s *dirStore) Write(ctx context.Context, key string, r io.Reader) error {
	if err := checkCall(ctx, key); err != nil {
		return wrapFailure("write", key, err)
	}
	return wrapFailure("write", key, s.storeObject(key, func(f *os.File) (int64, uint32, error) {
		sum := crc32.New(Castagnoli)
		n, err := io.Copy(f, io.TeeReader(&contextReader{ctx, r}, sum))
		return n, sum.Sum32(), err
	}))
}

// contextReader is a reader that fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// storeObject makes an object of what fill writes. fill returns its size and checksum.
func (s *dirStore) storeObject(key string, fill func(*os.File) (int64, uint32, error)) error {
	tmp := tmpDir + "/" + rand.Text()
	defer s.removeTmpFile(tmp)
	size, sum, err := s.writeTmpFile(tmp, fill)
	if err != nil {
		return translateSysErr(err)
	}
	err = s.ensureDirs(path.Dir(key))
	if err == nil {
		err = s.linkIntoPlace(tmp, key)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// A directory that this store had made was removed since.
		s.forgetDurableDirs()
		if err = s.ensureDirs(path.Dir(key)); err == nil {
			err = s.linkIntoPlace(tmp, key)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		err = s.compareObject(key, size, sum)
	}
	if err != nil {
		return translateSysErr(err)
	}
	// Even if the object existed before: the process that put it may have died before its sync.
	if err := s.syncDir(path.Dir(key)); err != nil {
		return markUncertain(translateSysErr(err))
	}
	return nil
}

// writeTmpFile writes a file in tmp and syncs it.
func (s *dirStore) writeTmpFile(tmp string, fill func(*os.File) (int64, uint32, error)) (size int64, sum uint32, err error) {
	var f *os.File
	err = s.mutateWithFaults("create", tmp, func() (err error) {
		f, err = s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	err = s.mutateWithFaults("write", tmp, func() (err error) { size, sum, err = fill(f); return err })
	if err == nil {
		err = s.mutateWithFaults("fsync", tmp, f.Sync)
	}
	return size, sum, errors.Join(err, f.Close())
}

// linkIntoPlace gives a file in tmp the name of key. fs.ErrExist: that is taken.
func (s *dirStore) linkIntoPlace(tmp, key string) error {
	err := s.mutateWithFaults("link", key, func() error { return s.root.Link(tmp, key) })
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
		return driver.Errorf(driver.ErrUnsupported, "the file system of %s has no hard links; use another for blobs", s.path)
	}
	return err
}

// compareObject returns ErrExists unless the object of key has that size and checksum.
func (s *dirStore) compareObject(key string, size int64, sum uint32) error {
	f, st, err := s.openObject(key)
	if errors.Is(err, fs.ErrNotExist) {
		// The name is that of a directory, or was just removed.
		return errKeyTaken
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Size() != size {
		return errKeyTaken
	}
	got := crc32.New(Castagnoli)
	if err := hashAll(got, f); err != nil {
		return err
	}
	if got.Sum32() != sum {
		return errKeyTaken
	}
	return nil
}

// hashAll writes all of r to h.
func hashAll(h hash.Hash32, r io.Reader) error {
	_, err := io.CopyBuffer(h, r, make([]byte, 256<<10))
	return err
}

// ensureDirs makes a directory and its parents, durably. An existing directory counts as
// durable only if this store has synced its parent: the process that made it may have died
// before that.
func (s *dirStore) ensureDirs(dir string) error {
	s.mu.Lock()
	known := s.durableDirs[dir]
	s.mu.Unlock()
	if dir == "." || known {
		return nil
	}
	up := path.Dir(dir)
	if err := s.ensureDirs(up); err != nil {
		return err
	}
	err := s.mutateWithFaults("mkdir", dir, func() error { return s.root.Mkdir(dir, 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.syncDir(up); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.durableDirs) >= maxDurableDirs {
		clear(s.durableDirs)
	}
	s.durableDirs[dir] = true
	return nil
}

// forgetDurableDirs has ensureDirs check all directories again.
func (s *dirStore) forgetDurableDirs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.durableDirs)
}

// syncDir makes the entries of a directory durable.
func (s *dirStore) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return s.mutateWithFaults("fsync", dir, d.Sync)
}

// checkCall begins every method: it returns the error of ctx, or ErrInvalid for a bad key.
func checkCall(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkKey(key)
}
