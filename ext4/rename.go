package ext4

import "errors"

// Rename moves a file or a tree as rename(2) does. With noReplace the target must not
// be there. EISDIR, ENOTDIR, ENOTEMPTY; EINVAL: a directory into itself, or the root.
func (fs *FS) Rename(from, to string, noReplace bool) error {
	var gone uint32
	seq, err := fs.update(func() (err error) {
		gone, err = fs.rename(from, to, noReplace)
		return err
	})
	return fs.finish(seq, err, gone)
}

func (fs *FS) rename(from, to string, noReplace bool) (gone uint32, err error) {
	fromDir, fromName, err := fs.resolveParent(from)
	if err != nil {
		return 0, err
	}
	i, err := fs.child(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	toDir, toName, err := fs.resolveParent(to)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.notBeneath(toDir, i.num); err != nil {
			return 0, err
		}
	}
	return fs.move(fromDir, fromName, i, toDir, toName, noReplace)
}

// notBeneath refuses a directory that is num or beneath it.
func (fs *FS) notBeneath(dir *inode, num uint32) error {
	for range maxOrphans {
		if dir.num == num {
			return errInvalid
		}
		if dir.num == rootInode {
			return nil
		}
		up, err := fs.parentOf(dir)
		if err != nil {
			return err
		}
		if dir, err = fs.inode(up); err != nil {
			return err
		}
		if !dir.isDir() {
			break
		}
	}
	return corruptf("directory %d is not beneath the root", dir.num)
}

// move gives an inode another name, which may be taken, and takes the old one away.
func (fs *FS) move(fromDir *inode, fromName string, i *inode, toDir *inode, toName string, noReplace bool) (gone uint32, err error) {
	if toDir.num == fromDir.num {
		toDir = fromDir // one copy of the inode
	}
	old, err := fs.child(toDir, toName)
	switch {
	case err == nil && noReplace:
		return 0, errExists
	case err == nil && old.num == i.num:
		return 0, nil
	case err == nil:
		if err := fs.mayReplace(toDir, old, i); err != nil {
			return 0, err
		}
	case !errors.Is(err, errNoEntry):
		return 0, err
	default:
		old = nil
		if err := fs.mayAdd(toDir, toName); err != nil {
			return 0, err
		}
	}
	if gone, err = fs.enterName(toDir, toName, i, old); err != nil {
		return 0, err
	}
	p, err := fs.find(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	if err := fs.removeEntry(fromDir, p); err != nil {
		return 0, err
	}
	if i.isDir() && toDir != fromDir {
		if err := fs.setParent(i, toDir.num); err != nil {
			return 0, err
		}
		if err := errors.Join(fs.addLinks(fromDir, -1), fs.addLinks(toDir, 1)); err != nil {
			return 0, err
		}
	}
	fs.touch(i, stampCtime)
	return gone, errors.Join(fs.putInode(fromDir), fs.putInode(toDir), fs.putInode(i))
}

func (fs *FS) mayReplace(dir, old, by *inode) error {
	switch {
	case old.isDir() && !by.isDir():
		return errIsDir
	case !old.isDir() && by.isDir():
		return errNotDir
	case old.isDir():
		return fs.mayRemoveDir(dir, old)
	}
	return nil
}

// enterName makes a name lead to an inode, in place of old if that is not nil.
func (fs *FS) enterName(dir *inode, name string, i, old *inode) (gone uint32, err error) {
	kind := typeOf(i.mode())
	if old == nil {
		return 0, fs.addEntry(dir, name, i.num, kind)
	}
	p, err := fs.find(dir, name)
	if err != nil {
		return 0, err
	}
	if err := fs.setEntry(dir, p, i.num, kind); err != nil {
		return 0, err
	}
	if old.isDir() {
		if err := fs.addLinks(dir, -1); err != nil {
			return 0, err
		}
	}
	return fs.dropName(old)
}
