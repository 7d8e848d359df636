//go:build unix

package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/unix"
)

// hostSource is a hostTree to read from. It keeps open the directory and the file that it
// used last: the files of a tree follow one another, and resolving the path of each again takes
// longer than copying it.
type hostSource struct {
	*hostTree
	plain bool // no attributes are read: Options.Plain

	mu       sync.Mutex // guards what follows
	rootDir  *os.File   // the root, nil until needed
	lastDir  *sharedDir
	lastFile *hostFile
}

// sharedDir is an open directory, closed with its last reference.
type sharedDir struct {
	path string
	f    *os.File
	refs int // guarded by hostSource.mu
}

// hostFile is an open regular file. It implements sparse.Content.
type hostFile struct {
	ctx  context.Context // of the copy this belongs to: io.Reader has no place for one
	tree *hostTree
	path string
	fd   int
	size int64 // when it was opened
	off  int64
}

func newHostSource(h *Host) *hostSource { return &hostSource{hostTree: &hostTree{h, nil}} }

// Close closes the files that are kept open.
func (s *hostSource) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rememberDir(nil)
	s.rememberFile(nil)
	if s.rootDir == nil {
		return nil
	}
	return s.rootDir.Close()
}

// rememberDir makes d the directory that is kept open. s.mu is held.
func (s *hostSource) rememberDir(d *sharedDir) {
	old := s.lastDir
	if s.lastDir = d; d != nil {
		d.refs++
	}
	if old != nil {
		s.releaseLocked(old)
	}
}

// releaseLocked gives up one use of a directory. s.mu is held.
func (s *hostSource) releaseLocked(d *sharedDir) {
	if d.refs--; d.refs == 0 {
		d.f.Close()
	}
}

// rememberFile makes f the file that is kept open for the next call of open. s.mu is held.
func (s *hostSource) rememberFile(f *hostFile) {
	if s.lastFile != nil {
		s.lastFile.Close()
	}
	s.lastFile = f
}

// acquireDir returns the open directory at p, to be given to release.
func (s *hostSource) acquireDir(p string) (*sharedDir, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastDir == nil || s.lastDir.path != p {
		if s.rootDir == nil {
			top, err := s.root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				return nil, err
			}
			s.rootDir = top
		}
		f, err := beneath.OpenWithin(s.root, s.rootDir, p)
		if err != nil {
			return nil, err
		}
		s.rememberDir(&sharedDir{path: p, f: f})
	}
	s.lastDir.refs++
	return s.lastDir, nil
}

func (s *hostSource) releaseDir(d *sharedDir) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(d)
}

// withOpenParent runs fn on the open directory that holds p.
func (s *hostSource) withOpenParent(op, p string, fn func(dirfd int, base string) error) error {
	d, err := s.acquireDir(path.Dir(p))
	if err != nil {
		return s.wrapError(op, p, err)
	}
	defer s.releaseDir(d)
	return s.wrapError(op, p, fn(int(d.f.Fd()), path.Base(p)))
}

// openBeside opens for reading an entry that was just seen as a file or directory, without following a
// link, and without waiting in case it has become a fifo.
func openBeside(dirfd int, base string, flag int) (fd int, err error) {
	err = beneath.RetryInterrupted(func() error {
		fd, err = unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC|flag, 0)
		return err
	})
	return fd, err
}

// describeEntry is lstat without what takes more than one system call: attributes, and the
// target of a link.
func (s *hostSource) describeEntry(p string) (it item, err error) {
	err = s.withOpenParent("lstat", p, func(dirfd int, base string) error {
		var st unix.Stat_t
		err := beneath.RetryInterrupted(func() error { return unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW) })
		it = itemOfStat(&st)
		return err
	})
	return it, err
}

// lstat describes p. A regular file stays open for the call of openFile that follows.
func (s *hostSource) lstat(ctx context.Context, p string) (item, error) {
	it, err := s.describeEntry(p)
	if err != nil {
		return it, err
	}
	switch {
	case it.mode&fs.ModeSymlink != 0:
		it.target, err = s.root.Readlink(p)
	case s.plain:
	case it.mode.IsRegular():
		var f *hostFile
		if f, it, err = s.openRegular(ctx, p); err != nil {
			return it, err
		}
		if err = readHostXattrs(f.fd, &it); err != nil {
			f.Close()
			break
		}
		s.mu.Lock()
		s.rememberFile(f)
		s.mu.Unlock()
	case it.mode.IsDir():
		err = s.withOpenParent("read", p, func(dirfd int, base string) error {
			fd, err := openBeside(dirfd, base, unix.O_DIRECTORY)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return readHostXattrs(fd, &it)
		})
	}
	return it, s.wrapError("read", p, err)
}

