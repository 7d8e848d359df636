package ext4

import "errors"

// Rename moves a file or a tree, as rename(2) does. With noReplace the target must not
// exist. EISDIR, ENOTDIR, ENOTEMPTY; EINVAL: a directory into itself, or the root.
func (fs *FS) Rename(from, to string, noReplace bool) error {
	return fs.runAndReclaim(func() (uint32, error) { return fs.rename(from, to, noReplace) })
}

// rename is Rename within an operation.
func (fs *FS) rename(from, to string, noReplace bool) (gone uint32, err error) {
	fromDir, fromName, err := fs.resolveParent(from)
	if err != nil {
		return 0, err
	}
	i, err := fs.lookupChild(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	toDir, toName, err := fs.resolveParent(to)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.checkNotBeneath(toDir, i.num); err != nil {
			return 0, err
		}
	}
	return fs.moveName(fromDir, fromName, i, toDir, toName, noReplace)
}

// checkNotBeneath returns EINVAL for a directory that is num, or beneath it.
func (fs *FS) checkNotBeneath(dir *inode, num uint32) error {
	for range maxOrphans {
		if dir.num == num {
			return errInvalid
		}
		if dir.num == rootInode {
			return nil
		}
		up, err := fs.parentInode(dir)
		if err != nil {
			return err
		}
		if dir, err = fs.readInode(up); err != nil {
			return err
		}
		if !dir.isDir() {
			break
		}
	}
	return corruptf("directory %d is not beneath the root", dir.num)
}

// moveName gives an inode a new name, which may replace another, and removes the old name.
func (fs *FS) moveName(fromDir *inode, fromName string, i *inode, toDir *inode, toName string, noReplace bool) (gone uint32, err error) {
	if toDir.num == fromDir.num {
		toDir = fromDir // one copy of the inode
	}
	old, err := fs.lookupChild(toDir, toName)
	switch {
	case err == nil && noReplace:
		return 0, errExists
	case err == nil && old.num == i.num:
		return 0, nil
	case err == nil:
		if err := fs.checkCanReplace(toDir, old, i); err != nil {
			return 0, err
		}
	case !errors.Is(err, errNoEntry):
		return 0, err
	default:
		old = nil
		if err := fs.checkCanAdd(toDir, toName); err != nil {
			return 0, err
		}
	}
	if gone, err = fs.addOrRetargetEntry(toDir, toName, i, old); err != nil {
		return 0, err
	}
	// The old entry is looked up only now: adding the new one may have moved it.
	p, err := fs.findEntry(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	if err := fs.removeEntry(fromDir, p); err != nil {
		return 0, err
	}
	// The entry ".." of a directory counts as a link of its parent.
	if i.isDir() && toDir != fromDir {
		if err := fs.setParentEntry(i, toDir.num); err != nil {
			return 0, err
		}
		if err := errors.Join(fs.changeLinkCount(fromDir, -1), fs.changeLinkCount(toDir, 1)); err != nil {
			return 0, err
		}
	}
	fs.setTimesToNow(i, stampCtime)
	return gone, errors.Join(fs.storeInode(fromDir), fs.storeInode(toDir), fs.storeInode(i))
}

// checkCanReplace checks that the file old can be replaced by another in a rename.
func (fs *FS) checkCanReplace(dir, old, by *inode) error {
	switch {
	case old.isDir() && !by.isDir():
		return errIsDir
	case !old.isDir() && by.isDir():
		return errNotDir
	case old.isDir():
		return fs.checkCanRemoveDir(dir, old)
	}
	return nil
}

// addOrRetargetEntry makes a name lead to inode i, in place of old if that is not nil.
func (fs *FS) addOrRetargetEntry(dir *inode, name string, i, old *inode) (gone uint32, err error) {
	kind := entryTypeOf(i.mode())
	if old == nil {
		return 0, fs.addEntry(dir, name, i.num, kind)
	}
	p, err := fs.findEntry(dir, name)
	if err != nil {
		return 0, err
	}
	if err := fs.retargetEntry(dir, p, i.num, kind); err != nil {
		return 0, err
	}
	if old.isDir() {
		if err := fs.changeLinkCount(dir, -1); err != nil {
			return 0, err
		}
	}
	return fs.dropLink(old)
}
