package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// guestTree is the sandbox's root file system while the helper assembles it. An image, a
// volume, and a sandbox that runs beside this one and shares a volume may all put links
// into it at any time, so no path in it is ever left to the kernel's or the runtime's
// resolution: resolve walks from handle to handle and follows links itself, as if the
// tree's root were "/". Nothing of procfs is mounted in the tree, which leaves no magic
// links to meet.
type guestTree struct {
	root    *os.File
	volumes map[uint64]string // by mount id, where each volume is mounted
}

// lookup says how a path of the tree is resolved. The zero value looks and changes nothing.
type lookup struct {
	create bool // make the directories that are missing
	file   bool // with create: make the last element a file
	mounts bool // refuse links that lie in a volume: what is resolved is a mount's target
}

// guestFile is what a path of the tree led to. The caller closes it.
type guestFile struct {
	*os.File        // opened with O_PATH
	path     string // without links
	stat     unix.Stat_t
}

// byHandle names the file by its handle, for calls that take a path.
func (f guestFile) byHandle() string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// What only the runtime mounts, the helper does not see.
var (
	errProcfs = errors.New("lies in /proc, where links lead to anything that a process has open")
	errUnseen = errors.New("lies in /dev, which is made when the sandbox starts")
)

const maxLinks = 40 // as many as the kernel follows

func openTree(root string) (*guestTree, error) {
	f, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &guestTree{root: f, volumes: map[uint64]string{}}, nil
}

// walk is one resolution: the handles of the directories from the root to where it is.
type walk struct {
	tree  *guestTree
	how   lookup
	at    []guestFile
	rest  []string // elements still to go
	links int
}

// resolve opens a path of the tree. Its errors are the system's, errProcfs, errUnseen,
// and ErrInvalid for what a lookup refuses.
func (g *guestTree) resolve(p string, how lookup) (guestFile, error) {
	if len(p) >= unix.PathMax {
		return guestFile{}, unix.ENAMETOOLONG
	}
	w := walk{tree: g, how: how, rest: strings.Split(p, "/")}
	top, err := reopen(g.root)
	if err != nil {
		return guestFile{}, err
	}
	w.at = []guestFile{{File: top, path: "/"}}
	if err = unix.Fstat(int(top.Fd()), &w.at[0].stat); err == nil {
		err = w.run()
	}
	last := w.at[len(w.at)-1]
	if err == nil {
		w.at = w.at[:len(w.at)-1]
	}
	for _, f := range w.at {
		f.Close()
	}
	if err != nil {
		return guestFile{}, err
	}
	return last, nil
}

func reopen(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (w *walk) run() error {
	for len(w.rest) > 0 {
		if w.at[len(w.at)-1].stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		name := w.rest[0]
		w.rest = w.rest[1:]
		var err error
		switch {
		case name == "" || name == ".":
		case name == ".." && len(w.at) == 1: // "/.." is "/"
		case name == "..":
			w.leave(len(w.at) - 1)
		default:
			err = w.enter(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leave goes back up until depth directories are left.
func (w *walk) leave(depth int) {
	for _, f := range w.at[depth:] {
		f.Close()
	}
	w.at = w.at[:depth]
}

// enter opens one element of the directory reached so far, and follows it when it is a link.
func (w *walk) enter(name string) error {
	dir := w.at[len(w.at)-1]
	next := guestFile{path: path.Join(dir.path, name)}
	switch {
	case next.path == "/proc":
		return errProcfs
	case dir.path == "/dev":
		return errUnseen
	}
	f, err := w.child(dir, name)
	if err != nil {
		return err
	}
	next.File = f
	if err := unix.Fstat(int(f.Fd()), &next.stat); err != nil {
		f.Close()
		return err
	}
	if next.stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		w.at = append(w.at, next)
		return nil
	}
	defer f.Close()
	return w.follow(next)
}

func (w *walk) isLast() bool {
	for _, name := range w.rest {
		if name != "" && name != "." {
			return false
		}
	}
	return true
}

// child opens an element of a directory, which it makes when that is asked for.
func (w *walk) child(dir guestFile, name string) (*os.File, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case err == unix.EINTR:
			continue
		case err != unix.ENOENT || !w.how.create || try > 10:
			return nil, err
		}
		if w.how.file && w.isLast() {
			fd, err = unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
		} else {
			err = unix.Mkdirat(int(dir.Fd()), name, 0o755)
		}
		if err != nil && err != unix.EEXIST {
			return nil, err
		}
	}
}

// follow puts a link's target before what is still to be resolved.
func (w *walk) follow(link guestFile) error {
	if w.how.mounts {
		id, err := mountID(link.File)
		if err != nil {
			return err
		}
		if at, ok := w.tree.volumes[id]; ok {
			return driver.Errorf(vole.ErrInvalid, "%s is a link in the volume at %s, which must not redirect another mount", link.path, at)
		}
	}
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", b)
	if err != nil {
		return err
	}
	target := string(b[:n])
	if path.IsAbs(target) {
		w.leave(1)
	}
	w.rest = append(strings.Split(target, "/"), w.rest...)
	return nil
}

// mountID tells the mount that an open file is of.
func mountID(f *os.File) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, fmt.Errorf("statx: %w", unix.ENOSYS)
	}
	return st.Mnt_id, nil
}
