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

// bindsDir has the read-only views of volumes: a mount point ID for each, and a file
// ID.lock that its maker keeps locked. Only root reaches them, as it alone reaches a home.
const bindsDir = "/run/vole/ro"

const bindLock = ".lock"

// BindReadOnly makes a read-only view of path, without devices, that every process of this
// mount namespace sees, below /run/vole/ro under the given id, and returns where that is.
// It lasts until undo, or until somebody opens a home after this process has died.
// ErrPermission, ErrReadOnly: this process may not mount, or not there.
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

// makeBindsDir makes the directory of the views, and refuses one that others could change.
func makeBindsDir() error {
	if err := os.MkdirAll(filepath.Dir(bindsDir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(bindsDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return checkOwnedAlone(bindsDir)
}

// checkOwnedAlone refuses a directory that others than this user could reach, or put another in
// the place of: a service may have /run/vole as its own.
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

// makeMountPoint makes what a view of path is mounted on: a directory, or a file.
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

// removeBind takes a view away. Whoever has files of it open keeps these, read-only. A
// mount point is removed and never what is in it, should a mount be left.
func removeBind(at string) error {
	for {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			break // EINVAL: nothing is mounted there any more
		}
	}
	var errs []error
	for _, name := range []string{at, at + bindLock} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			break // the lock stays for the next one to try again
		}
	}
	return errors.Join(errs...)
}

// sweepBinds takes away the views of processes that have died, of whatever home. One that
// cannot be removed stays: it must not keep anyone from their volumes.
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
