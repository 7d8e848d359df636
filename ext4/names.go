package ext4

import (
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
)

// createInode creates an inode with the given mode in a directory, and stores both. fill,
// if not nil, completes the new inode first.
func (fs *FS) createInode(dir *inode, name string, mode uint16, fill func(*inode) error) (*inode, error) {
	if err := fs.checkCanAdd(dir, name); err != nil {
		return nil, err
	}
	child, err := fs.newUnnamedInode(dir, mode)
	if err != nil {
		return nil, err
	}
	if fill != nil {
		if err := fill(child); err != nil {
			return nil, err
		}
	}
	links := 1
	if child.isDir() {
		links = 2
		if err := fs.changeLinkCount(dir, 1); err != nil {
			return nil, err
		}
	}
	if err := fs.changeLinkCount(child, links); err != nil {
		return nil, err
	}
	if err := fs.addEntry(dir, name, child.num, entryTypeOf(mode)); err != nil {
		return nil, err
	}
	return child, errors.Join(fs.storeInode(dir), fs.storeInode(child))
}

// checkCanAdd checks that a name can be added to a directory. ENOTDIR; EEXIST; ENOENT: the
// directory was removed.
func (fs *FS) checkCanAdd(dir *inode, name string) error {
	if !dir.isDir() {
		return errNotDir
	}
	_, err := fs.findEntry(dir, name)
	switch {
	case err == nil:
		return errExists
	case !errors.Is(err, errNoEntry):
		return err
	case dir.linkCount() == 0:
		return errNoEntry // it was removed
	}
	return nil
}

// newUnnamedInode allocates an inode to be named in a directory, whose group and default
// access list it may inherit. The caller links and stores it.
func (fs *FS) newUnnamedInode(dir *inode, mode uint16) (*inode, error) {
	isDir := mode&typeMask == typeDir
	i, err := fs.allocInode(dir, isDir)
	if err != nil {
		return nil, err
	}
	if isDir {
		mode |= dir.mode() & 0o2000
	}
	i.setModeAndOwner(mode, fs.opts.UID, fs.groupForChild(dir))
	switch mode & typeMask {
	case typeRegular:
		initExtentNode(i.blockArea(), 0, 0)
		le.PutUint32(i.raw[inFlags:], flagExtents)
	case typeDir:
		if err := fs.initDirectory(i, dir.num); err != nil {
			return nil, err
		}
	}
	return i, fs.inheritDefaultACL(dir, i)
}

// groupForChild returns the group of new files in a directory.
func (fs *FS) groupForChild(dir *inode) uint32 {
	if dir.mode()&0o2000 != 0 {
		return dir.gid()
	}
	return fs.opts.GID
}

// Mkdir creates a directory with the given permission bits, limited by the default access
// list of its parent. EEXIST.
func (fs *FS) Mkdir(path string, mode iofs.FileMode) error {
	return fs.createAtPath(path, typeDir|permBitsOf(mode), nil)
}

// createAtPath runs createInode as an operation. EEXIST.
func (fs *FS) createAtPath(path string, mode uint16, fill func(*inode) error) error {
	return fs.runDurably(func() error {
		dir, name, err := fs.resolveNewParent(path)
		if err != nil {
			return err
		}
		_, err = fs.createInode(dir, name, mode, fill)
		return err
	})
}

// resolveNewParent is resolveParent for a path to be created. EEXIST for the root.
func (fs *FS) resolveNewParent(path string) (*inode, string, error) {
	if path == "." {
		return nil, "", errExists
	}
	return fs.resolveParent(path)
}

// MkdirAll creates a directory and its missing parents with the given permission bits.
func (fs *FS) MkdirAll(path string, mode iofs.FileMode) error {
	var seq uint64
	for done := false; !done; {
		var err error
		seq, err = fs.runOperation(func() (err error) {
			done, err = fs.makeDirectories(path, mode, false)
			return err
		})
		if err != nil {
			return err
		}
	}
	return fs.reclaimAndCommit(seq, nil, 0)
}

