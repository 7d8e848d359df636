package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pathwalk"
	"golang.org/x/sys/unix"
)

// guestTree is the sandbox's root file system while the helper assembles it. An image, a
// volume, and a sandbox that runs beside this one and shares a volume may all put links
// into it at any time, so no path in it is ever left to the kernel's or the runtime's
// resolution: resolvePath walks from handle to handle and follows links itself, as if the
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
	mounts bool // refuse links that lie in a volume: the path is the target of a mount
}

// guestFile is the file that a path of the tree led to. The caller closes it.
type guestFile struct {
	*os.File        // opened with O_PATH
	path     string // without links
	stat     unix.Stat_t
}

// handlePath names the file by its handle, for calls that take a path.
func (f guestFile) handlePath() string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// Errors of paths into mounts that only the runtime makes, which the helper does not see.
var (
	errProcfs = errors.New("lies in /proc, where links lead to anything that a process has open")
	errUnseen = errors.New("lies in /dev, which is made when the sandbox starts")
)

func openGuestTree(root string) (*guestTree, error) {
	f, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &guestTree{root: f, volumes: map[uint64]string{}}, nil
}

// resolvePath opens a path of the tree. Its errors are the system's, errProcfs, errUnseen,
// and ErrInvalid for a link that lookup.mounts refuses.
func (g *guestTree) resolvePath(p string, how lookup) (guestFile, error) {
	if len(p) >= unix.PathMax {
		return guestFile{}, unix.ENAMETOOLONG
	}
	top, err := duplicateHandle(g.root)
	if err != nil {
		return guestFile{}, err
	}
	root := guestFile{File: top, path: "/"}
	if err := unix.Fstat(int(top.Fd()), &root.stat); err != nil {
		top.Close()
		return guestFile{}, err
	}
	w := pathwalk.Walker[guestFile]{
		Chroot:   true,
		Lookup:   how.openChild,
		Readlink: func(link guestFile) (string, error) { return g.readLink(link, how) },
		Release:  func(f guestFile) { f.Close() },
	}
	files, err := w.Walk(root, p)
	switch err {
	case nil:
		for _, f := range files[:len(files)-1] {
			f.Close()
		}
		return files[len(files)-1], nil
	case driver.ErrNotDir:
		err = unix.ENOTDIR
	case driver.ErrLoop:
		err = unix.ELOOP
	}
	root.Close()
	return guestFile{}, err
}

func duplicateHandle(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openChild opens an entry of a directory, which it makes when that is asked for.
func (how lookup) openChild(dir guestFile, s pathwalk.Step) (guestFile, pathwalk.Kind, error) {
	next := guestFile{path: path.Join(dir.path, s.Name)}
	switch {
	case next.path == "/proc":
		return guestFile{}, 0, errProcfs
	case dir.path == "/dev":
		return guestFile{}, 0, errUnseen
	}
	f, err := how.openOrCreate(dir, s)
	if err != nil {
		return guestFile{}, 0, err
	}
	next.File = f
	if err := unix.Fstat(int(f.Fd()), &next.stat); err != nil {
		f.Close()
		return guestFile{}, 0, err
	}
	switch next.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return next, pathwalk.Directory, nil
	case unix.S_IFLNK:
		return next, pathwalk.Link, nil
	}
	return next, pathwalk.Other, nil
}

// openOrCreate opens an entry without following it. Others may make and remove it at the
// same time, so it tries again.
func (how lookup) openOrCreate(dir guestFile, s pathwalk.Step) (*os.File, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat(int(dir.Fd()), s.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), s.Name), nil
		case err == unix.EINTR:
			continue
		case err != unix.ENOENT || !how.create || try > 10:
			return nil, err
		}
		if how.file && s.Last {
			fd, err = unix.Openat(int(dir.Fd()), s.Name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
		} else {
			err = unix.Mkdirat(int(dir.Fd()), s.Name, 0o755)
		}
		if err != nil && err != unix.EEXIST {
			return nil, err
		}
	}
}

// readLink returns a link's target, unless the link is of a volume and must not lead to the
// target of a mount.
func (g *guestTree) readLink(link guestFile, how lookup) (string, error) {
	if how.mounts {
		id, err := readMountID(link.File)
		if err != nil {
			return "", err
		}
		if at, ok := g.volumes[id]; ok {
			return "", driver.Errorf(vole.ErrInvalid, "%s is a link in the volume at %s, which must not redirect another mount", link.path, at)
		}
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// readMountID tells the mount that an open file is of.
func readMountID(f *os.File) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, fmt.Errorf("statx: %w", unix.ENOSYS)
	}
	return st.Mnt_id, nil
}
