package ext4

import (
	iofs "io/fs"
	"time"
)

// Chmod sets the permission, setuid, setgid and sticky bits of the file that path leads
// to.
func (fs *FS) Chmod(path string, mode iofs.FileMode) error {
	return fs.changePath(path, true, func(i *inode) error {
		bits := permBitsOf(mode)
		le.PutUint16(i.raw[inMode:], i.mode()&typeMask|bits)
		fs.setTimesToNow(i, stampCtime)
		return fs.applyModeToACL(i, bits)
	})
}

// Chown sets the owner of the file at path, a symbolic link included; -1 keeps one of the
// two. As in Linux it clears the setuid bit, and setgid of executable files, but not of
// directories.
func (fs *FS) Chown(path string, uid, gid int) error {
	return fs.changePath(path, false, func(i *inode) error {
		mode := i.mode()
		if !i.isDir() {
			mode &^= 0o4000
			if mode&0o010 != 0 {
				mode &^= 0o2000
			}
		}
		i.setModeAndKeptOwner(mode, uid, gid)
		fs.setTimesToNow(i, stampCtime)
		return nil
	})
}

// Chtimes sets access and modification time of the file at path, a symbolic link included;
// a zero time keeps the old one. Times outside the range of ext4 (1901 to 2446) become the
// nearest inside.
func (fs *FS) Chtimes(path string, atime, mtime time.Time) error {
	return fs.changePath(path, false, func(i *inode) error {
		if !atime.IsZero() {
			i.setTime(stampAtime, atime)
		}
		if !mtime.IsZero() {
			i.setTime(stampMtime, mtime)
		}
		fs.setTimesToNow(i, stampCtime)
		return nil
	})
}

// Stat describes the file that path leads to.
func (fs *FS) Stat(path string) (Info, error) { return fs.statPath(path, true) }

// Lstat describes the file at path, and does not follow a symbolic link there.
func (fs *FS) Lstat(path string) (Info, error) { return fs.statPath(path, false) }

// statPath implements Stat and Lstat.
func (fs *FS) statPath(path string, follow bool) (info Info, err error) {
	_, name := splitLastElement(path)
	err = fs.viewPath(path, follow, func(i *inode) error {
		info = fs.inodeInfo(i, name)
		return nil
	})
	return info, err
}