// makeDirectories creates the missing directories of a path: all of them if whole,
// otherwise as many as one operation may. It reports whether the path is complete.
func (fs *FS) makeDirectories(path string, mode iofs.FileMode, whole bool) (done bool, err error) {
	w, _, err := fs.startWalk(".")
	if err != nil {
		return false, err
	}
	if !validBytePath(path) {
		return false, errInvalid
	}
	for el := range strings.SplitSeq(path, "/") {
		_, err := fs.findEntry(w.currentDir(), el)
		switch {
		case err == nil:
			err = w.enterElement(el)
		case errors.Is(err, errNoEntry):
			if !whole && fs.operationFull() {
				return false, nil
			}
			var i *inode
			i, err = fs.createInode(w.ownCurrentDir(), el, typeDir|permBitsOf(mode), nil)
			w.dirs = append(w.dirs, i)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// Symlink creates a symbolic link to target. EEXIST; ENAMETOOLONG: more than 4095 bytes.
func (fs *FS) Symlink(target, path string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return errInvalid
	}
	if len(target) > maxSymlinkLen || int64(len(target)) >= fs.sb.blockSize {
		return errNameLong
	}
	return fs.createAtPath(path, typeSymlink|0o777, func(i *inode) error { return fs.setSymlinkTarget(i, target) })
}

// setSymlinkTarget stores the target of a new symbolic link: in the inode if it is short.
func (fs *FS) setSymlinkTarget(i *inode, target string) error {
	fs.setFileSize(i, int64(len(target)))
	if len(target) < blockAreaLen {
		copy(i.blockArea(), target)
		return nil
	}
	initExtentNode(i.blockArea(), 0, 0)
	le.PutUint32(i.raw[inFlags:], i.flags()|flagExtents)
	r, err := fs.allocBlocks(fs.chooseBlockGoal(i, 0), 1)
	if err != nil {
		return err
	}
	copy(fs.createZeroedBlock(r.start), target)
	fs.changeBlockCount(i, 1)
	return fs.insertExtent(i, extent{n: 1, start: r.start})
}

// Readlink returns the target of a symbolic link. EINVAL: it is something else.
func (fs *FS) Readlink(path string) (target string, err error) {
	err = fs.viewPath(path, false, func(i *inode) error {
		if i.fileType() != typeSymlink {
			return errInvalid
		}
		target, err = fs.readSymlink(i)
		return err
	})
	return target, err
}

// Mknod creates the fifo, socket or device that the type bits of mode name; rdev is a
// device number as makedev(3) makes it. EEXIST; EINVAL: another type.
func (fs *FS) Mknod(path string, mode iofs.FileMode, rdev uint64) error {
	kinds := []uint16{typeFifo, typeSocket, typeBlock, typeChar}
	k := slices.IndexFunc(kinds, func(kind uint16) bool { return fileModeOf(kind) == mode.Type() })
	if k < 0 {
		return errInvalid
	}
	kind := kinds[k]
	return fs.createAtPath(path, kind|permBitsOf(mode), func(i *inode) error {
		if kind == typeBlock || kind == typeChar {
			i.setDeviceNumber(rdev)
		}
		return nil
	})
}

// Link makes path another name of the file at target; a symbolic link there is not
// followed. EEXIST; EPERM: target is a directory; EMLINK: it has 65000 names.
func (fs *FS) Link(target, path string) error {
	return fs.runDurably(func() error {
		i, err := fs.resolvePath(target, false)
		if err != nil {
			return err
		}
		if i.isDir() {
			return errPerm
		}
		dir, name, err := fs.resolveNewParent(path)
		if err != nil {
			return err
		}
		if err := fs.checkCanAdd(dir, name); err != nil {
			return err
		}
		return fs.linkInode(dir, name, i)
	})
}

// linkInode gives an inode a name that does not exist yet, and stores both.
func (fs *FS) linkInode(dir *inode, name string, i *inode) error {
	if err := fs.changeLinkCount(i, 1); err != nil {
		return err
	}
	fs.setTimesToNow(i, stampCtime)
	if err := fs.addEntry(dir, name, i.num, entryTypeOf(i.mode())); err != nil {
		return err
	}
	return errors.Join(fs.storeInode(dir), fs.storeInode(i))
}

// Remove removes a file, symbolic link, special file or empty directory. ENOTEMPTY;
// EINVAL: the root.
func (fs *FS) Remove(path string) error {
	return fs.runAndReclaim(func() (uint32, error) {
		dir, name, err := fs.resolveParent(path)
		if err != nil {
			return 0, err
		}
		return fs.unlinkName(dir, name)
	})
}

// runAndReclaim runs f as one operation, reclaims the inode gone, which lost its last name
// in it, and commits unless in batch mode.
func (fs *FS) runAndReclaim(f func() (gone uint32, err error)) error {
	var gone uint32
	seq, err := fs.runOperation(func() (err error) {
		gone, err = f()
		return err
	})
	return fs.reclaimAndCommit(seq, err, gone)
}

// reclaimAndCommit ends a call that ran an operation: it reclaims the inode that lost its
// last name, if it is not open, and commits unless in batch mode.
func (fs *FS) reclaimAndCommit(seq uint64, err error, gone uint32) error {
	if err != nil {
		return err
	}
	if gone != 0 {
		if err := fs.reclaimInode(gone); err != nil {
			return err
		}
	}
	if fs.opts.Batch {
		return nil
	}
	return fs.commitUpTo(seq)
}

// unlinkName removes a name and stores all that this changes. It returns the inode that
// lost its last name, which is in the orphan list; 0: it has other names, or is freed
// already.
func (fs *FS) unlinkName(dir *inode, name string) (gone uint32, err error) {
	if !dir.isDir() {
		return 0, errNotDir
	}
	p, err := fs.findEntry(dir, name)
	if err != nil {
		return 0, err
	}
	i, err := fs.lookupChild(dir, name)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.checkCanRemoveDir(dir, i); err != nil {
			return 0, err
		}
	}
	if err := fs.removeEntry(dir, p); err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.changeLinkCount(dir, -1); err != nil {
			return 0, err
		}
	}
	if err := fs.storeInode(dir); err != nil {
		return 0, err
	}
	return fs.dropLink(i)
}

