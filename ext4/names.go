package ext4

import (
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
)

// create makes an inode of the given mode in a directory, and stores both. Fill, if
// not nil, completes the new inode first.
func (fs *FS) create(dir *inode, name string, mode uint16, fill func(*inode) error) (*inode, error) {
	if err := fs.mayAdd(dir, name); err != nil {
		return nil, err
	}
	i, err := fs.makeInode(dir, mode)
	if err != nil {
		return nil, err
	}
	if fill != nil {
		if err := fill(i); err != nil {
			return nil, err
		}
	}
	links := 1
	if i.isDir() {
		links = 2
		if err := fs.addLinks(dir, 1); err != nil {
			return nil, err
		}
	}
	if err := fs.addLinks(i, links); err != nil {
		return nil, err
	}
	if err := fs.addEntry(dir, name, i.num, typeOf(mode)); err != nil {
		return nil, err
	}
	if err := fs.putInode(dir); err != nil {
		return nil, err
	}
	return i, fs.putInode(i)
}

// mayAdd checks that a name can be added to a directory.
func (fs *FS) mayAdd(dir *inode, name string) error {
	if !dir.isDir() {
		return errNotDir
	}
	_, err := fs.find(dir, name)
	switch {
	case err == nil:
		return errExists
	case !errors.Is(err, errNoEntry):
		return err
	case dir.links() == 0:
		return errNoEntry // it was removed
	}
	return nil
}

// makeInode makes an inode without a name for a directory.
func (fs *FS) makeInode(dir *inode, mode uint16) (*inode, error) {
	isDir := mode&typeMask == typeDir
	i, err := fs.newInode(dir, isDir)
	if err != nil {
		return nil, err
	}
	if isDir {
		mode |= dir.mode() & 0o2000
	}
	i.setOwner(mode, fs.opts.UID, fs.gidIn(dir))
	switch mode & typeMask {
	case typeRegular:
		initExtNode(i.area(), 0, 0)
		le.PutUint32(i.raw[inFlags:], flagExtents)
	case typeDir:
		if err := fs.initDir(i, dir.num); err != nil {
			return nil, err
		}
	}
	return i, fs.inheritACL(dir, i)
}

// gidIn returns the group of what is made in a directory.
func (fs *FS) gidIn(dir *inode) uint32 {
	if dir.mode()&0o2000 != 0 {
		return dir.gid()
	}
	return fs.opts.GID
}

// Mkdir makes a directory with these permission bits, or what the default access
// list of its parent leaves of them. EEXIST.
func (fs *FS) Mkdir(path string, mode iofs.FileMode) error {
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, typeDir|permBits(mode), nil)
		return err
	})
}

// parentFor is resolveParent for a path that is to be made: the root is there.
func (fs *FS) parentFor(path string) (*inode, string, error) {
	if path == "." {
		return nil, "", errExists
	}
	return fs.resolveParent(path)
}

// MkdirAll makes a directory and its missing parents, with these permission bits.
func (fs *FS) MkdirAll(path string, mode iofs.FileMode) error {
	var seq uint64
	for done := false; !done; {
		var err error
		seq, err = fs.update(func() (err error) {
			done, err = fs.mkdirAll(path, mode, false)
			return err
		})
		if err != nil {
			return err
		}
	}
	return fs.finish(seq, nil, 0)
}

// mkdirAll makes all of a path or, unless whole, as much as one operation may, and
// reports whether that was all.
func (fs *FS) mkdirAll(path string, mode iofs.FileMode, whole bool) (done bool, err error) {
	w, _, err := fs.startWalk(".")
	if err != nil {
		return false, err
	}
	if !validBytes(path) {
		return false, errInvalid
	}
	for el := range strings.SplitSeq(path, "/") {
		_, err := fs.find(w.here(), el)
		switch {
		case err == nil:
			err = w.step(el)
		case errors.Is(err, errNoEntry):
			if !whole && fs.opFull() {
				return false, nil
			}
			var i *inode
			i, err = fs.create(w.own(), el, typeDir|permBits(mode), nil)
			w.dirs = append(w.dirs, i)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// Symlink makes a symbolic link that says target. EEXIST; ENAMETOOLONG: more than 4095 bytes.
func (fs *FS) Symlink(target, path string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return errInvalid
	}
	if len(target) > maxSymlinkLen || int64(len(target)) >= fs.sb.blockSize {
		return errNameLong
	}
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, typeSymlink|0o777, func(i *inode) error { return fs.setTarget(i, target) })
		return err
	})
}

func (fs *FS) setTarget(i *inode, target string) error {
	fs.setSize(i, int64(len(target)))
	if len(target) < blockAreaLen {
		copy(i.area(), target)
		return nil
	}
	initExtNode(i.area(), 0, 0)
	le.PutUint32(i.raw[inFlags:], i.flags()|flagExtents)
	r, err := fs.alloc(fs.goalFor(i, 0), 1)
	if err != nil {
		return err
	}
	copy(fs.fresh(r.start), target)
	fs.addBlocks(i, 1)
	return fs.insertExtent(i, extent{n: 1, start: r.start})
}

