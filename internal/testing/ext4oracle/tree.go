package ext4oracle

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Types of file, as in the upper bits of [Node.Mode].
const (
	TypeMask    = 0xf000
	TypeFIFO    = 0x1000
	TypeChar    = 0x2000
	TypeDir     = 0x4000
	TypeBlock   = 0x6000
	TypeRegular = 0x8000
	TypeSymlink = 0xa000
	TypeSocket  = 0xc000
)

// Time is a time of a file, in seconds since 1970 and nanoseconds.
type Time struct {
	Sec  int64
	Nsec uint32
}

// TimeOf converts a [time.Time].
func TimeOf(t time.Time) Time { return Time{t.Unix(), uint32(t.Nanosecond())} }

// String returns the time in UTC.
func (t Time) String() string {
	return time.Unix(t.Sec, int64(t.Nsec)).UTC().Format("2006-01-02T15:04:05.999999999Z")
}

// Range is a piece of a file that has data, in bytes.
type Range struct {
	Off, Len int64
}

// Node is one file of a [Tree].
type Node struct {
	Mode  uint32 // type and permission bits as in st_mode
	UID   uint32
	GID   uint32
	Size  int64
	Nlink uint64
	Ino   uint64 // 0 when the reader does not know it

	Atime, Mtime, Ctime, Btime Time

	Major, Minor uint32 // of devices

	Target string            // of symbolic links
	Sum    Sum               // of regular files
	Xattrs map[string]string // by full name, values as getxattr gives them
	Blocks int64             // in units of 512 bytes

	// Data are the parts of a regular file that are no holes, widened to whole
	// units of 4 KiB and merged; nil when not asked for. See [Widen].
	Data []Range
}

// Type returns the type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.Type() == TypeDir }

// String describes a node in a few words.
func (n *Node) String() string {
	return fmt.Sprintf("%s %04o, %d bytes", typeName(n.Type()), n.Mode&0o7777, n.Size)
}

// typeName returns a word for the type bits of a mode.
func typeName(t uint32) string {
	switch t {
	case TypeFIFO:
		return "fifo"
	case TypeChar:
		return "character device"
	case TypeDir:
		return "directory"
	case TypeBlock:
		return "block device"
	case TypeRegular:
		return "file"
	case TypeSymlink:
		return "symlink"
	case TypeSocket:
		return "socket"
	}
	return fmt.Sprintf("type %#x", t)
}

// Tree is a snapshot of a file system by path. Paths are relative and slash-separated; the
// root is ".". Names may be any bytes.
type Tree map[string]*Node

// Paths returns all paths in the order of their bytes.
func (t Tree) Paths() []string { return slices.Sorted(maps.Keys(t)) }

// Links returns, for each file with several paths in the tree, the first of them, by path.
// Files without a known inode number are left out, and so are directories.
func (t Tree) Links() map[string]string {
	first := map[uint64]string{}
	links := map[string]string{}
	for _, path := range t.Paths() {
		n := t[path]
		if n.Ino == 0 || n.IsDir() {
			continue
		}
		if f, ok := first[n.Ino]; ok {
			links[path], links[f] = f, f
		} else {
			first[n.Ino] = path
		}
	}
	return links
}

// unit is the grain of hole maps.
const unit = 4096

// Widen widens ranges, which must be in ascending order, to whole units of 4 KiB, and
// joins those that touch, so that hole maps of file systems with different block sizes can
// be compared. The last range does not end beyond size.
func Widen(data []Range, size int64) []Range {
	wide := []Range{}
	for _, r := range data {
		start := r.Off / unit * unit
		end := min((r.Off+r.Len+unit-1)/unit*unit, size)
		if end <= start {
			continue
		}
		if k := len(wide) - 1; k >= 0 && start <= wide[k].Off+wide[k].Len {
			wide[k].Len = max(wide[k].Len, end-wide[k].Off)
			continue
		}
		wide = append(wide, Range{start, end - start})
	}
	return wide
}
