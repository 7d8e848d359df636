package ext4workload

import (
	"strings"
	"syscall"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// maxFile is the size of the largest file.
func (m *Model) maxFile() int64 { return (1<<32 - 1) * m.block }

// Apply does an operation, and returns how it should fail.
func (m *Model) Apply(o *Op) error {
	switch o.Kind {
	case WriteFile, WriteSparse:
		return m.writeFile(o)
	case Open:
		return m.open(o)
	case Close:
		delete(m.slots, o.Slot)
		return nil
	case WriteAt, Append, Truncate, Punch, Allocate:
		n, err := m.fileOf(o)
		if err != nil {
			return err
		}
		return n.change(o, m.maxFile())
	case Mkdir:
		return m.make(o.Path, func() *node { return m.newNode(ext4oracle.TypeDir | o.Mode) })
	case MkdirAll:
		return m.mkdirAll(o.Path, o.Mode)
	case Symlink:
		return m.symlink(o)
	case Mknod:
		return m.make(o.Path, func() *node { n := m.newNode(o.Mode); n.dev = o.Dev; return n })
	case Link:
		return m.link(o.Path, o.Path2)
	case Rename:
		return m.rename(o.Path, o.Path2, o.Flag)
	case Remove:
		return m.unlink(o.Path)
	case RemoveAll:
		return m.removeAll(o.Path)
	case Copy:
		return m.copy(o.Path, o.Path2, o.Flag)
	}
	return m.attributes(o)
}

// adopt gives a new node what its directory makes of it.
func adopt(dir, n *node) {
	n.links = 1
	if n.isDir() {
		n.links = 2
	}
	if dir.mode&0o2000 != 0 {
		n.gid = dir.gid
		if n.isDir() {
			n.mode |= 0o2000
		}
	}
}

func (m *Model) make(path string, fresh func() *node) error {
	if path == "." {
		return syscall.EEXIST
	}
	dir, name, err := m.parent(path)
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	if dir.kids[name] != nil {
		return syscall.EEXIST
	}
	n := fresh()
	adopt(dir, n)
	dir.add(name, n)
	return nil
}

func (m *Model) mkdirAll(path string, mode uint32) error {
	n, err := m.get(path, true)
	if err == nil {
		if !n.isDir() {
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
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if n, err := m.get(path[:i], true); err == nil {
			if !n.isDir() {
				return syscall.ENOTDIR
			}
			continue
		} else if err != syscall.ENOENT {
			return err
		}
		err := m.make(path[:i], func() *node { return m.newNode(ext4oracle.TypeDir | mode) })
		if err == syscall.EEXIST {
			err = syscall.ENOENT // a link that leads nowhere
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) symlink(o *Op) error {
	if o.Path2 == "" {
		return syscall.EINVAL
	}
	if len(o.Path2) > int(m.block)-1 {
		return syscall.ENAMETOOLONG
	}
	return m.make(o.Path, func() *node {
		n := m.newNode(ext4oracle.TypeSymlink | 0o777)
		n.target = o.Path2
		return n
	})
}

func (m *Model) writeFile(o *Op) error {
	if o.Path == "." {
		return syscall.EISDIR
	}
	old, err := m.get(o.Path, false)
	switch {
	case err == nil && old.isDir():
		return syscall.EISDIR
	case err == nil && o.Flag:
		return syscall.EEXIST
	case err != nil && err != syscall.ENOENT:
		return err
	}
	dir, name, err := m.parent(o.Path)
	if err == syscall.ENOENT {
		if err = m.tryMkdirAll(o.Path); err == nil {
			dir, name, err = m.parent(o.Path)
		}
	}
	if err != nil {
		return err
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o644
		if old != nil && old.isRegular() {
			mode = old.mode & 0o7777
		}
	}
	n := m.newNode(ext4oracle.TypeRegular | mode)
	if o.Kind == WriteFile {
		n.write(Content(o.Seed, o.Len), 0)
	} else {
		for _, p := range pieces(o) {
			n.write(Content(o.Seed, p[1]), p[0])
		}
		n.truncate(o.Len)
	}
	m.drop(dir, name)
	adopt(dir, n)
	dir.add(name, n)
	return nil
}

// tryMkdirAll makes the parents of a path, or nothing.
func (m *Model) tryMkdirAll(path string) error {
	k := len(path) - 1
	for path[k] != '/' {
		k--
	}
	if len(path)-k > 256 {
		return syscall.ENAMETOOLONG
	}
	return m.mkdirAll(path[:k], 0o755)
}

// drop takes a name away from what has it, if anything.
func (m *Model) drop(dir *node, name string) {
	if old := dir.kids[name]; old != nil {
		dir.remove(name)
		old.links--
		old.changed()
		if old.isDir() {
			old.links, old.parent = 0, nil
		}
	}
}

func (m *Model) open(o *Op) error {
	n, err := m.get(o.Path, true)
	switch {
	case err == syscall.ENOENT:
		// Links that lead nowhere are left alone by the generator.
		if l, lerr := m.get(o.Path, false); lerr == nil && l.isLink() {
			return syscall.ENOENT
		}
		if err := m.make(o.Path, func() *node { return m.newNode(ext4oracle.TypeRegular | o.Mode) }); err != nil {
			return err
		}
		n, _ = m.get(o.Path, false)
	case err != nil:
		return err
	case n.isDir():
		return syscall.EISDIR
	case !n.isRegular():
		return syscall.ENOTSUP
	}
	m.slots[o.Slot] = n
	return nil
}

// fileOf returns the file that an operation is on.
func (m *Model) fileOf(o *Op) (*node, error) {
	if o.Slot >= 0 {
		if n := m.slots[o.Slot]; n != nil {
			return n, nil
		}
		return nil, syscall.EBADF
	}
	n, err := m.get(o.Path, true)
	switch {
	case err != nil:
		return nil, err
	case n.isDir():
		return nil, syscall.EISDIR
	case !n.isRegular():
		return nil, syscall.ENOTSUP
	}
	return n, nil
}

// change does an operation on an open file.
func (n *node) change(o *Op, maxFile int64) error {
	end := o.Off + o.Len
	switch o.Kind {
	case WriteAt:
		if o.Len > 0 {
			if end > maxFile {
				return syscall.EFBIG
			}
			n.write(Content(o.Seed, o.Len), o.Off)
		}
	case Append:
		if o.Len > 0 {
			if n.size+o.Len > maxFile {
				return syscall.EFBIG
			}
			n.write(Content(o.Seed, o.Len), n.size)
		}
	case Truncate:
		if o.Len > maxFile {
			return syscall.EFBIG
		}
		n.truncate(o.Len)
	case Punch:
		if o.Len <= 0 {
			return syscall.EINVAL
		}
		n.zero(o.Off, end)
		n.wrote()
	case Allocate:
		if o.Len <= 0 {
			return syscall.EINVAL
		}
		if end > maxFile {
			return syscall.EFBIG
		}
		if !o.Flag && end > n.size {
			n.truncate(end)
		}
		n.wrote()
	}
	return nil
}
