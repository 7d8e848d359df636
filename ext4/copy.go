package ext4

import (
	"context"
	"errors"
	"io"
	"strings"
)

// Copy copies a file, link, node or tree, keeping mode, owner, modification time,
// extended attributes, holes, and hard links among what is copied. A file is replaced
// whole, as WriteFile does; a tree appears whole, and its target must not be there
// (EEXIST). Missing parents of to are made, 0755. A file onto itself, by any name,
// changes nothing. With noReplace the target must not be there at all.
// EINVAL: a directory into itself, or the root as target; EISDIR: a file onto a directory.
func (fs *FS) Copy(ctx context.Context, from, to string, noReplace bool) error {
	if fs.opts.ReadOnly {
		return ErrReadOnly
	}
	if to == "." {
		return errInvalid
	}
	var src *inode
	same := false
	err := fs.view(from, false, func(i *inode) (err error) {
		src = i
		same, err = fs.checkCopy(i, from, to, noReplace)
		return err
	})
	if err != nil || same {
		return err
	}
	if !src.isDir() {
		return fs.copyFile(ctx, from, to, noReplace)
	}
	return fs.copyTree(ctx, from, to)
}

// checkCopy finds what forbids a copy, and whether it is one of a file onto itself.
func (fs *FS) checkCopy(i *inode, from, to string, noReplace bool) (same bool, err error) {
	old, err := fs.resolve(to, false)
	switch {
	case err == nil && (noReplace || i.isDir()):
		if i.isDir() && old.num == i.num {
			return false, errInvalid
		}
		return false, errExists
	case err == nil && old.num == i.num:
		return true, nil
	case err == nil && old.isDir():
		return false, errIsDir
	case err == nil && i.kind() == typeSymlink:
		// A link in the place of what it leads to would lead to itself.
		if to, err := fs.resolve(from, true); err == nil && to.num == old.num {
			return true, nil
		}
	case err != nil && !errors.Is(err, errNoEntry):
		return false, err
	}
	if !i.isDir() {
		return false, nil
	}
	if i.num == rootInode {
		return false, errInvalid
	}
	// Whatever of the target's parents is there must not be in the tree.
	for dir := to; ; {
		k := strings.LastIndexByte(dir, '/')
		if k < 0 {
			return false, nil
		}
		dir = dir[:k]
		d, err := fs.resolve(dir, true)
		if errors.Is(err, errNoEntry) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !d.isDir() {
			return false, errNotDir
		}
		return false, fs.notBeneath(d, i.num)
	}
}

// copyFile copies what is no directory, by way of an inode without a name.
func (fs *FS) copyFile(ctx context.Context, from, to string, noReplace bool) error {
	c := copier{fs: fs, ctx: ctx}
	var src, made *File
	var kind uint16
	err := fs.view(from, false, func(i *inode) error { kind = i.kind(); return nil })
	if err != nil {
		return err
	}
	if kind == typeRegular {
		if src, err = fs.OpenFile(from, OpenFlags{NoFollow: true}); err != nil {
			return err
		}
		defer src.Close()
		if made, err = fs.openNameless(to); err != nil {
			return err
		}
		defer made.Close()
		if err := c.content(src, made); err != nil {
			return err
		}
		_, err = fs.placeFile(made, to, func(_, i, _ *inode) error {
			old, err := fs.inode(src.in.num)
			if err != nil {
				return err
			}
			return fs.copyMeta(old, i)
		}, noReplace)
		return err
	}
	var gone uint32
	changed := false
	seq, err := fs.update(func() error {
		old, err := fs.resolve(from, false)
		if err != nil {
			return err
		}
		if changed = old.kind() != kind; changed {
			return nil
		}
		dir, name, err := fs.makeParent(to)
		if err != nil {
			return err
		}
		there, err := fs.replaceable(dir, name, noReplace)
		if err != nil {
			return err
		}
		i, err := fs.copyNode(dir, old)
		if err != nil {
			return err
		}
		gone, err = fs.place(dir, name, i, there)
		return err
	})
	if err == nil && changed {
		return fs.Copy(ctx, from, to, noReplace) // something else is there now
	}
	return fs.finish(seq, err, gone)
}

