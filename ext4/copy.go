package ext4

import (
	"context"
	"errors"
	"io"
	"strings"
)

// Copy copies a file, symbolic link, special file or tree, with mode, owner, modification
// time, extended attributes, holes, and hard links within the tree. A file is replaced as
// a whole, as WriteFile does; a tree appears as a whole, and its target must not exist
// (EEXIST). Missing parents of to are created, 0755. Copying a file onto itself, by any
// name, changes nothing. With noReplace the target must not exist at all. EINVAL: a
// directory into itself, or the root as target; EISDIR: a file onto a directory.
func (fs *FS) Copy(ctx context.Context, from, to string, noReplace bool) error {
	if fs.opts.ReadOnly {
		return ErrReadOnly
	}
	if to == "." {
		return errInvalid
	}
	var kind uint16
	same := false
	err := fs.viewPath(from, false, func(i *inode) (err error) {
		kind = i.fileType()
		same, err = fs.validateCopy(i, from, to, noReplace)
		return err
	})
	if err != nil || same {
		return err
	}
	if kind != typeDir {
		return fs.copyFile(ctx, from, to, kind, noReplace)
	}
	return fs.copyTree(ctx, from, to)
}

// validateCopy returns why a copy is not possible, and whether source and target are one
// file.
func (fs *FS) validateCopy(i *inode, from, to string, noReplace bool) (same bool, err error) {
	old, err := fs.resolvePath(to, false)
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
	case err == nil && i.fileType() == typeSymlink:
		// A link in place of its target would lead to itself.
		if to, err := fs.resolvePath(from, true); err == nil && to.num == old.num {
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
	// The nearest existing parent of the target must not be in the tree.
	for dir := to; ; {
		k := strings.LastIndexByte(dir, '/')
		if k < 0 {
			return false, nil
		}
		dir = dir[:k]
		d, err := fs.resolvePath(dir, true)
		if errors.Is(err, errNoEntry) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !d.isDir() {
			return false, errNotDir
		}
		return false, fs.checkNotBeneath(d, i.num)
	}
}

// copyFile copies a file of the given type, which is no directory. A regular file is copied to an inode without a
// name first, which then replaces the target.
func (fs *FS) copyFile(ctx context.Context, from, to string, kind uint16, noReplace bool) error {
	if kind == typeRegular {
		return fs.copyRegularFile(ctx, from, to, noReplace)
	}
	changed := false
	err := fs.runAndReclaim(func() (uint32, error) {
		old, err := fs.resolvePath(from, false)
		if err != nil {
			return 0, err
		}
		if changed = old.fileType() != kind; changed {
			return 0, nil
		}
		dir, name, there, err := fs.prepareReplace(to, noReplace)
		if err != nil {
			return 0, err
		}
		i, err := fs.copySpecialInode(dir, old)
		if err != nil {
			return 0, err
		}
		return fs.placeInode(dir, name, i, there)
	})
	if err == nil && changed {
		return fs.Copy(ctx, from, to, noReplace) // replaced by another type of file
	}
	return err
}

// copyRegularFile implements copyFile for a regular file.
func (fs *FS) copyRegularFile(ctx context.Context, from, to string, noReplace bool) error {
	src, err := fs.OpenFile(from, OpenFlags{NoFollow: true})
	if err != nil {
		return err
	}
	defer src.Close()
	made, err := fs.openUnnamedFile(to)
	if err != nil {
		return err
	}
	defer made.Close()
	c := copier{fs: fs, ctx: ctx}
	if err := c.copyContent(src, made); err != nil {
		return err
	}
	_, err = fs.placeUnnamedFile(made, to, func(_, i, _ *inode) error { return fs.copyMetadataOf(src, i) }, noReplace)
	return err
}

// copySpecialInode creates a copy of a symbolic link, device, fifo or socket, without a
// name.
func (fs *FS) copySpecialInode(dir, old *inode) (*inode, error) {
	i, err := fs.allocInode(dir, false)
	if err != nil {
		return nil, err
	}
	i.setModeAndOwner(old.mode(), old.uid(), old.gid())
	switch old.fileType() {
	case typeSymlink:
		t, err := fs.readSymlink(old)
		if err != nil {
			return nil, err
		}
		if err := fs.setSymlinkTarget(i, t); err != nil {
			return nil, err
		}
	case typeChar, typeBlock:
		i.setDeviceNumber(old.deviceNumber())
	}
	return i, fs.copyMetadata(old, i)
}

// copyMetadataOf is copyMetadata from an open file.
func (fs *FS) copyMetadataOf(src *File, i *inode) error {
	old, err := fs.readInode(src.openInode.num)
	if err != nil {
		return err
	}
	return fs.copyMetadata(old, i)
}

// copyMetadata copies mode, owner, modification time and extended attributes of old to i.
func (fs *FS) copyMetadata(old, i *inode) error {
	i.setModeAndOwner(i.fileType()|old.mode()&^typeMask, old.uid(), old.gid())
	i.setTime(stampMtime, old.readTime(stampMtime))
	list, err := fs.readXattrs(old)
	if err != nil {
		return err
	}
	return fs.storeXattrs(i, list) // replaces inherited ACLs
}

// copier copies one tree.
type copier struct {
	fs          *FS
	ctx         context.Context
	copiedLinks map[uint32]uint32 // inodes with several names to their copies
	enteredDirs map[uint32]bool   // directories that were entered: each has one name
}

// copyContent copies the data of a file, but not its holes.
func (c *copier) copyContent(src, dst *File) error {
	buf := chunkBuffers.Get().(*[]byte)
	defer chunkBuffers.Put(buf)
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
			n, err := src.ReadAt((*buf)[:min(maxOperationBytes, end-off)], off)
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

// copyTree copies a directory to a place in lost+found, and then moves it to its target.
func (fs *FS) copyTree(ctx context.Context, from, to string) error {
	c := copier{fs: fs, ctx: ctx, copiedLinks: map[uint32]uint32{}, enteredDirs: map[uint32]bool{}}
	var src *inode
	var top, trash uint32
	var name string // in lost+found
	_, err := fs.runOperation(func() error {
		old, err := fs.resolvePath(from, false)
		if err != nil {
			return err
		}
		t, err := fs.trashDirectory()
		if err != nil {
			return err
		}
		if name, err = fs.unusedTrashName(t, trashUnplaced, old.num); err != nil {
			return err
		}
		i, err := fs.createInode(t, name, typeDir|0o700, nil)
		if err != nil {
			return err
		}
		src, top, trash = old, i.num, t.num
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.copyChildren(src, top, trash, 0); err != nil {
		return errors.Join(err, fs.RemoveAll(context.WithoutCancel(ctx), trashDir+"/"+name))
	}
	seq, err := fs.runOperation(func() error {
		i, err := fs.readInode(top)
		if err != nil {
			return err
		}
		dir, last, err := fs.makeMissingParents(to)
		if err != nil {
			return err
		}
		if err := errors.Join(fs.checkNotBeneath(dir, top), fs.checkCanAdd(dir, last)); err != nil {
			return err
		}
		t, err := fs.trashDirectory()
		if err != nil {
			return err
		}
		if t.num == dir.num {
			t = dir
		}
		_, err = fs.moveName(t, name, i, dir, last, true)
		return err
	})
	if err != nil {
		return errors.Join(err, fs.RemoveAll(context.WithoutCancel(ctx), trashDir+"/"+name))
	}
	return fs.reclaimAndCommit(seq, nil, 0)
}

// copyChildren copies the entries of a directory, and then its metadata. The source is
// known by inode number and generation: it may be removed between operations, and its
// number reused.
func (c *copier) copyChildren(src *inode, dst, avoid uint32, depth int) error {
	fs := c.fs
	if depth > 4096 {
		return corruptf("directories are nested too deep")
	}
	// Otherwise a damaged image could make few blocks a tree without end.
	if c.enteredDirs[src.num] {
		return corruptf("directory %d has several names", src.num)
	}
	c.enteredDirs[src.num] = true
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
				if err := c.copyChild(src, dst, avoid, e.Name, depth); err != nil {
					return err
				}
			}
		}
	}
	_, err := fs.runOperation(func() error {
		old, err := c.rereadInode(src)
		if old == nil || err != nil {
			return err
		}
		i, err := fs.readInode(dst)
		if err != nil {
			return err
		}
		if err := fs.copyMetadata(old, i); err != nil {
			return err
		}
		return fs.storeInode(i)
	})
	return err
}

// rereadInode reads an inode again; nil if it was removed.
func (c *copier) rereadInode(i *inode) (*inode, error) {
	now, err := c.fs.readRawInode(i.num)
	if err != nil {
		return nil, err
	}
	if now.linkCount() == 0 || now.generation() != i.generation() || now.fileType() != i.fileType() {
		return nil, nil
	}
	return c.fs.readInode(i.num)
}

// copyChild copies one entry of a directory.
func (c *copier) copyChild(src *inode, dst, avoid uint32, name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	fs := c.fs
	var dir *inode
	var made uint32
	from, to := &File{fs: fs}, &File{fs: fs, write: true}
	_, err := fs.runOperation(func() error {
		dir = nil
		parent, err := c.rereadInode(src)
		if parent == nil || err != nil {
			return err
		}
		old, err := fs.lookupChild(parent, name)
		if errors.Is(err, errNoEntry) {
			return nil // removed since it was listed
		}
		if err != nil {
			return err
		}
		target, err := fs.readInode(dst)
		if err != nil {
			return err
		}
		if old.isDir() {
			i, err := fs.createInode(target, name, typeDir|0o700, nil)
			if err == nil {
				dir, made = old, i.num
			}
			return err
		}
		return c.copyNonDirectory(target, name, old, from, to)
	})
	switch {
	case err != nil:
		return err
	case dir != nil:
		return c.copyChildren(dir, made, avoid, depth+1)
	case from.openInode != nil:
		return c.copyOpenFile(from, to)
	}
	return nil
}

// copyNonDirectory copies anything but a directory: as a hard link to an earlier copy of
// the same inode, or as a new inode. For a regular file it only opens source and copy.
func (c *copier) copyNonDirectory(dir *inode, name string, old *inode, from, to *File) error {
	fs := c.fs
	if num := c.copiedLinks[old.num]; num != 0 {
		i, err := fs.readInode(num)
		if err != nil {
			return err
		}
		return fs.linkInode(dir, name, i)
	}
	var i *inode
	var err error
	if old.isRegular() {
		i, err = fs.createInode(dir, name, typeRegular|0o600, nil)
	} else if i, err = fs.copySpecialInode(dir, old); err == nil {
		err = fs.linkInode(dir, name, i)
	}
	if err != nil {
		return err
	}
	if old.linkCount() > 1 {
		c.copiedLinks[old.num] = i.num
	}
	if old.isRegular() {
		from.openInode, to.openInode = fs.acquireInode(old.num), fs.acquireInode(i.num)
	}
	return nil
}

// copyOpenFile copies content and metadata of an open file to its open copy, and closes
// both.
func (c *copier) copyOpenFile(from, to *File) error {
	fs := c.fs
	defer fs.closeWithoutCommit(from)
	defer fs.closeWithoutCommit(to)
	if err := c.copyContent(from, to); err != nil {
		return err
	}
	return to.modifyInStepsLocked(func(i *inode) (bool, error) { return true, fs.copyMetadataOf(from, i) })
}

// closeWithoutCommit closes a file without making it durable.
func (fs *FS) closeWithoutCommit(f *File) {
	f.closed.Store(true)
	if fs.releaseInode(f.openInode) {
		_ = fs.reclaimInode(f.openInode.num) // after a failure the next open does it: the inode is an orphan
	}
}
