package ext4workload

import (
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

func (m *Model) link(target, path string) error {
	n, err := m.get(target, false)
	if err != nil {
		return err
	}
	if n.isDir() {
		return syscall.EPERM
	}
	if path == "." {
		return syscall.EEXIST
	}
	dir, name, err := m.parent(path)
	switch {
	case err != nil:
		return err
	case len(name) > 255:
		return syscall.ENAMETOOLONG
	case dir.kids[name] != nil:
		return syscall.EEXIST
	}
	n.links++
	n.changed()
	dir.add(name, n)
	return nil
}

func (m *Model) unlink(path string) error {
	dir, name, err := m.parent(path)
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	n := dir.kids[name]
	if n == nil {
		return syscall.ENOENT
	}
	if n.isDir() && len(n.kids) > 0 {
		return syscall.ENOTEMPTY
	}
	m.drop(dir, name)
	return nil
}

func (m *Model) removeAll(path string) error {
	if path == "." {
		return syscall.EINVAL
	}
	dir, name, err := m.parent(path)
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	if n := dir.kids[name]; n != nil {
		forget(n)
		m.drop(dir, name)
	}
	return nil
}

// forget takes its names from all that is beneath a directory.
func forget(n *node) {
	for _, kid := range n.kids {
		forget(kid)
		kid.links--
		kid.changed()
	}
}

func (m *Model) rename(from, to string, noReplace bool) error {
	fromDir, fromName, err := m.parent(from)
	if err != nil {
		return err
	}
	n := fromDir.kids[fromName]
	if n == nil {
		return syscall.ENOENT
	}
	toDir, toName, err := m.parent(to)
	if err != nil {
		return err
	}
	if n.isDir() && inside(toDir, n) {
		return syscall.EINVAL
	}
	if len(toName) > 255 {
		return syscall.ENAMETOOLONG
	}
	old := toDir.kids[toName]
	switch {
	case old == nil:
	case noReplace:
		return syscall.EEXIST
	case old == n:
		return nil
	case old.isDir() && !n.isDir():
		return syscall.EISDIR
	case !old.isDir() && n.isDir():
		return syscall.ENOTDIR
	case old.isDir() && len(old.kids) > 0:
		return syscall.ENOTEMPTY
	}
	m.drop(toDir, toName)
	fromDir.remove(fromName)
	toDir.add(toName, n)
	n.changed()
	return nil
}

func (m *Model) attributes(o *Op) error {
	n, err := m.get(o.Path, o.Kind == Chmod)
	if err != nil {
		return err
	}
	switch o.Kind {
	case Chmod:
		n.mode = n.mode&ext4oracle.TypeMask | o.Mode
		n.maskACL()
	case Chown:
		if o.UID >= 0 {
			n.uid = uint32(o.UID)
		}
		if o.GID >= 0 {
			n.gid = uint32(o.GID)
		}
		if !n.isDir() {
			n.mode &^= 0o4000
			if n.mode&0o010 != 0 {
				n.mode &^= 0o2000
			}
		}
	case Chtimes:
		t := ext4oracle.TimeOf(time.Unix(o.Sec, o.Nsec))
		n.atime, n.mtime = &t, &t
	case Setxattr:
		return n.setXattr(o)
	case Removexattr:
		if _, ok := n.xattrs[o.Name]; !ok {
			return syscall.ENODATA
		}
		delete(n.xattrs, o.Name)
	}
	n.changed()
	return nil
}

func (m *Model) copy(from, to string, noReplace bool) error {
	n, err := m.get(from, false)
	if err != nil {
		return err
	}
	old, err := m.get(to, false)
	switch {
	case err == nil && n.isDir() && old == n:
		return syscall.EINVAL
	case err == nil && (noReplace || n.isDir()):
		return syscall.EEXIST
	case err == nil && old == n:
		return nil
	case err == nil && old.isDir():
		return syscall.EISDIR
	case err == nil && n.isLink():
		if led, err := m.get(from, true); err == nil && led == old {
			return nil
		}
	case err != nil && err != syscall.ENOENT:
		return err
	}
	if err := m.mayCopyTo(n, to); err != nil {
		return err
	}
	dir, name, err := m.parent(to)
	if err == syscall.ENOENT {
		if err = m.tryMkdirAll(to); err == nil {
			dir, name, err = m.parent(to)
		}
	}
	if err != nil {
		return err
	}
	c := m.clone(n, map[*node]*node{})
	m.drop(dir, name)
	c.links = max(c.links, 1)
	dir.add(name, c)
	return nil
}

// mayCopyTo refuses a directory into itself.
func (m *Model) mayCopyTo(n *node, to string) error {
	if !n.isDir() {
		return nil
	}
	for {
		k := strings.LastIndexByte(to, '/')
		if k < 0 {
			return nil
		}
		to = to[:k]
		d, err := m.get(to, true)
		if err == syscall.ENOENT {
			continue
		}
		if err == nil && !d.isDir() {
			err = syscall.ENOTDIR
		}
		if err == nil && inside(d, n) {
			err = syscall.EINVAL
		}
		return err
	}
}

func (m *Model) clone(n *node, seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		c.links++
		return c
	}
	c := m.newNode(n.mode)
	c.uid, c.gid, c.size, c.target, c.dev, c.mtime = n.uid, n.gid, n.size, n.target, n.dev, n.mtime
	maps.Copy(c.xattrs, n.xattrs)
	for k, g := range n.pages {
		p := *g
		c.pages[k] = &p
	}
	if !n.isDir() {
		c.links = 1
		seen[n] = c
		return c
	}
	c.links = 2
	for _, name := range n.names {
		c.add(name, m.clone(n.kids[name], seen))
	}
	c.mtime = n.mtime
	return c
}