// copyNode makes an inode like an old one that is neither file nor directory.
func (fs *FS) copyNode(dir, old *inode) (*inode, error) {
	i, err := fs.newInode(dir, false)
	if err != nil {
		return nil, err
	}
	i.setOwner(old.mode(), old.uid(), old.gid())
	switch old.kind() {
	case typeSymlink:
		t, err := fs.linkTarget(old)
		if err != nil {
			return nil, err
		}
		if err := fs.setTarget(i, t); err != nil {
			return nil, err
		}
	case typeChar, typeBlock:
		i.setRdev(old.rdev())
	}
	return i, fs.copyMeta(old, i)
}

// copyMeta gives an inode another's mode, owner, modification time and attributes.
func (fs *FS) copyMeta(old, i *inode) error {
	i.setOwner(i.kind()|old.mode()&^typeMask, old.uid(), old.gid())
	i.setTime(stampMtime, old.when(stampMtime))
	list, err := fs.xattrs(old)
	if err != nil {
		return err
	}
	return fs.storeXattrs(i, list) // in place of what it inherited
}

// copier copies one tree.
type copier struct {
	fs    *FS
	ctx   context.Context
	links map[uint32]uint32 // inodes with several names to their copies
	dirs  map[uint32]bool   // directories that were entered: each has one name
}

