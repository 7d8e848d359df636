package ext4workload

import (
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// linkNode adds a hard link.
func (m *Model) linkNode(target, path string) error {
	n, err := m.resolvePath(target, false)
	if err != nil {
		return err
	}
	if n.isDirectory() {
		return syscall.EPERM
	}
	if path == "." {
		return syscall.EEXIST
	}
	dir, name, err := m.resolveParent(path)
	switch {
	case err != nil:
		return err
	case len(name) > 255:
		return syscall.ENAMETOOLONG
	case dir.children[name] != nil:
		return syscall.EEXIST
	}
	n.links++
	n.noteChange()
	dir.addChild(name, n)
	return nil
}

// unlinkName removes a file or an empty directory.
func (m *Model) unlinkName(path string) error {
	dir, name, err := m.resolveParent(path)
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	n := dir.children[name]
	if n == nil {
		return syscall.ENOENT
	}
	if n.isDirectory() && len(n.children) > 0 {
		return syscall.ENOTEMPTY
	}
	m.dropName(dir, name)
	return nil
}

// removeTree removes everything at a path.
func (m *Model) removeTree(path string) error {
	if path == "." {
		return syscall.EINVAL
	}
	dir, name, err := m.resolveParent(path)
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	if len(name) > 255 {
		return syscall.ENAMETOOLONG
	}
	// Files in the tree may have names elsewhere, or be open: each loses one link.
	if n := dir.children[name]; n != nil {
		dropNamesBeneath(n)
		m.dropName(dir, name)
	}
	return nil
}

// dropNamesBeneath drops the links of everything beneath a directory.
func dropNamesBeneath(n *fileNode) {
	for _, kid := range n.children {
		dropNamesBeneath(kid)
		kid.links--
		kid.noteChange()
	}
}

// renameNode moves a file or a tree, as rename(2) does.
func (m *Model) renameNode(from, to string, noReplace bool) error {
	fromDir, fromName, err := m.resolveParent(from)
	if err != nil {
		return err
	}
	n := fromDir.children[fromName]
	if n == nil {
		return syscall.ENOENT
	}
	toDir, toName, err := m.resolveParent(to)
	if err != nil {
		return err
	}
	if n.isDirectory() && isBeneath(toDir, n) {
		return syscall.EINVAL
	}
	if len(toName) > 255 {
		return syscall.ENAMETOOLONG
	}
	old := toDir.children[toName]
	// The order of the errors is that of the kernel.
	switch {
	case old == nil:
	case noReplace:
		return syscall.EEXIST
	case old == n: // two names of one file: nothing happens
		return nil
	case old.isDirectory() && !n.isDirectory():
		return syscall.EISDIR
	case !old.isDirectory() && n.isDirectory():
		return syscall.ENOTDIR
	case old.isDirectory() && len(old.children) > 0:
		return syscall.ENOTEMPTY
	}
	m.dropName(toDir, toName)
	fromDir.removeChild(fromName)
	toDir.addChild(toName, n)
	n.noteChange()
	return nil
}

// applyAttributeOp applies a change of metadata.
func (m *Model) applyAttributeOp(o *Op) error {
	n, err := m.resolvePath(o.Path, o.Kind == Chmod)
	if err != nil {
		return err
	}
	switch o.Kind {
	case Chmod:
		n.mode = n.mode&ext4oracle.TypeMask | o.Mode
		n.applyModeToACL()
	case Chown:
		// A change of owner clears setuid and setgid, except setgid without group execution.
		if o.UID >= 0 {
			n.uid = uint32(o.UID)
		}
		if o.GID >= 0 {
			n.gid = uint32(o.GID)
		}
		if !n.isDirectory() {
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
	n.noteChange()
	return nil
}

// copyTree copies a file or a tree, as FS.Copy of package ext4 does.
func (m *Model) copyTree(from, to string, noReplace bool) error {
	n, err := m.resolvePath(from, false)
	if err != nil {
		return err
	}
	old, err := m.resolvePath(to, false)
	switch {
	case err == nil && n.isDirectory() && old == n:
		return syscall.EINVAL
	case err == nil && (noReplace || n.isDirectory()):
		return syscall.EEXIST
	case err == nil && old == n:
		return nil
	case err == nil && old.isDirectory():
		return syscall.EISDIR
	case err == nil && n.isSymlink():
		// A link is not copied over its own target: it would lead to itself.
		if led, err := m.resolvePath(from, true); err == nil && led == old {
			return nil
		}
	case err != nil && err != syscall.ENOENT:
		return err
	}
	if err := m.checkCopyTarget(n, to); err != nil {
		return err
	}
	dir, name, err := m.resolveParent(to)
	if err == syscall.ENOENT {
		if err = m.makeParents(to); err == nil {
			dir, name, err = m.resolveParent(to)
		}
	}
	if err != nil {
		return err
	}
	c := m.cloneNode(n, map[*fileNode]*fileNode{})
	m.dropName(dir, name)
	c.links = max(c.links, 1)
	dir.addChild(name, c)
	return nil
}

// checkCopyTarget refuses to copy a directory into itself.
func (m *Model) checkCopyTarget(n *fileNode, to string) error {
	if !n.isDirectory() {
		return nil
	}
	// The nearest parent that exists decides; the missing ones would be created in it.
	for {
		k := strings.LastIndexByte(to, '/')
		if k < 0 {
			return nil
		}
		to = to[:k]
		d, err := m.resolvePath(to, true)
		if err == syscall.ENOENT {
			continue
		}
		if err == nil && !d.isDirectory() {
			err = syscall.ENOTDIR
		}
		if err == nil && isBeneath(d, n) {
			err = syscall.EINVAL
		}
		return err
	}
}

// cloneNode copies a node and everything beneath it, as FS.Copy does: with owner,
// attributes and modification time, but not the access time. seen maps nodes to copies,
// for hard links.
func (m *Model) cloneNode(n *fileNode, seen map[*fileNode]*fileNode) *fileNode {
	if c := seen[n]; c != nil {
		c.links++
		return c
	}
	c := m.newFileNode(n.mode)
	c.uid, c.gid, c.size, c.target, c.dev, c.mtime = n.uid, n.gid, n.size, n.target, n.dev, n.mtime
	maps.Copy(c.xattrs, n.xattrs)
	// Pages are changed in place, so each copy needs its own.
	for k, g := range n.pages {
		p := *g
		c.pages[k] = &p
	}
	if !n.isDirectory() {
		c.links = 1
		seen[n] = c
		return c
	}
	c.links = 2
	for _, name := range n.names {
		c.addChild(name, m.cloneNode(n.children[name], seen))
	}
	c.mtime = n.mtime
	return c
}
