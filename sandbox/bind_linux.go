package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// mountVolumes mounts each volume, or its subdirectory, with the flags asked for.
func (h *helper) mountVolumes() error {
	for i, m := range h.p.Mounts {
		if m.Disk > 0 {
			m.Source = filepath.Join(h.dir, "disk", fmt.Sprint(m.Disk-1))
		}
		at := filepath.Join(h.dir, "vol", fmt.Sprint(i))
		if err := mountVolume(m, at); err != nil {
			return fmt.Errorf("mount %s: %w", m, err)
		}
		h.mounts = append(h.mounts, at)
	}
	return nil
}

// mountVolume mounts one volume at a directory that it makes among the helper's mount points,
// private and with the attributes of the mount.
func mountVolume(m planMount, at string) error {
	src, err := openVolumeSubpath(m)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: m.mountAttributes()}
	if m.Disk > 0 {
		attr.Attr_clr = unix.MOUNT_ATTR_NODEV // which the disk's own mount has
	}
	return bindByPath(src, at, attr, false)
}

// mountAttributes are those of the mount, as unix.MOUNT_ATTR_*.
func (m planMount) mountAttributes() uint64 {
	var attr uint64
	for _, o := range []struct {
		on   bool
		flag uint64
	}{
		{m.ReadOnly, unix.MOUNT_ATTR_RDONLY}, {m.NoExec, unix.MOUNT_ATTR_NOEXEC},
		{m.NoSUID, unix.MOUNT_ATTR_NOSUID}, {!m.Dev, unix.MOUNT_ATTR_NODEV},
	} {
		if o.on {
			attr |= o.flag
		}
	}
	return attr
}

// openVolumeSubpath opens the directory to mount. A subpath is resolved by the kernel, which
// follows links only within the volume, even if they change at the same time; the mount is
// made of the open directory, not of a path.
func openVolumeSubpath(mount planMount) (*os.File, error) {
	root, err := os.OpenFile(mount.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil || mount.Subpath == "" {
		return root, err
	}
	defer root.Close()
	const directory = unix.O_PATH | unix.O_DIRECTORY
	f, err := openResolved(root, mount.Subpath, directory, unix.RESOLVE_BENEATH)
	if errors.Is(err, unix.ENOENT) && !mount.ReadOnly {
		if err := makeDirsBeneath(mount.Source, mount.Subpath); err != nil {
			return nil, fmt.Errorf("make subpath %q: %w", mount.Subpath, err)
		}
		f, err = openResolved(root, mount.Subpath, directory, unix.RESOLVE_BENEATH)
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, driver.Errorf(vole.ErrPathEscape, "subpath %q leads out of the volume", mount.Subpath)
	case errors.Is(err, unix.ENOTDIR):
		return nil, driver.Errorf(vole.ErrNotDir, "subpath %q is not a directory", mount.Subpath)
	case errors.Is(err, unix.ENOENT):
		return nil, driver.Errorf(vole.ErrNotExist, "subpath %q is not in the volume", mount.Subpath)
	case errors.Is(err, unix.ELOOP):
		return nil, driver.Errorf(vole.ErrLoop, "subpath %q: too many links", mount.Subpath)
	case err != nil:
		return nil, fmt.Errorf("subpath %q: %w", mount.Subpath, err)
	}
	return f, nil
}

// openResolved opens name in dir, which the kernel resolves as resolve says, without magic links.
func openResolved(dir *os.File, name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		// EAGAIN: a rename elsewhere made the kernel unsure.
		if err != unix.EAGAIN && err != unix.EINTR {
			return nil, err
		}
	}
}

// makeDirsBeneath makes a subpath's directories. No link leads out of source: os.Root resolves
// them.
func makeDirsBeneath(source, sub string) error {
	r, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer r.Close()
	err = r.MkdirAll(sub, 0o755)
	if err != nil && strings.HasSuffix(err.Error(), "path escapes from parent") {
		return driver.Errorf(vole.ErrPathEscape, "%v", err)
	}
	return err
}

// bindByPath mounts the open file or directory src, privately, at a path that only the helper
// changes, with attributes.
func bindByPath(src *os.File, at string, attr unix.MountAttr, recursive bool) error {
	target, err := os.OpenFile(at, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	return bindByHandle(src, target, attr, recursive)
}

// bindByHandle is bindByPath with an open target.
func bindByHandle(src, target *os.File, attr unix.MountAttr, recursive bool) error {
	var deep uint
	if recursive {
		deep = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(src.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|deep)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	attr.Propagation = unix.MS_PRIVATE
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|deep, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	const byHandles = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", int(target.Fd()), "", byHandles))
}
