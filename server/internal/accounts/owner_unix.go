//go:build unix

package accounts

import (
	"os"
	"path/filepath"

	"github.com/volehq/vole/driver"
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
