package bucket

import (
	"io/fs"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/manifest"
	"github.com/volehq/vole/internal/filemode"
)

// Types of files, as the mode in rows of inodes has them: those of stat(2) on Linux.
const (
	typeMask   = filemode.TypeMask
	typeFifo   = filemode.Fifo
	typeChar   = filemode.Char
	typeDir    = filemode.Dir
	typeBlock  = filemode.Block
	typeFile   = filemode.File
	typeLink   = filemode.Link
	typeSocket = filemode.Socket
)

// rootIno is the inode number of a volume's root directory.
const rootIno = manifest.RootIno

// inode is one row of inodes.
type inode struct {
	ino                 int64
	mode                int64 // type and permissions, as of stat(2)
	uid, gid            int64
	nlink               int64
	size, alloc         int64 // in bytes; alloc without holes
	atime, mtime, ctime int64 // in nanoseconds since 1970
	rdev                int64
	target              []byte // of a symbolic link
	xattrs              int64  // bytes of names and values of extended attributes
}

// inodeCols are the columns of a row of inodes called i, in the order of scanDest.
const inodeCols = `i.ino, i.mode, i.uid, i.gid, i.nlink, i.size, i.alloc, i.atime, i.mtime, i.ctime, i.rdev, i.target, i.xattr_bytes`

// scanDest returns where the columns of inodeCols go.
func (n *inode) scanDest() []any {
	return []any{&n.ino, &n.mode, &n.uid, &n.gid, &n.nlink, &n.size, &n.alloc, &n.atime, &n.mtime, &n.ctime, &n.rdev, &n.target, &n.xattrs}
}

func (n *inode) isDir() bool     { return n.mode&typeMask == typeDir }
func (n *inode) isSymlink() bool { return n.mode&typeMask == typeLink }
func (n *inode) isRegular() bool { return n.mode&typeMask == typeFile }

// toEntry describes the inode under a name.
func (n *inode) toEntry(name string) driver.Entry {
	return driver.Entry{
		Name:      name,
		Mode:      goFileMode(n.mode),
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

// goFileMode converts the mode of a row to Go's.
func goFileMode(m int64) fs.FileMode { return filemode.Go(uint32(m)) }

// permissionBits converts the bits of Go's mode that chmod(2) sets to those of a row.
func permissionBits(mode fs.FileMode) int64 { return int64(filemode.Perm(mode)) }

// specialFileType converts Go's mode to the type of a special file that Mknod makes; 0: it is
// another type.
func specialFileType(mode fs.FileMode) int64 {
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
