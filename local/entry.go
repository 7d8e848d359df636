package local

import (
	"io/fs"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// entryOf turns what stat(2) tells into an Entry.
func entryOf(name string, st *unix.Stat_t) driver.Entry {
	return driver.Entry{
		Name:      name,
		Mode:      fileMode(uint32(st.Mode)),
		Size:      st.Size,
		Allocated: st.Blocks * 512, // stat(2): blocks of 512 bytes whatever the file system
		UID:       st.Uid,
		GID:       st.Gid,
		Nlink:     uint64(st.Nlink),
		Inode:     st.Ino,
		Rdev:      uint64(st.Rdev),
		Atime:     time.Unix(st.Atim.Unix()).UTC(),
		Mtime:     time.Unix(st.Mtim.Unix()).UTC(),
		Ctime:     time.Unix(st.Ctim.Unix()).UTC(),
	}
}

// entryOfInfo is entryOf for what os.Root returns.
func entryOfInfo(name string, info fs.FileInfo) driver.Entry {
	return entryOf(name, unixStat(info.Sys().(*syscall.Stat_t)))
}

// fileMode turns the mode of stat(2) into Go's.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// sysMode is the inverse of fileMode for the bits that chmod(2) sets.
func sysMode(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}