// content copies what a file holds, but no holes.
func (c *copier) content(src, dst *File) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	info, err := src.Stat()
	if err != nil {
		return err
	}
	for off := int64(0); ; {
		start, end, err := src.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for off = start; off < end; {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			n, err := src.ReadAt((*buf)[:min(chunk, end-off)], off)
			if err != nil && err != io.EOF {
				return err
			}
			if n == 0 {
				break
			}
			if _, err := dst.WriteAt((*buf)[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		off = end
	}
	return dst.Truncate(info.Size)
}

// copyTree copies a directory to a place in lost+found, and then moves it.
func (fs *FS) copyTree(ctx context.Context, from, to string) error {
	c := copier{fs: fs, ctx: ctx, links: map[uint32]uint32{}, dirs: map[uint32]bool{}}
	var src *inode
	var top, trash uint32
	var name string // in lost+found
	_, err := fs.update(func() error {
		old, err := fs.resolve(from, false)
		if err != nil {
			return err
		}
		t, err := fs.trash()
		if err != nil {
			return err
		}
		if name, err = fs.trashName(t, trashUnplaced, old.num); err != nil {
			return err
		}
		i, err := fs.create(t, name, typeDir|0o700, nil)
		if err != nil {
			return err
		}
		src, top, trash = old, i.num, t.num
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.children(src, top, trash, 0); err != nil {
		return errors.Join(err, fs.RemoveAll(context.WithoutCancel(ctx), trashDir+"/"+name))
	}
	seq, err := fs.update(func() error {
		i, err := fs.inode(top)
		if err != nil {
			return err
		}
		dir, last, err := fs.makeParent(to)
		if err != nil {
			return err
		}
		if err := errors.Join(fs.notBeneath(dir, top), fs.mayAdd(dir, last)); err != nil {
			return err
		}
		t, err := fs.trash()
		if err != nil {
			return err
		}
		if t.num == dir.num {
			t = dir
		}
		_, err = fs.move(t, name, i, dir, last, true)
		return err
	})
	if err != nil {
		return errors.Join(err, fs.RemoveAll(context.WithoutCancel(ctx), trashDir+"/"+name))
	}
	return fs.finish(seq, nil, 0)
}

// children copies what is in a directory, and then what the directory itself is. It
// is known by number and generation: it may be removed meanwhile, and the number used anew.
func (c *copier) children(src *inode, dst, avoid uint32, depth int) error {
	fs := c.fs
	if depth > 4096 {
		return corruptf("directories nested too deep")
	}
	// Otherwise a damaged image could make few blocks a tree without end.
	if c.dirs[src.num] {
		return corruptf("directory %d has several names", src.num)
	}
	c.dirs[src.num] = true
	if src.num != avoid { // the copies themselves are not copied
		d := &Dir{fs: fs, num: src.num, generation: src.generation(), namesOnly: true}
		for {
			list, err := d.Read(256)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			for _, e := range list {
				if err := c.child(src, dst, avoid, e.Name, depth); err != nil {
					return err
				}
			}
		}
	}
	_, err := fs.update(func() error {
		old, err := c.again(src)
		if old == nil || err != nil {
			return err
		}
		i, err := fs.inode(dst)
		if err != nil {
			return err
		}
		if err := fs.copyMeta(old, i); err != nil {
			return err
		}
		return fs.putInode(i)
	})
	return err
}

// again reads an inode anew; nil: it was removed.
func (c *copier) again(i *inode) (*inode, error) {
	now, err := c.fs.rawInode(i.num)
	if err != nil {
		return nil, err
	}
	if now.links() == 0 || now.generation() != i.generation() || now.kind() != i.kind() {
		return nil, nil
	}
	return c.fs.inode(i.num)
}

// child copies one entry of a directory.
func (c *copier) child(src *inode, dst, avoid uint32, name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	fs := c.fs
	var dir *inode
	var made uint32
	from, to := &File{fs: fs}, &File{fs: fs, write: true}
	_, err := fs.update(func() error {
		dir = nil
		parent, err := c.again(src)
		if parent == nil || err != nil {
			return err
		}
		old, err := fs.child(parent, name)
		if errors.Is(err, errNoEntry) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		target, err := fs.inode(dst)
		if err != nil {
			return err
		}
		if old.isDir() {
			i, err := fs.create(target, name, typeDir|0o700, nil)
			if err == nil {
				dir, made = old, i.num
			}
			return err
		}
		return c.leaf(target, name, old, from, to)
	})
	switch {
	case err != nil:
		return err
	case dir != nil:
		return c.children(dir, made, avoid, depth+1)
	case from.in != nil:
		return c.file(from, to)
	}
	return nil
}

// leaf copies what is no directory: as another name of its copy, or as a node. The
// content of a file, which it opens, follows.
func (c *copier) leaf(dir *inode, name string, old *inode, from, to *File) error {
	fs := c.fs
	if num := c.links[old.num]; num != 0 {
		i, err := fs.inode(num)
		if err != nil {
			return err
		}
		return fs.link(dir, name, i)
	}
	var i *inode
	var err error
	if old.isRegular() {
		i, err = fs.create(dir, name, typeRegular|0o600, nil)
	} else if i, err = fs.copyNode(dir, old); err == nil {
		err = fs.link(dir, name, i)
	}
	if err != nil {
		return err
	}
	if old.links() > 1 {
		c.links[old.num] = i.num
	}
	if old.isRegular() {
		from.in, to.in = fs.ref(old.num), fs.ref(i.num)
	}
	return nil
}

// file copies the content of an open file to its copy, and closes both.
func (c *copier) file(from, to *File) error {
	fs := c.fs
	defer fs.letGo(from)
	defer fs.letGo(to)
	if err := c.content(from, to); err != nil {
		return err
	}
	return to.locked(func(i *inode) (bool, error) {
		old, err := fs.inode(from.in.num)
		if err != nil {
			return false, err
		}
		return true, fs.copyMeta(old, i)
	})
}

// letGo closes a file without a commit.
func (fs *FS) letGo(f *File) {
	f.closed.Store(true)
	if fs.unref(f.in) {
		_ = fs.reclaim(f.in.num) // what fails here is done by the next who opens the image
	}
}