// openRegular opens a regular file and describes the open file.
func (s *hostSource) openRegular(ctx context.Context, p string) (f *hostFile, it item, err error) {
	err = s.withOpenParent("open", p, func(dirfd int, base string) error {
		fd, err := openBeside(dirfd, base, 0)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.New("is no longer a regular file")
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		it = itemOfStat(&st)
		f = &hostFile{ctx: ctx, path: p, tree: s.hostTree, fd: fd, size: st.Size}
		return nil
	})
	return f, it, err
}

// openFile returns the content of a regular file.
func (s *hostSource) openFile(ctx context.Context, p string, _ int64) (sparse.Content, error) {
	s.mu.Lock()
	f := s.lastFile
	if f != nil && f.path == p {
		s.lastFile, f.ctx = nil, ctx
		s.mu.Unlock()
		return f, nil
	}
	s.mu.Unlock()
	f, _, err := s.openRegular(ctx, p)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// listNames lists a directory, which stays open for the look-ups of its entries that follow.
func (s *hostSource) listNames(ctx context.Context, p string, _ *item) ([]string, error) {
	f, err := s.openDirectory(p, s.withOpenParent)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	d := &sharedDir{path: path.Clean(p), f: f, refs: 1}
	s.rememberDir(d)
	s.mu.Unlock()
	defer s.releaseDir(d)
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, s.wrapError("list", p, err)
}

// itemOfStat describes what stat(2) has told of.
func itemOfStat(st *unix.Stat_t) item {
	it := item{
		mode: filemode.Go(uint32(st.Mode)), size: st.Size, mtime: time.Unix(st.Mtim.Unix()), uid: int(st.Uid), gid: int(st.Gid),
		id: fileID{uint64(st.Dev), st.Ino}, nlink: uint64(st.Nlink), rdev: linuxRdev(uint64(st.Rdev)), stored: st.Blocks * 512,
	}
	it.sparse = it.mode.IsRegular() && it.size-it.stored >= holeMin
	return it
}

// readHostXattrs reads the extended attributes that are copied; the others are the host's own
// affair.
func readHostXattrs(fd int, it *item) error {
	var first [256]byte
	buf := first[:]
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ERANGE) {
		if n, err = unix.Flistxattr(fd, nil); err != nil {
			return err
		}
		buf = make([]byte, n)
		n, err = unix.Flistxattr(fd, buf)
	}
	if n == 0 || err != nil {
		return ignoreUnsupported(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !isCopiedAttribute(name) {
			continue
		}
		val := make([]byte, driver.MaxXattrLen)
		n, err := unix.Fgetxattr(fd, name, val)
		if err != nil {
			return err
		}
		it.setAttribute(name, slices.Clone(val[:n]))
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// Read implements io.Reader. What the file has grown by since it was opened is left out.
func (f *hostFile) Read(p []byte) (n int, err error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	if f.size > 0 && f.off >= f.size { // 0: a file of /proc does not know
		return 0, io.EOF
	}
	err = beneath.RetryInterrupted(func() error {
		n, err = unix.Read(f.fd, p)
		return err
	})
	if err != nil {
		return 0, f.wrapError("read", err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	f.off += int64(n)
	return n, nil
}

// NextData implements sparse.Content.
func (f *hostFile) NextData(context.Context) (off, n int64, err error) {
	start, err := unix.Seek(f.fd, f.off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, f.wrapError("seek", err)
	}
	end, err := unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err == nil {
		_, err = unix.Seek(f.fd, start, io.SeekStart)
	}
	f.off = start
	return start, end - start, f.wrapError("seek", err)
}

func (f *hostFile) wrapError(op string, err error) error { return f.tree.wrapError(op, f.path, err) }

// Close implements io.Closer.
func (f *hostFile) Close() error {
	if f.fd < 0 {
		return syscall.EBADF
	}
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}
