package ext4

import (
	iofs "io/fs"
	"strings"
	"time"
)

// Chmod sets the permission, setuid, setgid and sticky bits of what path leads to.
func (fs *FS) Chmod(path string, mode iofs.FileMode) error {
	return fs.changePath(path, true, func(i *inode) error {
		bits := permBitsOf(mode)
		le.PutUint16(i.raw[inMode:], i.mode()&typeMask|bits)
		fs.setTimesToNow(i, stampCtime)
		return fs.applyModeToACL(i, bits)
	})
}

// Chown sets the owner of what is at path; -1 keeps one. As Linux does, it clears the
// setuid and setgid bits of files that are executed with them.
func (fs *FS) Chown(path string, uid, gid int) error {
	return fs.changePath(path, false, func(i *inode) error {
		u, g := i.uid(), i.gid()
		if uid >= 0 {
			u = uint32(uid)
		}
		if gid >= 0 {
			g = uint32(gid)
		}
		mode := i.mode()
		if !i.isDir() {
			mode &^= 0o4000
			if mode&0o010 != 0 {
				mode &^= 0o2000
			}
		}
		i.setModeAndOwner(mode, u, g)
		fs.setTimesToNow(i, stampCtime)
		return nil
	})
}

// Chtimes sets access and modification time of what is at path; a zero time stays.
// Times that ext4 cannot hold (before 1901, after 2446) become the nearest it can.
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

// Stat describes what path leads to.
func (fs *FS) Stat(path string) (Info, error) { return fs.statPath(path, true) }

// Lstat describes what is at path, a symbolic link included.
func (fs *FS) Lstat(path string) (Info, error) { return fs.statPath(path, false) }

func (fs *FS) statPath(path string, follow bool) (info Info, err error) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return Info{}, errClosed
	}
	i, err := fs.resolveView(path, follow)
	if err != nil {
		return Info{}, err
	}
	return fs.inodeInfo(i, name), nil
}
