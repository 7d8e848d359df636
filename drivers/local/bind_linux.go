package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
	"golang.org/x/sys/unix"
)

// bindsDir holds the read-only views of volumes: a mount point ID for each, and a file ID.lock
// that the process that made it keeps locked. Only root can reach them, as only root can reach
// its home.
const bindsDir = "/run/vole/ro"

const bindLock = ".lock"

// BindReadOnly makes a read-only view of path, without devices, that every process of this mount
// namespace sees, below /run/vole/ro under the given id, and returns its path. It lasts until
// undo is called, or until a home is opened after this process has died. ErrPermission,
// ErrReadOnly: this process may not mount, or not there.
func BindReadOnly(path, id string) (at string, undo func() error, err error) {
	if err := makeBindsDir(); err != nil {
		return "", nil, translateError(err)
	}
	at = filepath.Join(bindsDir, id)
	lock, err := flock.Try(at + bindLock)
	if err == nil && lock == nil {
		err = driver.Errorf(driver.ErrExists, "%s is in use", at)
	}
	if err != nil {
		return "", nil, translateError(err)
	}
	undo = func() error { return errors.Join(translateError(removeBind(at)), lock.Release()) }
	if err = makeMountPoint(path, at); err == nil {
		err = bindReadOnly(path, at)
	}
	if err != nil {
		return "", nil, errors.Join(translateError(err), undo())
	}
	return at, undo, nil
}

// makeBindsDir makes the directory of the views, and refuses one that other users could change.
func makeBindsDir() error {
	if err := os.MkdirAll(filepath.Dir(bindsDir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(bindsDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return checkOwnedAlone(bindsDir)
}

// checkOwnedAlone returns ErrPermission for a directory that other users could enter, or
// replace: a service may have /run/vole as its own.
func checkOwnedAlone(dir string) error {
	for path, closed := range map[string]uint32{dir: 0o077, filepath.Dir(dir): 0o022} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&closed != 0 || st.Uid != uint32(os.Geteuid()) {
			return driver.Errorf(driver.ErrPermission, "%s is no directory of this user alone", path)
		}
	}
	return nil
}

// makeMountPoint makes the mount point for a view of path: a directory for a directory, a file
// for a file.
func makeMountPoint(path, at string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return os.Mkdir(at, 0o700)
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	return f.Close()
}

// bindReadOnly mounts path, with all that is mounted in it, at another place. The copy is
// made read-only before it is put there: mount namespaces that get it by propagation, those
// of daemons perhaps, get it as it is at that moment. It needs Linux 5.12.
func bindReadOnly(path, at string) error {
	const flags = unix.AT_RECURSIVE | unix.AT_SYMLINK_NOFOLLOW
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// removeBind unmounts a view and removes its mount point. Open files of the view stay usable,
// read-only. The mount point is removed with unlink or rmdir, never recursively, so nothing in a
// mount that stays can be deleted.
func removeBind(at string) error {
	for {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			break // EINVAL: nothing is mounted there any more
		}
	}
	for _, name := range []string{at, at + bindLock} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err // the lock stays for the next one to try again
		}
	}
	return nil
}

// sweepBinds removes the views of dead processes, of whatever home. A view that cannot be
// removed is skipped: it must not keep a home from being opened.
func sweepBinds() {
	if os.Geteuid() != 0 || checkOwnedAlone(bindsDir) != nil {
		return
	}
	list, _ := os.ReadDir(bindsDir)
	for _, e := range list {
		id, isLock := strings.CutSuffix(e.Name(), bindLock)
		if !isLock {
			continue
		}
		at := filepath.Join(bindsDir, id)
		lock, err := flock.TryExisting(at + bindLock)
		if err != nil || lock == nil {
			continue // removed by another, or its maker lives
		}
		_ = removeBind(at)
		_ = lock.Release()
	}
}