// checkCanRemoveDir checks that directory i in dir is empty.
func (fs *FS) checkCanRemoveDir(dir, i *inode) error {
	if i.num == rootInode || i.num == dir.num {
		return corruptf("directory %d contains itself, or the root", i.num)
	}
	empty, err := fs.isEmptyDir(i)
	if err == nil && !empty {
		err = errNotEmpty
	}
	return err
}

// dropLink takes a link from an inode. See unlinkName for what it returns.
func (fs *FS) dropLink(i *inode) (gone uint32, err error) {
	links := uint16(0)
	if !i.isDir() && i.linkCount() > 0 {
		links = i.linkCount() - 1
	}
	le.PutUint16(i.raw[inLinks:], links)
	fs.setTimesToNow(i, stampCtime)
	if links > 0 {
		return 0, fs.storeInode(i)
	}
	if slices.Contains(fs.orphans, i.num) {
		return i.num, fs.storeInode(i) // it is being truncated
	}
	// A small inode that is not open is freed in the same operation.
	if fs.openInodes[i.num] == nil && (!fs.mapsBlocks(i) || i.hasFlag(flagExtents) && extentNode(i.blockArea()).treeDepth() == 0) {
		done, err := fs.reclaimStep(i)
		if err != nil || done {
			return 0, err
		}
	}
	fs.addOrphan(i)
	return i.num, fs.storeInode(i)
}
