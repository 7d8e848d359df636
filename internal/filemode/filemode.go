// Package filemode translates between st_mode, as stat(2) has it on every system, and
// the modes of Go.
package filemode

import "io/fs"

// Types and bits of st_mode. The values are those of inode(7), which Linux, macOS and the BSDs
// share; images of ext4 store them too.
const (
	TypeMask = 0o170000
	Fifo     = 0o010000
	Char     = 0o020000
	Dir      = 0o040000
	Block    = 0o060000
	File     = 0o100000
	Link     = 0o120000
	Socket   = 0o140000
)

// types are the types of entries: in st_mode, in Go's mode, and their names.
var types = []struct {
	unix uint32
	mode fs.FileMode
	name string
}{
	{File, 0, "file"},
	{Dir, fs.ModeDir, "directory"},
	{Link, fs.ModeSymlink, "symlink"},
	{Fifo, fs.ModeNamedPipe, "fifo"},
	{Socket, fs.ModeSocket, "socket"},
	{Char, fs.ModeDevice | fs.ModeCharDevice, "char-device"},
	{Block, fs.ModeDevice, "block-device"},
}

// specialBits are the bits besides rwx that chmod(2) sets, in st_mode and in Go's mode.
var specialBits = []struct {
	unix uint32
	mode fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

// Go turns st_mode into Go's mode: the permissions, the type, and setuid, setgid and sticky.
// Other bits are dropped.
func Go(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for _, t := range types {
		if m&TypeMask == t.unix {
			mode |= t.mode
		}
	}
	for _, b := range specialBits {
		if m&b.unix != 0 {
			mode |= b.mode
		}
	}
	return mode
}

// Perm is the inverse of Go for the bits that chmod(2) sets: permissions, setuid, setgid,
// sticky. The type is dropped.
func Perm(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	for _, b := range specialBits {
		if mode&b.mode != 0 {
			m |= b.unix
		}
	}
	return m
}

// Type is the inverse of Go for the type; 0: there is none for it.
func Type(mode fs.FileMode) uint32 {
	for _, t := range types {
		if mode.Type() == t.mode {
			return t.unix
		}
	}
	return 0
}

// TypeName names the type in a mode, in the words of the API and of --json: "file", "directory",
// "symlink", "fifo", "socket", "char-device", "block-device", "unknown".
func TypeName(mode fs.FileMode) string {
	for _, t := range types {
		if mode.Type() == t.mode {
			return t.name
		}
	}
	return "unknown"
}
