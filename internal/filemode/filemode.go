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

	setuid = 0o4000
	setgid = 0o2000
	sticky = 0o1000
)

// Go turns st_mode into Go's mode: the permissions, the type, and setuid, setgid and sticky.
// Other bits are dropped.
func Go(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & TypeMask {
	case Dir:
		mode |= fs.ModeDir
	case Link:
		mode |= fs.ModeSymlink
	case Fifo:
		mode |= fs.ModeNamedPipe
	case Socket:
		mode |= fs.ModeSocket
	case Char:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case Block:
		mode |= fs.ModeDevice
	}
	if m&setuid != 0 {
		mode |= fs.ModeSetuid
	}
	if m&setgid != 0 {
		mode |= fs.ModeSetgid
	}
	if m&sticky != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// Perm is the inverse of Go for the bits that chmod(2) sets: permissions, setuid, setgid,
// sticky. The type is dropped.
func Perm(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= setuid
	}
	if mode&fs.ModeSetgid != 0 {
		m |= setgid
	}
	if mode&fs.ModeSticky != 0 {
		m |= sticky
	}
	return m
}

// TypeName names the type in a mode, in the words of the API and of --json: "file", "directory",
// "symlink", "fifo", "socket", "char-device", "block-device", "unknown".
func TypeName(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symlink"
	case fs.ModeNamedPipe:
		return "fifo"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "char-device"
	case fs.ModeDevice:
		return "block-device"
	}
	return "unknown"
}
