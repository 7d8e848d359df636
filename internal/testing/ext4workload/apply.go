package ext4workload

import (
	"strings"
	"syscall"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// maxFileSize returns the size of the largest file, in bytes.
func (m *Model) maxFileSize() int64 { return (1<<32 - 1) * m.block }

// Apply applies an operation, and returns the error with which it should fail; the model
// is unchanged then. Permissions are not checked: tests run as root.
func (m *Model) Apply(o *Op) error {
	switch o.Kind {
	case WriteFile, WriteSparse:
		return m.replaceFile(o)
	case Open:
		return m.openFileInSlot(o)
	case Close:
		delete(m.slots, o.Slot)
		return nil
	case WriteAt, Append, Truncate, Punch, Allocate:
		// On an open file, or one that is opened for the time.
		n, err := m.fileOfOp(o)
		if err != nil {
			return err
		}
		return n.applyFileOp(o, m.maxFileSize())
	case Mkdir:
		return m.makeNode(o.Path, func() *fileNode { return m.newFileNode(ext4oracle.TypeDir | o.Mode) })
	case MkdirAll:
		return m.makeDirectories(o.Path, o.Mode)
	case Symlink:
		return m.makeSymlink(o)
	case Mknod:
		return m.makeNode(o.Path, func() *fileNode { n := m.newFileNode(o.Mode); n.dev = o.Dev; return n })
	case Link:
		return m.linkNode(o.Path, o.Path2)
	case Rename:
		return m.renameNode(o.Path, o.Path2, o.Flag)
	case Remove:
		return m.unlinkName(o.Path)
	case RemoveAll:
		return m.removeTree(o.Path)
	case Copy:
		return m.copyTree(o.Path, o.Path2, o.Flag)
	}
	return m.applyAttributeOp(o)
}

// inheritFromDir gives a new node its links: two for a directory, for its name and its
// entry ".". In a setgid directory it also gets the group and, if a directory, the bit.
func inheritFromDir(dir, n *fileNode) {
	n.links = 1
	if n.isDirectory() {
		n.links = 2
	}
	if dir.mode&0o2000 != 0 {
		n.gid = dir.gid
		if n.isDirectory() {
			n.mode |= 0o2000
		}
	}
}

// makeNode adds the node that fresh returns at a path that must not exist.
func (m *Model) makeNode(path string, fresh func() *fileNode) error {
	if path == "." {
		return syscall.EEXIST
	}
	dir, name, err := m.resolveParent(path)
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	if dir.children[name] != nil {
		return syscall.EEXIST
	}
	n := fresh()
	inheritFromDir(dir, n)
	dir.addChild(name, n)
	return nil
}

// makeDirectories creates a directory and its missing parents.
func (m *Model) makeDirectories(path string, mode uint32) error {
	n, err := m.resolvePath(path, true)
	if err == nil {
		if !n.isDirectory() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if err != syscall.ENOENT {
		return err
	}
	for el := range strings.SplitSeq(path, "/") {
		if len(el) > 255 {
			return syscall.ENAMETOOLONG
		}
	}
	// Names are checked before anything is created: the call fails as a whole.
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if n, err := m.resolvePath(path[:i], true); err == nil {
			if !n.isDirectory() {
				return syscall.ENOTDIR
			}
			continue
		} else if err != syscall.ENOENT {
			return err
		}
		err := m.makeNode(path[:i], func() *fileNode { return m.newFileNode(ext4oracle.TypeDir | mode) })
		if err == syscall.EEXIST {
			err = syscall.ENOENT // a dangling symbolic link
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeSymlink creates a symbolic link.
func (m *Model) makeSymlink(o *Op) error {
	if o.Path2 == "" {
		return syscall.EINVAL
	}
	if len(o.Path2) > int(m.block)-1 {
		return syscall.ENAMETOOLONG
	}
	return m.makeNode(o.Path, func() *fileNode {
		n := m.newFileNode(ext4oracle.TypeSymlink | 0o777)
		n.target = o.Path2
		return n
	})
}

// replaceFile creates a file or replaces one, as WriteFile does.
func (m *Model) replaceFile(o *Op) error {
	if o.Path == "." {
		return syscall.EISDIR
	}
	old, err := m.resolvePath(o.Path, false)
	switch {
	case err == nil && old.isDirectory():
		return syscall.EISDIR
	case err == nil && o.Flag:
		return syscall.EEXIST
	case err != nil && err != syscall.ENOENT:
		return err
	}
	dir, name, err := m.resolveParent(o.Path)
	if err == syscall.ENOENT {
		if err = m.makeParents(o.Path); err == nil {
			dir, name, err = m.resolveParent(o.Path)
		}
	}
	if err != nil {
		return err
	}
	// Without a mode the new file keeps that of the one it replaces.
	mode := o.Mode
	if mode == 0 {
		mode = 0o644
		if old != nil && old.isRegular() {
			mode = old.mode & 0o7777
		}
	}
	n := m.newFileNode(ext4oracle.TypeRegular | mode)
	// A sparse file gets its content range by range, all from one seed.
	if o.Kind == WriteFile {
		n.writeContent(Content(o.Seed, o.Len), 0)
	} else {
		for _, p := range sparseRanges(o) {
			n.writeContent(Content(o.Seed, p[1]), p[0])
		}
		n.truncateContent(o.Len)
	}
	// Like package ext4 it replaces the name: the old inode lives on in slots and other names.
	m.dropName(dir, name)
	inheritFromDir(dir, n)
	dir.addChild(name, n)
	return nil
}

// makeParents creates the parents of a path, or nothing.
func (m *Model) makeParents(path string) error {
	// The last name is checked first, since nothing is created if it is too long.
	k := len(path) - 1
	for path[k] != '/' {
		k--
	}
	if len(path)-k > 256 {
		return syscall.ENAMETOOLONG
	}
	return m.makeDirectories(path[:k], 0o755)
}

// dropName removes a name, if it exists, and the link that it is. The node lives on while
// a slot refers to it. A directory loses both its links, and may be held by nothing else.
func (m *Model) dropName(dir *fileNode, name string) {
	if old := dir.children[name]; old != nil {
		dir.removeChild(name)
		old.links--
		old.noteChange()
		if old.isDirectory() {
			old.links, old.parent = 0, nil
		}
	}
}

// openFileInSlot opens a file, which it creates if it does not exist.
func (m *Model) openFileInSlot(o *Op) error {
	n, err := m.resolvePath(o.Path, true)
	switch {
	case err == syscall.ENOENT:
		// The generator does not open dangling symbolic links.
		if l, lerr := m.resolvePath(o.Path, false); lerr == nil && l.isSymlink() {
			return syscall.ENOENT
		}
		if err := m.makeNode(o.Path, func() *fileNode { return m.newFileNode(ext4oracle.TypeRegular | o.Mode) }); err != nil {
			return err
		}
		n, _ = m.resolvePath(o.Path, false)
	case err != nil:
		return err
	case n.isDirectory():
		return syscall.EISDIR
	case !n.isRegular():
		return syscall.ENOTSUP
	}
	m.slots[o.Slot] = n
	return nil
}

// fileOfOp returns the file that an operation changes: an open one, or the one at its
// path.
func (m *Model) fileOfOp(o *Op) (*fileNode, error) {
	if o.Slot >= 0 {
		if n := m.slots[o.Slot]; n != nil {
			return n, nil
		}
		return nil, syscall.EBADF
	}
	n, err := m.resolvePath(o.Path, true)
	switch {
	case err != nil:
		return nil, err
	case n.isDirectory():
		return nil, syscall.EISDIR
	case !n.isRegular():
		return nil, syscall.ENOTSUP
	}
	return n, nil
}

// applyFileOp applies an operation to the content of a file.
func (n *fileNode) applyFileOp(o *Op, maxFile int64) error {
	end := o.Off + o.Len
	// All end with the errors of package ext4; an operation that fails changes nothing.
	switch o.Kind {
	case WriteAt:
		if o.Len > 0 {
			if end > maxFile {
				return syscall.EFBIG
			}
			n.writeContent(Content(o.Seed, o.Len), o.Off)
		}
	case Append:
		if o.Len > 0 {
			if n.size+o.Len > maxFile {
				return syscall.EFBIG
			}
			n.writeContent(Content(o.Seed, o.Len), n.size)
		}
	case Truncate:
		if o.Len > maxFile {
			return syscall.EFBIG
		}
		n.truncateContent(o.Len)
	case Punch:
		if o.Len <= 0 {
			return syscall.EINVAL
		}
		// The size stays, so a hole beyond the end changes only times.
		n.zeroRange(o.Off, end)
		n.noteContentChange()
	case Allocate:
		if o.Len <= 0 {
			return syscall.EINVAL
		}
		if end > maxFile {
			return syscall.EFBIG
		}
		// Allocated space reads as zeros, so only the size can change.
		if !o.Flag && end > n.size {
			n.truncateContent(end)
		}
		n.noteContentChange()
	}
	return nil
}
