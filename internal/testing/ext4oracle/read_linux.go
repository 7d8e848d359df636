package ext4oracle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadOptions says what [ReadTree] leaves out.
type ReadOptions struct {
	NoContent bool // leave out the sums of files
	NoHoles   bool // leave out the hole maps
	NoXattrs  bool
}

// treeReader reads a directory into a tree. It goes by descriptors, not by paths, so names
// may be any bytes and paths of any length.
type treeReader struct {
	opts ReadOptions
	tree Tree
}

// ReadTree takes a snapshot of a directory through the kernel. It does not change access
// times of files and directories, but those of symbolic links unless the mount is
// read-only. Files that are being written may have other hole maps later.
func ReadTree(dir string, opts ReadOptions) (Tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	r := &treeReader{opts: opts, tree: Tree{}}
	if err := r.readNode(fd, "."); err != nil {
		return nil, err
	}
	return r.tree, nil
}

// readNode adds the file behind an O_PATH descriptor, and everything beneath it.
func (r *treeReader) readNode(fd int, at string) error {
	n, err := statNode(fd)
	if err == nil && !r.opts.NoXattrs {
		n.Xattrs, err = readXattrs(fd)
	}
	if err == nil {
		switch n.Type() {
		case TypeSymlink:
			n.Target, err = readTarget(fd)
		case TypeRegular:
			err = r.readContent(fd, n)
		case TypeDir:
			err = r.readChildren(fd, at)
		}
	}
	if err != nil {
		// The innermost path is the one to report.
		if _, told := errors.AsType[*treeError](err); told {
			return err
		}
		return &treeError{at, err}
	}
	r.tree[at] = n
	return nil
}

// treeError is an error with the path where it occurred.
type treeError struct {
	path string
	err  error
}

func (e *treeError) Error() string { return fmt.Sprintf("reading %q: %v", e.path, e.err) }
func (e *treeError) Unwrap() error { return e.err }

// readChildren adds all files of a directory.
func (r *treeReader) readChildren(fd int, at string) error {
	dir, err := reopenForReading(fd, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	// A broken index may make the kernel list a name twice.
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if seen[name] {
			return fmt.Errorf("the directory lists %q twice", name)
		}
		seen[name] = true
		child, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &treeError{path.Join(at, name), err}
		}
		err = r.readNode(child, path.Join(at, name))
		unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

// readContent sets the sum and the hole map of a regular file.
func (r *treeReader) readContent(fd int, n *Node) error {
	if r.opts.NoContent && r.opts.NoHoles {
		return nil
	}
	f, err := reopenForReading(fd, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	// Preallocated space looks like data when it is in the page cache. Drop what is
	// there, and do not let the kernel read ahead.
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	data, err := dataRanges(f, n.Size)
	if err != nil {
		return err
	}
	if !r.opts.NoHoles {
		n.Data = Widen(data, n.Size)
	}
	if !r.opts.NoContent {
		n.Sum, err = SumAt(f, n.Size, data)
	}
	return err
}

// dataRanges asks the kernel which parts of a file are not holes.
func dataRanges(f *os.File, size int64) ([]Range, error) {
	var data []Range
	for off := int64(0); off < size; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		data = append(data, Range{start, end - start})
		off = end
	}
	_, err := f.Seek(0, io.SeekStart)
	return data, err
}

// procPath returns a path for the file behind a descriptor.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// reopenForReading opens the file behind an O_PATH descriptor, without changing its access
// time.
func reopenForReading(fd int, flags int) (*os.File, error) {
	// An O_PATH descriptor cannot be read, and its path may be longer than a call accepts.
	n, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), procPath(fd)), nil
}

// statNode returns the result of statx for the file behind a descriptor.
func statNode(fd int) (*Node, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW,
		unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err != nil {
		return nil, err
	}
	at := func(t unix.StatxTimestamp) Time { return Time{t.Sec, t.Nsec} }
	n := &Node{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Size: int64(st.Size), Nlink: uint64(st.Nlink),
		Ino: st.Ino, Blocks: int64(st.Blocks), Major: st.Rdev_major, Minor: st.Rdev_minor,
		Atime: at(st.Atime), Mtime: at(st.Mtime), Ctime: at(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		n.Btime = at(st.Btime)
	}
	return n, nil
}

// readTarget returns the target of the symbolic link behind a descriptor.
func readTarget(fd int) (string, error) {
	buf := make([]byte, 8192) // no system call takes more than a page
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// readXattrs returns all extended attributes of the file behind a descriptor; nil if none.
func readXattrs(fd int) (map[string]string, error) {
	file := procPath(fd)
	list, err := callWithBuffer(func(buf []byte) (int, error) { return unix.Listxattr(file, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil || len(list) == 0 {
		return nil, err
	}
	xattrs := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		value, err := callWithBuffer(func(buf []byte) (int, error) { return unix.Getxattr(file, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("xattr %q: %w", name, err)
		}
		xattrs[name] = value
	}
	return xattrs, nil
}

// callWithBuffer calls a function that fills a buffer, with larger ones until it fits.
func callWithBuffer(call func([]byte) (int, error)) (string, error) {
	buf := make([]byte, 512)
	for {
		n, err := call(buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 1<<20 {
			buf = make([]byte, 4*len(buf))
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}
