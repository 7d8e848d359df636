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

// staleAfter is how old something in tmp must be before it is what a crash left.
const staleAfter = 24 * time.Hour

// maxKnown bounds how many directories a store remembers as durable.
const maxKnown = 1 << 16

// dirStore implements Store. An object is the file of its key beneath the directory.
// It is written to tmp, synced, and linked to its place, which fails where the name is
// taken; so what has a key's name is whole. os.Root resolves every name.
type dirStore struct {
	path string
	root *os.Root

	mu    sync.Mutex
	known map[string]bool // directories whose entries up to the top are durable
}

// OpenDir returns the store in a directory, which it makes if need be. Directories are
// 0700 and files 0600. The file system must have hard links. What puts that crashed
// left in tmp/ more than a day ago is removed.
func OpenDir(dir string) (Store, error) {
	s, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open blobs in %s: %w", dir, err)
	}
	return s, nil
}

func openDir(dir string) (*dirStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeTop(dir); err != nil {
		return nil, sysErr(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, sysErr(err)
	}
	s := &dirStore{path: dir, root: root, known: map[string]bool{}}
	// tmp need not be durable: nothing in it outlives the put that made it.
	err = s.mutate("mkdir", tmpDir, func() error { return root.Mkdir(tmpDir, 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.EROFS) {
		root.Close()
		return nil, sysErr(err)
	}
	s.removeStale(time.Now().Add(-staleAfter))
	return s, nil
}

// makeTop makes a directory and those above it, durably.
func makeTop(dir string) error {
	err := fault.Do("mkdir", dir, func() error { return os.Mkdir(dir, 0o700) })
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeTop(filepath.Dir(dir)); err == nil {
			err = fault.Do("mkdir", dir, func() error { return os.Mkdir(dir, 0o700) })
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// removeStale removes what is in tmp since before the time. That it fails is no harm;
// the next open tries again.
func (s *dirStore) removeStale(before time.Time) {
	d, err := s.root.Open(tmpDir)
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		name = tmpDir + "/" + name
		if st, err := s.root.Lstat(name); err == nil && st.ModTime().Before(before) {
			s.discard(name)
		}
	}
}

// discard removes a file of tmp.
func (s *dirStore) discard(name string) {
	_ = s.mutate("unlink", name, func() error { return s.root.Remove(name) })
}

// mutate runs a call that changes the directory, under the eyes of fault.
func (s *dirStore) mutate(op, name string, call func() error) error {
	return fault.Do(op, filepath.Join(s.path, filepath.FromSlash(name)), call)
}

// Put implements Store.
func (s *dirStore) Put(ctx context.Context, key string, data []byte, sum uint32) error {
	if err := enter(ctx, key); err != nil {
		return failed("put", key, err)
	}
	if crc32.Checksum(data, Castagnoli) != sum {
		return failed("put", key, badSum())
	}
	return failed("put", key, s.store(key, func(f *os.File) (int64, uint32, error) {
		n, err := f.Write(data)
		return int64(n), sum, err
	}))
}

// Write implements Store.
func (s *dirStore) Write(ctx context.Context, key string, r io.Reader) error {
	if err := enter(ctx, key); err != nil {
		return failed("write", key, err)
	}
	return failed("write", key, s.store(key, func(f *os.File) (int64, uint32, error) {
		sum := crc32.New(Castagnoli)
		n, err := io.Copy(f, io.TeeReader(&ctxReader{ctx, r}, sum))
		return n, sum.Sum32(), err
	}))
}

// ctxReader is a reader that ends when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// store makes the object of key of what fill writes. fill returns size and checksum.
func (s *dirStore) store(key string, fill func(*os.File) (int64, uint32, error)) error {
	tmp := tmpDir + "/" + rand.Text()
	defer s.discard(tmp)
	size, sum, err := s.stage(tmp, fill)
	if err != nil {
		return sysErr(err)
	}
	err = s.makeDirs(path.Dir(key))
	if err == nil {
		err = s.link(tmp, key)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// Someone removed a directory that was made before.
		s.forget()
		if err = s.makeDirs(path.Dir(key)); err == nil {
			err = s.link(tmp, key)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		err = s.compare(key, size, sum)
	}
	if err != nil {
		return sysErr(err)
	}
	// Also where it was there before: who put it may have died before this.
	if err := s.syncDir(path.Dir(key)); err != nil {
		return uncertain(sysErr(err))
	}
	return nil
}

// stage writes a file of tmp, durably.
func (s *dirStore) stage(tmp string, fill func(*os.File) (int64, uint32, error)) (size int64, sum uint32, err error) {
	var f *os.File
	err = s.mutate("create", tmp, func() (err error) {
		f, err = s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	err = s.mutate("write", tmp, func() (err error) { size, sum, err = fill(f); return err })
	if err == nil {
		err = durable.Sync(f)
	}
	return size, sum, errors.Join(err, f.Close())
}

// link gives a file of tmp its name, unless that is taken: fs.ErrExist.
func (s *dirStore) link(tmp, key string) error {
	err := s.mutate("link", key, func() error { return s.root.Link(tmp, key) })
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
		return driver.Errorf(driver.ErrUnsupported, "the file system of %s has no hard links; use another for blobs", s.path)
	}
	return err
}

// compare returns ErrExists unless the object at key has that size and checksum.
func (s *dirStore) compare(key string, size int64, sum uint32) error {
	f, st, err := s.open(key)
	if errors.Is(err, fs.ErrNotExist) {
		// What is there is a directory, or was just deleted.
		return taken()
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Size() != size {
		return taken()
	}
	got := crc32.New(Castagnoli)
	if err := copyAll(got, f); err != nil {
		return err
	}
	if got.Sum32() != sum {
		return taken()
	}
	return nil
}

func copyAll(h hash.Hash32, r io.Reader) error {
	_, err := io.CopyBuffer(h, r, make([]byte, 256<<10))
	return err
}

// makeDirs makes a directory and those above it, durably. A directory that is there
// counts as durable only if this store saw to it: who made it may have died before.
func (s *dirStore) makeDirs(dir string) error {
	s.mu.Lock()
	known := s.known[dir]
	s.mu.Unlock()
	if dir == "." || known {
		return nil
	}
	up := path.Dir(dir)
	if err := s.makeDirs(up); err != nil {
		return err
	}
	err := s.mutate("mkdir", dir, func() error { return s.root.Mkdir(dir, 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.syncDir(up); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[dir] = true
	return nil
}

func (s *dirStore) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
}

// syncDir makes the entries of a directory durable.
func (s *dirStore) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return durable.Sync(d)
}

// enter is how every method begins.
func enter(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkKey(key)
}