// Readlink returns what a symbolic link says. EINVAL: it is none.
func (fs *FS) Readlink(path string) (target string, err error) {
	err = fs.view(path, false, func(i *inode) error {
		if i.kind() != typeSymlink {
			return errInvalid
		}
		target, err = fs.linkTarget(i)
		return err
	})
	return target, err
}

// Mknod makes the fifo, socket or device that the type bits of mode say; rdev is as
// makedev(3) makes it. EEXIST; EINVAL: another type.
func (fs *FS) Mknod(path string, mode iofs.FileMode, rdev uint64) error {
	var kind uint16
	switch mode.Type() {
	case iofs.ModeNamedPipe:
		kind = typeFifo
	case iofs.ModeSocket:
		kind = typeSocket
	case iofs.ModeDevice:
		kind = typeBlock
	case iofs.ModeDevice | iofs.ModeCharDevice:
		kind = typeChar
	default:
		return errInvalid
	}
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, kind|permBits(mode), func(i *inode) error {
			if kind == typeBlock || kind == typeChar {
				i.setRdev(rdev)
			}
			return nil
		})
		return err
	})
}

// Link makes path another name of the file at target, which is not followed. EEXIST;
// EPERM: target is a directory; EMLINK: it has 65000 names.
func (fs *FS) Link(target, path string) error {
	return fs.change(func() error {
		i, err := fs.resolve(target, false)
		if err != nil {
			return err
		}
		if i.isDir() {
			return errPerm
		}
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		if err := fs.mayAdd(dir, name); err != nil {
			return err
		}
		return fs.link(dir, name, i)
	})
}

// link gives an inode a name that is not taken, and stores both.
func (fs *FS) link(dir *inode, name string, i *inode) error {
	if err := fs.addLinks(i, 1); err != nil {
		return err
	}
	fs.touch(i, stampCtime)
	if err := fs.addEntry(dir, name, i.num, typeOf(i.mode())); err != nil {
		return err
	}
	if err := fs.putInode(dir); err != nil {
		return err
	}
	return fs.putInode(i)
}

// Remove removes a file, link, node or empty directory. ENOTEMPTY; EINVAL: the root.
func (fs *FS) Remove(path string) error {
	var gone uint32
	seq, err := fs.update(func() error {
		dir, name, err := fs.resolveParent(path)
		if err != nil {
			return err
		}
		gone, err = fs.unlink(dir, name)
		return err
	})
	return fs.finish(seq, err, gone)
}

// finish reclaims an inode that an operation left without a name, if nothing has it
// open, and makes the operation durable.
func (fs *FS) finish(seq uint64, err error, gone uint32) error {
	if err != nil {
		return err
	}
	if gone != 0 {
		if err := fs.reclaim(gone); err != nil {
			return err
		}
	}
	if fs.opts.Batch {
		return nil
	}
	return fs.commit(seq)
}

// unlink removes a name, and stores what it changes. It returns the inode that now
// has no name, which is in the list of orphans; 0: it has others, or is gone already.
func (fs *FS) unlink(dir *inode, name string) (gone uint32, err error) {
	if !dir.isDir() {
		return 0, errNotDir
	}
	p, err := fs.find(dir, name)
	if err != nil {
		return 0, err
	}
	i, err := fs.child(dir, name)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.mayRemoveDir(dir, i); err != nil {
			return 0, err
		}
	}
	if err := fs.removeEntry(dir, p); err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.addLinks(dir, -1); err != nil {
			return 0, err
		}
	}
	if err := fs.putInode(dir); err != nil {
		return 0, err
	}
	return fs.dropName(i)
}

func (fs *FS) mayRemoveDir(dir, i *inode) error {
	if i.num == rootInode || i.num == dir.num {
		return corruptf("directory %d holds itself", i.num)
	}
	empty, err := fs.isEmpty(i)
	if err == nil && !empty {
		err = errNotEmpty
	}
	return err
}

// dropName takes a link from an inode; see unlink.
func (fs *FS) dropName(i *inode) (gone uint32, err error) {
	n := uint16(0)
	if !i.isDir() && i.links() > 0 {
		n = i.links() - 1
	}
	le.PutUint16(i.raw[inLinks:], n)
	fs.touch(i, stampCtime)
	if n > 0 {
		return 0, fs.putInode(i)
	}
	if slices.Contains(fs.orphans, i.num) {
		return i.num, fs.putInode(i) // it is being truncated
	}
	// What is small and not in use goes in the same operation.
	if fs.inodes[i.num] == nil && (!fs.ownsBlocks(i) || i.has(flagExtents) && extNode(i.area()).depth() == 0) {
		done, err := fs.reclaimSome(i)
		if err != nil || done {
			return 0, err
		}
	}
	fs.addOrphan(i)
	return i.num, fs.putInode(i)
}
