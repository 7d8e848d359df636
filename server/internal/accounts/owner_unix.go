//go:build unix

package accounts

import (
	"os"
	"path/filepath"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// refuseForeignLinks refuses a path that leads elsewhere by a symbolic link of another user,
// such as the owner of a home: the server would write to, and restrict the mode of, a file of
// their choice. The directory is checked too, and the files that SQLite makes beside the
// database.
func refuseForeignLinks(path string) error {
	for _, p := range []string{filepath.Dir(path), path, path + "-wal", path + "-shm", path + "-journal"} {
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK && st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
			return driver.Errorf(driver.ErrPermission, "%s is a symbolic link of another user (%d); name the file itself", p, st.Uid)
		}
	}
	return nil
}

// inheritedOwner returns the owner for what root makes at path: that of the directory above, who
// may run the server without root and would be locked out of root's files. uid is negative if
// nothing needs to change.
func inheritedOwner(path string) (uid, gid int, err error) {
	var st unix.Stat_t
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	if err := unix.Stat(filepath.Dir(path), &st); err != nil || st.Uid == 0 {
		return -1, -1, err
	}
	return int(st.Uid), int(st.Gid), nil
}

// chownDir gives a new directory its owner, following no link that took its name.
func chownDir(dir string, uid, gid int) error {
	n, err := nofollow.Open(unix.AT_FDCWD, dir)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Chown(uid, gid)
}
