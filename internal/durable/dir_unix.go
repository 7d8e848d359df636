//go:build unix

package durable

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// inheritOwner gives a file that root has made the owner of the directory above, who may run the
// program without root and would be locked out of root's files.
func inheritOwner(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Dir(f.Name()), &st); err != nil || st.Uid == 0 {
		return err
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// inheritDirOwner is inheritOwner of a directory, and follows no link that took its name.
func inheritDirOwner(dir string) error {
	d, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return inheritOwner(d)
}
