package bucket

import (
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
)

// Types and bits of a mode as rows of inodes have it: st_mode of Linux, see inode(7).
const (
	typeMask   = 0o170000
	typeFifo   = 0o010000
	typeChar   = 0o020000
	typeDir    = 0o040000
	typeBlock  = 0o060000
	typeFile   = 0o100000
	typeLink   = 0o120000
	typeSocket = 0o140000

	bitSetuid = 0o4000
	bitSetgid = 0o2000
	bitSticky = 0o1000
)

// rootIno is the inode of a volume's root.
const rootIno = 1

// inode is one row of inodes.
type inode struct {
	ino                 int64
	mode                int64
	uid, gid            int64
	nlink               int64
	size, alloc         int64
	atime, mtime, ctime int64
	rdev                int64
	target              []byte // of a symbolic link
}

// inodeCols are the columns of i, in the order of dest.
const inodeCols = `i.ino, i.mode, i.uid, i.gid, i.nlink, i.size, i.alloc, i.atime, i.mtime, i.ctime, i.rdev, i.target`

func (n *inode) dest() []any {
	return []any{&n.ino, &n.mode, &n.uid, &n.gid, &n.nlink, &n.size, &n.alloc, &n.atime, &n.mtime, &n.ctime, &n.rdev, &n.target}
}

func (n *inode) isDir() bool  { return n.mode&typeMask == typeDir }
func (n *inode) isLink() bool { return n.mode&typeMask == typeLink }
func (n *inode) isFile() bool { return n.mode&typeMask == typeFile }

// entry describes the inode under a name.
func (n *inode) entry(name string) driver.Entry {
	return driver.Entry{
		Name:      name,
		Mode:      fileMode(n.mode),
		Size:      n.size,
		Allocated: n.alloc,
		UID:       uint32(n.uid),
		GID:       uint32(n.gid),
		Nlink:     uint64(n.nlink),
		Inode:     uint64(n.ino),
		Rdev:      uint64(n.rdev),
		Atime:     time.Unix(0, n.atime).UTC(),
		Mtime:     time.Unix(0, n.mtime).UTC(),
		Ctime:     time.Unix(0, n.ctime).UTC(),
	}
}

// fileMode turns a row's mode into Go's.
func fileMode(m int64) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & typeMask {
	case typeDir:
		mode |= fs.ModeDir
	case typeLink:
		mode |= fs.ModeSymlink
	case typeFifo:
		mode |= fs.ModeNamedPipe
	case typeSocket:
		mode |= fs.ModeSocket
	case typeChar:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case typeBlock:
		mode |= fs.ModeDevice
	}
	if m&bitSetuid != 0 {
		mode |= fs.ModeSetuid
	}
	if m&bitSetgid != 0 {
		mode |= fs.ModeSetgid
	}
	if m&bitSticky != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// permOf is the inverse of fileMode for the bits that chmod(2) sets.
func permOf(mode fs.FileMode) int64 {
	m := int64(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= bitSetuid
	}
	if mode&fs.ModeSetgid != 0 {
		m |= bitSetgid
	}
	if mode&fs.ModeSticky != 0 {
		m |= bitSticky
	}
	return m
}

// nodeType is the inverse of fileMode for the types that Mknod makes; 0: another.
func nodeType(mode fs.FileMode) int64 {
	switch mode.Type() {
	case fs.ModeNamedPipe:
		return typeFifo
	case fs.ModeSocket:
		return typeSocket
	case fs.ModeDevice | fs.ModeCharDevice:
		return typeChar
	case fs.ModeDevice:
		return typeBlock
	}
	return 0
}
